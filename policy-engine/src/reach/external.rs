//! What is allowed to and from addresses outside the cluster: those that no pod and no node has.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::atoms::{Atom, Atoms};
use super::course::Course;
use super::ports::PortSet;
use super::rules::{Matches, Stage, StageId};
use crate::cidr::CidrSet;

/// The address space, cut into parts by the ports that are allowed. Addresses in no part are
/// denied.
///
/// The parts do not apply to addresses that a pod or a node owns, although they may contain them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outside {
    /// Disjoint addresses, each part with the ports that are allowed: never empty, and different in
    /// each part.
    pub parts: Vec<(CidrSet, PortSet)>,
}

/// All addresses, cut into parts by the decisions about their ports.
type Parts<K> = BTreeMap<K, CidrSet>;

/// What the ordered tiers decide about all addresses. Many pods have the same ordered tiers: each
/// result is computed once.
#[derive(Default)]
pub(super) struct Courses(RefCell<BTreeMap<Vec<StageId>, Parts<Course>>>);

impl Courses {
    /// The ports that `rules` allow for addresses outside the cluster.
    pub(super) fn outside(&self, rules: &[StageId], stages: &[Stage], atoms: &Atoms) -> Outside {
        let parts = match rules.split_last().map(|(last, above)| (&stages[*last], above)) {
            Some((Stage::Isolating(_, matches), above)) => {
                let above = self.ordered(above, stages, atoms);
                cut(above, &matched(matches, atoms), Course::isolate)
            }
            _ => self.ordered(rules, stages, atoms),
        };
        let allowed = each(parts, Course::end).into_iter().filter(|(ports, _)| !ports.is_empty());
        let mut parts: Vec<_> = allowed.map(|(ports, addresses)| (addresses, ports)).collect();
        parts.sort();
        Outside { parts }
    }

    /// The decisions of ordered stages about all addresses.
    fn ordered(&self, rules: &[StageId], stages: &[Stage], atoms: &Atoms) -> Parts<Course> {
        let start = || [(Course::start(), CidrSet::everything())].into();
        let Some((last, above)) = rules.split_last() else { return start() };
        if let Some(known) = self.0.borrow().get(rules) {
            return known.clone();
        }
        let mut parts = self.ordered(above, stages, atoms);
        // A stage that isolates is the last of all rules; `outside` has handled it.
        if let Stage::Ordered(steps) = &stages[*last] {
            for (action, matches) in steps {
                let mut matched = matched(matches, atoms);
                matched.retain(|ports, _| !ports.is_empty());
                parts = cut(parts, &matched, |course, ports| course.step(*action, ports));
            }
        }
        let parts = each(parts, |mut course| {
            course.leave();
            course
        });
        self.0.borrow_mut().insert(rules.to_vec(), parts.clone());
        parts
    }
}

/// The ports on which each address is matched; no ports where nothing matches.
fn matched(matches: &Matches, atoms: &Atoms) -> Parts<PortSet> {
    let mut parts: Parts<PortSet> = [(PortSet::default(), CidrSet::everything())].into();
    for (atom, ports) in matches.of_addresses() {
        let addresses = match atom {
            Atom::Any => CidrSet::everything(),
            Atom::Block(id) => CidrSet::from(atoms.block(id)),
            Atom::Pods(_) | Atom::Nodes(_) => continue,
        };
        parts = cut(parts, &[(ports.clone(), addresses)].into(), PortSet::add);
    }
    parts
}

/// Cuts each part by `pieces`, which are disjoint, and applies `change` to the decisions about the
/// addresses in each piece. Addresses in no piece are not changed.
fn cut<K: Ord + Clone>(
    parts: Parts<K>,
    pieces: &Parts<PortSet>,
    change: impl Fn(&mut K, &PortSet),
) -> Parts<K> {
    let mut found = Parts::new();
    for (known, addresses) in parts {
        let mut rest = addresses;
        for (piece, within) in pieces {
            let both = within.intersection(&rest);
            if !both.is_empty() {
                rest = rest.difference(within);
                let mut known = known.clone();
                change(&mut known, piece);
                join(&mut found, known, &both);
            }
        }
        if !rest.is_empty() {
            join(&mut found, known, &rest);
        }
    }
    found
}

/// Replaces the decisions of each part, and joins parts that become equal.
fn each<K, L: Ord>(parts: Parts<K>, replace: impl Fn(K) -> L) -> Parts<L> {
    let mut found = Parts::new();
    for (known, addresses) in parts {
        join(&mut found, replace(known), &addresses);
    }
    found
}

fn join<K: Ord>(parts: &mut Parts<K>, known: K, addresses: &CidrSet) {
    parts.entry(known).or_default().add(addresses);
}
