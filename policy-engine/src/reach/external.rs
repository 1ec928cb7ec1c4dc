//! What is allowed to and from addresses that no pod and no node has.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::atoms::{Atom, Atoms};
use super::course::Course;
use super::ports::PortSet;
use super::rules::{Matches, Stage, StageId};
use crate::cidr::CidrSet;

/// The address space cut by what is allowed there. Addresses in none of the parts are denied.
///
/// An address that a pod or node owns is that pod or node, whichever part it lies in.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outside {
    /// Disjoint; each with ports that are not empty, and no two with equal ports.
    pub parts: Vec<(CidrSet, PortSet)>,
}

/// All addresses, cut by what is known of each part.
type Parts<K> = BTreeMap<K, CidrSet>;

/// What tiers make of all addresses. ClusterNetworkPolicies are the same for many pods: what they
/// make is found once.
#[derive(Default)]
pub(super) struct Courses(RefCell<BTreeMap<Vec<StageId>, Parts<Course>>>);

impl Courses {
    /// What `rules` allow of addresses that are nobody's.
    pub(super) fn outside(&self, rules: &[StageId], stages: &[Stage], atoms: &Atoms) -> Outside {
        let parts = match rules.split_last().map(|(last, above)| (stages.get(*last), above)) {
            Some((Some(Stage::Isolating(_, matches)), above)) => {
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

    /// What ordered stages make of all addresses.
    fn ordered(&self, rules: &[StageId], stages: &[Stage], atoms: &Atoms) -> Parts<Course> {
        let start = || [(Course::start(), CidrSet::everything())].into();
        let Some((last, above)) = rules.split_last() else { return start() };
        if let Some(known) = self.0.borrow().get(rules) {
            return known.clone();
        }
        let mut parts = self.ordered(above, stages, atoms);
        // One that isolates is the last of all rules, and not among these.
        if let Some(Stage::Ordered(steps)) = stages.get(*last) {
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

/// On which ports each address is matched; none: not at all.
fn matched(matches: &Matches, atoms: &Atoms) -> Parts<PortSet> {
    let mut parts: Parts<PortSet> = [(PortSet::default(), CidrSet::everything())].into();
    for (atom, asked) in matches.of_addresses() {
        let addresses = match atom {
            Atom::Any => CidrSet::everything(),
            Atom::Block(id) => atoms.block(id).map(CidrSet::from).unwrap_or_default(),
            Atom::Pods(_) | Atom::Nodes(_) => continue,
        };
        parts = cut(parts, &[(asked.clone(), addresses)].into(), PortSet::add);
    }
    parts
}

/// Cuts each part by `pieces`, which are disjoint, and lets each piece change what is known of it.
/// Beside them nothing changes.
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

/// Says of each part something else.
fn each<K, L: Ord>(parts: Parts<K>, say: impl Fn(K) -> L) -> Parts<L> {
    let mut found = Parts::new();
    for (known, addresses) in parts {
        join(&mut found, say(known), &addresses);
    }
    found
}

fn join<K: Ord>(parts: &mut Parts<K>, known: K, addresses: &CidrSet) {
    parts.entry(known).or_default().add(addresses);
}
