//! The changes of a plan in few lines: equal changes with the same cause are one line.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::CidrSet;
use policy_engine::labels::Str;
use policy_engine::reach::{GroupId, PortSet};

use super::{Effect, Plan, is_incoming};
use crate::model::Unit;
use crate::output::names::Names;
use crate::output::words;
use crate::plan::{Causes, Risk};

/// One line: the sources, the destinations, and the allowed ports before and after.
pub(super) struct Line {
    pub(super) kind: Effect,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) before: PortSet,
    pub(super) after: PortSet,
}

/// The parts of a change that must be equal for two changes to share a line.
type Alike<'p> = (Effect, &'p PortSet, &'p PortSet);

/// All lines by their causes. Risky kinds come first: connections that open, then those that close.
pub(super) fn by_cause(plan: &Plan<'_>, wide: bool) -> Vec<(Causes, Vec<Line>)> {
    let names = Names::new(&plan.units, wide);
    let mut blocks: BTreeMap<&Causes, Vec<Line>> = BTreeMap::new();
    for (causes, (kind, before, after), sources, destinations) in inside(plan) {
        let line = Line {
            kind,
            from: names.of(&sources),
            to: names.of(&destinations),
            before: before.clone(),
            after: after.clone(),
        };
        blocks.entry(causes).or_default().push(line);
    }
    for (causes, (kind, before, after), (addresses, nodes), incoming, units) in outside(plan) {
        let beyond =
            if nodes.is_empty() { words::external(addresses) } else { words::nodes(nodes) };
        let units = names.of(&units);
        let (from, to) = if incoming { (beyond, units) } else { (units, beyond) };
        let (before, after) = (before.clone(), after.clone());
        blocks.entry(causes).or_default().push(Line { kind, from, to, before, after });
    }
    let mut blocks: Vec<_> = blocks.into_iter().map(|(c, lines)| (c.clone(), lines)).collect();
    for (_, lines) in &mut blocks {
        lines.sort_by(|a, b| (a.kind, &a.to, &a.from).cmp(&(b.kind, &b.to, &b.from)));
    }
    blocks
}

type Inside<'p> = (&'p Causes, Alike<'p>, BTreeSet<&'p Unit>, BTreeSet<&'p Unit>);

/// Pairs as rectangles: destinations with the same change for the same sources are one line.
fn inside<'p>(plan: &'p Plan<'_>) -> Vec<Inside<'p>> {
    let mut sources: BTreeMap<(&Causes, Alike<'_>, GroupId), BTreeSet<GroupId>> = BTreeMap::new();
    for change in &plan.changes {
        let alike = (Effect::of(&change.before, &change.after), &change.before, &change.after);
        let key = (&change.because, alike, change.destination);
        sources.entry(key).or_default().insert(change.source);
    }
    // A group that changes towards all other pods of its own group is also one of the sources.
    let mut merged: BTreeMap<(&Causes, Alike<'_>, BTreeSet<GroupId>), BTreeSet<GroupId>> =
        BTreeMap::new();
    for ((causes, alike, destination), from) in sources {
        merged.entry((causes, alike, from)).or_default().insert(destination);
    }
    let units = |groups: &BTreeSet<GroupId>| -> BTreeSet<&'p Unit> {
        groups.iter().flat_map(|group| plan.units.of(*group)).collect()
    };
    merged
        .into_iter()
        .map(|((causes, alike, from), to)| (causes, alike, units(&from), units(&to)))
        .collect()
}

/// External addresses, or the names of the nodes that have the addresses.
type Beyond<'p> = (&'p CidrSet, &'p BTreeSet<Str>);

type Outside<'p> = (&'p Causes, Alike<'p>, Beyond<'p>, bool, BTreeSet<&'p Unit>);

fn outside<'p>(plan: &'p Plan<'_>) -> Vec<Outside<'p>> {
    let mut merged: BTreeMap<(&Causes, Alike<'_>, Beyond<'_>, bool), BTreeSet<&Unit>> =
        BTreeMap::new();
    for change in &plan.external {
        let alike = (Effect::of(&change.before, &change.after), &change.before, &change.after);
        let beyond = (&change.addresses, &change.nodes);
        let key = (&change.because, alike, beyond, is_incoming(change));
        merged.entry(key).or_default().extend(plan.units.of(change.group));
    }
    let line =
        |((causes, alike, addresses, incoming), units)| (causes, alike, addresses, incoming, units);
    merged.into_iter().map(line).collect()
}

/// More risks than this are folded.
const RISKS: usize = 20;

/// A risk, the names of its pods, and its causes.
type RiskLine = (String, String, Causes);

/// The risks, of which equal ones are one line: those with the same text and causes or, if these
/// are many, with the same text. With `wide`, every name is written.
pub(in crate::output) fn risks(plan: &Plan<'_>, wide: bool) -> Vec<RiskLine> {
    let found = folded(plan, |risk| Some(&risk.because));
    let found = if found.len() > RISKS && !wide { folded(plan, |_| None) } else { found };
    let names = Names::new(&plan.units, wide);
    let line = |(text, units, causes): (String, BTreeSet<&Unit>, BTreeSet<usize>)| {
        (text, names.of(&units), causes.into_iter().collect())
    };
    found.into_iter().map(line).collect()
}

/// The risks of the same text and the same `key`, in the order in which the first of them was found.
fn folded<'p>(
    plan: &'p Plan<'_>,
    key: impl Fn(&'p Risk) -> Option<&'p Causes>,
) -> Vec<(String, BTreeSet<&'p Unit>, BTreeSet<usize>)> {
    let mut found: Vec<(String, BTreeSet<&Unit>, BTreeSet<usize>)> = Vec::new();
    let mut known: BTreeMap<(String, Option<&Causes>), usize> = BTreeMap::new();
    for risk in &plan.risks {
        let (text, units) = (super::risk(risk), plan.units_of(risk));
        let at = *known.entry((text.clone(), key(risk))).or_insert(found.len());
        if at == found.len() {
            found.push((text, BTreeSet::new(), BTreeSet::new()));
        }
        if let Some((_, all, causes)) = found.get_mut(at) {
            all.extend(units);
            causes.extend(risk.because.iter());
        }
    }
    found
}
