//! What is allowed to and from addresses that no pod and no node has.

use std::collections::BTreeMap;

use super::atoms::{Atom, Atoms};
use super::course::Course;
use super::ports::PortSet;
use super::rules::{Matches, Stage};
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

/// What stages allow of addresses that are nobody's.
pub(super) fn outside<'s>(stages: impl Iterator<Item = &'s Stage>, atoms: &Atoms) -> Outside {
    let mut parts: Parts<Course> = [(Course::start(), CidrSet::everything())].into();
    for stage in stages {
        match stage {
            Stage::Ordered(steps) => {
                for (action, matches) in steps {
                    let matched = matched(matches, atoms);
                    parts = cut(parts, &matched, |course, ports| course.step(*action, ports));
                }
                parts = each(parts, |mut course| {
                    course.leave();
                    course
                });
            }
            Stage::Isolating(_, matches) => {
                parts = cut(parts, &matched(matches, atoms), Course::isolate);
            }
        }
    }
    let allowed = each(parts, Course::end).into_iter().filter(|(ports, _)| !ports.is_empty());
    let mut parts: Vec<_> = allowed.map(|(ports, addresses)| (addresses, ports)).collect();
    parts.sort();
    Outside { parts }
}

/// On which ports each address is matched.
fn matched(matches: &Matches, atoms: &Atoms) -> Parts<PortSet> {
    let mut parts: Parts<PortSet> = [(PortSet::default(), CidrSet::everything())].into();
    for (atom, asked) in matches.of_addresses() {
        let addresses = match atom {
            Atom::Any => CidrSet::everything(),
            Atom::Block(id) => atoms.block(id).map(CidrSet::from).unwrap_or_default(),
            Atom::Pods(_) | Atom::Nodes(_) => continue,
        };
        let beside = CidrSet::everything().difference(&addresses);
        let here: Parts<Option<&PortSet>> = [(Some(asked), addresses), (None, beside)].into();
        parts = cut(parts, &here, |ports, more| {
            if let Some(more) = more {
                ports.add(more);
            }
        });
    }
    parts
}

/// Cuts each part by `pieces`, and lets each piece change what is known of it.
fn cut<K: Ord + Clone, P>(
    parts: Parts<K>,
    pieces: &Parts<P>,
    change: impl Fn(&mut K, &P),
) -> Parts<K> {
    let mut found = Parts::new();
    for (known, addresses) in parts {
        for (piece, within) in pieces {
            let both = addresses.intersection(within);
            if !both.is_empty() {
                let mut known = known.clone();
                change(&mut known, piece);
                join(&mut found, known, &both);
            }
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
    let part = parts.entry(known).or_default();
    *part = part.union(addresses);
}
