//! Many names in few words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::labels::Str;

use crate::model::{Unit, Units};

/// How many names are written out before the rest is counted.
const SHOWN: usize = 6;

/// Knows everyone, so that whole namespaces and everyone have a word.
pub(crate) struct Names {
    all: BTreeMap<Str, BTreeSet<Arc<str>>>,
    wide: bool,
}

impl Names {
    pub(crate) fn new(everyone: &Units, wide: bool) -> Self {
        let mut all: BTreeMap<Str, BTreeSet<Arc<str>>> = BTreeMap::new();
        for unit in everyone.of_class.iter().flatten() {
            all.entry(unit.namespace.clone()).or_default().insert(unit.name.clone());
        }
        Self { all, wide }
    }

    /// Whether these are all that there are.
    pub(crate) fn is_everyone(&self, units: &BTreeSet<&Unit>) -> bool {
        let known = |unit: &&Unit| {
            self.all.get(&unit.namespace).is_some_and(|names| names.contains(&unit.name))
        };
        units.len() == self.all.values().map(BTreeSet::len).sum::<usize>()
            && units.iter().all(known)
    }

    /// `everyone`, `shop/*`, or names; without `-o wide` the first few of them.
    pub(crate) fn of(&self, units: &BTreeSet<&Unit>) -> String {
        if self.is_everyone(units) && !self.wide {
            return "every pod".to_owned();
        }
        let mut by_namespace: BTreeMap<&Str, Vec<&Arc<str>>> = BTreeMap::new();
        for unit in units {
            by_namespace.entry(&unit.namespace).or_default().push(&unit.name);
        }
        let mut words: Vec<String> = Vec::new();
        for (namespace, names) in by_namespace {
            let whole = self.all.get(namespace).is_some_and(|all| all.len() == names.len());
            if whole && names.len() > 1 && !self.wide {
                words.push(format!("{namespace}/*"));
            } else {
                words.extend(names.into_iter().map(|name| short(name)));
            }
        }
        let more = words.len().saturating_sub(SHOWN + 1);
        if more > 0 && !self.wide {
            words.truncate(words.len() - more);
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }
}

/// A reference without the kind where that is a pod: what `check` takes.
pub(crate) fn short(name: &str) -> String {
    name.replacen("/pod/", "/", 1)
}
