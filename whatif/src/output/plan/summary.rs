//! A large plan in few lines: how many connections change between each two namespaces, the most first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::reach::GroupId;
use policy_engine::words::few;

use super::{Counts, Effect, Plan, cause, is_incoming};

/// How many pairs of namespaces are shown.
const PAIRS_SHOWN: usize = 20;

/// How many causes of a pair are shown.
const CAUSES_SHOWN: usize = 2;

/// Source and destination, as namespaces or external addresses.
type Ends = (Arc<str>, Arc<str>);

/// What changes between two namespaces.
#[derive(Default)]
struct Changes {
    counts: Counts,
    causes: BTreeSet<usize>,
}

/// Writes how many connections change between namespaces.
pub(super) fn write(plan: &Plan<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut found: Vec<(Ends, Changes)> = between_namespaces(plan).into_iter().collect();
    found.sort_by_key(|(_, changes)| Reverse(changes.counts.total()));
    writeln!(out)?;
    for ((from, to), Changes { counts, causes }) in found.iter().take(PAIRS_SHOWN) {
        writeln!(out, "{from} to {to}: {}", counts.words())?;
        let objects = causes.iter().filter_map(|number| plan.objects.get(*number)).map(cause);
        writeln!(out, "  because of {}", few(objects, CAUSES_SHOWN))?;
    }
    let more = found.len().saturating_sub(PAIRS_SHOWN);
    if more > 0 {
        writeln!(out, "… and {more} more pairs of namespaces")?;
    }
    writeln!(out, "\n-o wide lists every change with its causes.")
}

fn between_namespaces(plan: &Plan<'_>) -> BTreeMap<Ends, Changes> {
    let mut names: BTreeMap<Str, Arc<str>> = BTreeMap::new();
    // Per group how many units of each namespace there are, and how many of them are lone pods.
    let of_group: Vec<BTreeMap<Arc<str>, (usize, usize)>> = (plan.units.of_class.iter())
        .map(|units| {
            let mut found: BTreeMap<Arc<str>, (usize, usize)> = BTreeMap::new();
            for unit in units {
                let name = names.entry(unit.namespace.clone());
                let name = name.or_insert_with(|| unit.namespace.as_ref().into());
                let (all, lone) = found.entry(name.clone()).or_default();
                *all += 1;
                *lone += usize::from(unit.pods < 2);
            }
            found
        })
        .collect();
    let of = |group: GroupId| of_group.get(group).into_iter().flatten();
    let mut found: BTreeMap<Ends, Changes> = BTreeMap::new();
    let mut add = |ends: Ends, kind: Effect, number: usize, because: &[usize]| {
        if number > 0 {
            let changes = found.entry(ends).or_default();
            changes.counts.add(kind, number);
            changes.causes.extend(because);
        }
    };
    for change in &plan.changes {
        let kind = Effect::of(&change.before, &change.after);
        for (from, (sources, lone)) in of(change.source) {
            for (to, (destinations, _)) in of(change.destination) {
                let same = change.source == change.destination && from == to;
                let number = sources * destinations - if same { *lone } else { 0 };
                add((from.clone(), to.clone()), kind, number, &change.because);
            }
        }
    }
    let external: Arc<str> = "external".into();
    for change in &plan.external {
        let beyond = if change.nodes.is_empty() { external.clone() } else { "the nodes".into() };
        for (namespace, (units, _)) in of(change.group) {
            let (own, beyond) = (namespace.clone(), beyond.clone());
            let ends = if is_incoming(change) { (beyond, own) } else { (own, beyond) };
            let kind = Effect::of(&change.before, &change.after);
            add(ends, kind, *units, &change.because);
        }
    }
    found
}
