//! Shortens lists of many names.

use std::collections::BTreeSet;
use std::iter;

use policy_engine::reach::IdSet;

use crate::model::{Unit, Units};

/// How many names are written out before the rest is counted.
const SHOWN: usize = 6;

/// The word for all units.
const EVERYONE: &str = "every pod";

/// Finds short words for whole namespaces and for all pods.
pub(crate) struct Names<'u> {
    /// All units in order; those of a namespace follow each other.
    all: Vec<&'u Unit>,
    /// By unit: the number of its namespace.
    namespace: Vec<usize>,
    /// By namespace: how many units it has.
    sizes: Vec<usize>,
    of_class: Vec<Vec<usize>>,
    wide: bool,
}

impl<'u> Names<'u> {
    pub(crate) fn new(everyone: &'u Units, wide: bool) -> Self {
        let mut all: Vec<&Unit> = everyone.of_class.iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        let each = all.chunk_by(|one, next| one.namespace == next.namespace);
        let sizes: Vec<usize> = each.map(<[_]>::len).collect();
        let numbered = sizes.iter().enumerate();
        let namespace = numbered.flat_map(|(number, size)| iter::repeat_n(number, *size)).collect();
        let number = |unit: &Unit| all.binary_search(&unit).ok();
        let of_class = everyone.of_class.iter();
        let of_class = of_class.map(|units| units.iter().filter_map(number).collect()).collect();
        Self { all, namespace, sizes, of_class, wide }
    }

    /// The names of all units of some classes.
    pub(crate) fn of_classes(&self, classes: &IdSet) -> String {
        if !self.wide && classes.len() == self.of_class.len() {
            return EVERYONE.to_owned();
        }
        let mut units: Vec<usize> = Vec::with_capacity(self.all.len());
        for units_of_class in classes.iter().filter_map(|class| self.of_class.get(class)) {
            units.extend_from_slice(units_of_class);
        }
        if !units.is_sorted_by(|one, next| one < next) {
            units.sort_unstable();
            units.dedup();
        }
        self.words(&units, Vec::new())
    }

    /// `every pod`, `shop/*`, or names; without `-o wide` the first few of them.
    pub(crate) fn of(&self, units: &BTreeSet<&Unit>) -> String {
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for unit in units {
            match self.all.binary_search(unit) {
                Ok(number) => known.push(number),
                Err(_) => others.push(short(&unit.name)),
            }
        }
        self.words(&known, others)
    }

    /// The names of units, ascending, after some words.
    fn words(&self, units: &[usize], mut words: Vec<String>) -> String {
        if self.wide {
            words.extend(units.iter().map(|unit| short(&self.all[*unit].name)));
            return words.join(", ");
        }
        if words.is_empty() && units.len() == self.all.len() {
            return EVERYONE.to_owned();
        }
        let mut count = words.len();
        let together = units.chunk_by(|one, next| self.namespace[*one] == self.namespace[*next]);
        for units in together {
            let Some(first) = units.first() else { continue };
            let whole = units.len() == self.sizes[self.namespace[*first]] && units.len() > 1;
            count += if whole { 1 } else { units.len() };
            let room = (SHOWN + 1).saturating_sub(words.len());
            if whole && room > 0 {
                words.push(format!("{}/*", self.all[*first].namespace));
            } else {
                words.extend(units.iter().take(room).map(|unit| short(&self.all[*unit].name)));
            }
        }
        words.truncate(SHOWN + 1);
        let more = count - words.len();
        if more > 0 {
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }
}

/// A long name without its middle: its end identifies it as well as its beginning.
pub(crate) fn middle(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let half = most.saturating_sub(1) / 2;
    let (begin, end) = (text.chars().take(half), text.chars().skip(count - half));
    begin.chain(['…']).chain(end).collect()
}

/// A reference without the kind `pod`, which `check` can read.
pub(crate) fn short(name: &str) -> String {
    name.replacen("/pod/", "/", 1)
}
