//! What is allowed to and from addresses that no pod and no node has.

use std::collections::BTreeMap;

use super::ports::PortSet;
use super::rules::{Atom, Atoms, Rules};
use crate::cidr::CidrSet;

/// The address space cut by what is allowed there. Addresses in none of the parts are denied.
///
/// An address that a pod or node owns is that pod or node, whichever part it lies in.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outside {
    /// Disjoint; each with ports that are not empty, and no two with equal ports.
    pub parts: Vec<(CidrSet, PortSet)>,
}

impl Outside {
    /// Everything to and from everywhere.
    #[must_use]
    pub fn everything() -> Self {
        Self { parts: vec![(CidrSet::everything(), PortSet::everything())] }
    }
}

/// What `rules` admit of addresses that are nobody's.
pub(super) fn outside(rules: &Rules, atoms: &Atoms<'_>) -> Outside {
    let base = rules.0.get(&Atom::Any).map(|asked| asked.numbers.clone()).unwrap_or_default();
    let mut parts: BTreeMap<PortSet, CidrSet> = [(base, CidrSet::everything())].into();
    for (atom, asked) in &rules.0 {
        let Atom::Block(id) = atom else { continue };
        let Some(block) = atoms.blocks().get(*id) else { continue };
        let block = CidrSet::from(*block);
        let mut cut: BTreeMap<PortSet, CidrSet> = BTreeMap::new();
        for (ports, addresses) in parts {
            let beside = addresses.difference(&block);
            let inside = addresses.difference(&beside);
            let more = ports.clone().union(&asked.numbers);
            for (ports, addresses) in [(ports, beside), (more, inside)] {
                if !addresses.is_empty() {
                    let found = cut.entry(ports).or_default();
                    *found = found.union(&addresses);
                }
            }
        }
        parts = cut;
    }
    let mut parts: Vec<_> =
        parts.into_iter().filter(|(ports, _)| !ports.is_empty()).map(|(p, c)| (c, p)).collect();
    parts.sort();
    Outside { parts }
}
