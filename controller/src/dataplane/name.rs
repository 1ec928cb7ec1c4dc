//! Names of our chains and sets. Whatever begins with [`PREFIX`] is ours, nothing else is.
//!
//! Kernel limits: a chain's name has 28 characters at most, a set's 31.

use std::fmt::Display;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::id::{ContentHasher, RulesetId, SetId};
use policy_engine::tier::View;

use super::set::Kind;

/// What every chain and set of ours begins with.
pub const PREFIX: &str = "PORTCULLIS-";
/// What a forwarded packet enters first.
pub const FORWARD: &str = "PORTCULLIS-FORWARD";
/// What a packet to this node enters first.
pub const INPUT: &str = "PORTCULLIS-INPUT";
/// Both directions, one after the other.
pub const JUDGE: &str = "PORTCULLIS-JUDGE";
/// Ends packets of local pods in ACCEPT; only with [`super::AcceptAction::Accept`].
pub const ACCEPT: &str = "PORTCULLIS-ACCEPT";

/// Whether the chain or set `name` is ours.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The chain that finds the ruleset of a pod, for one direction.
#[must_use]
pub fn root(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "PORTCULLIS-EGRESS",
        Direction::Ingress => "PORTCULLIS-INGRESS",
    }
}

/// The chain for the pods inside `prefix`.
#[must_use]
pub fn tree_node(direction: Direction, prefix: IpNet) -> String {
    let mut hasher = ContentHasher::new("tree");
    hasher.text(direction.as_str());
    hasher.text(&prefix.to_string());
    format!("{PREFIX}T{}", hasher.finish())
}

/// The chain of a ruleset: as it is enforced, or as it is only watched.
#[must_use]
pub fn ruleset(view: View, id: &RulesetId) -> String {
    let letter = match view {
        View::Enforced => 'R',
        View::Audited => 'A',
    };
    format!("{PREFIX}{letter}{id}")
}

/// The set of one of the engine's sets, for one family.
#[must_use]
pub fn set(family: Family, kind: Kind, id: &SetId) -> String {
    named_set(family, kind, id)
}

/// The set of these networks: its name is its content.
#[must_use]
pub fn network_set(family: Family, networks: &[IpNet]) -> String {
    let mut hasher = ContentHasher::new("networks");
    for network in networks {
        hasher.text(&network.to_string());
    }
    named_set(family, Kind::Network, &hasher.finish())
}

/// The set of the local addresses that have a ruleset.
#[must_use]
pub fn local_set(family: Family) -> String {
    format!("{PREFIX}{}local", digit(family))
}

/// The name a set has while it is being built to take the place of `name`.
#[must_use]
pub fn temporary(name: &str) -> String {
    format!("{name}~")
}

fn named_set(family: Family, kind: Kind, id: &dyn Display) -> String {
    let letter = match kind {
        Kind::Address => 'a',
        Kind::AddressPort => 'p',
        Kind::Network => 'n',
    };
    format!("{PREFIX}{}{letter}{id}", digit(family))
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        let id = || ContentHasher::new("x").finish();
        let prefix = "10.0.0.0/24".parse().unwrap();
        assert_eq!(tree_node(Direction::Ingress, prefix).len(), 28);
        let [enforced, audited] =
            [View::Enforced, View::Audited].map(|view| ruleset(view, &RulesetId::new(id())));
        assert_eq!((enforced.len(), audited.len()), (28, 28));
        assert_ne!(enforced, audited);
        let name = set(Family::V6, Kind::AddressPort, &SetId::new(id()));
        assert_eq!(temporary(&name).len(), 30);
    }

    #[test]
    fn a_node_has_one_chain_for_each_direction() {
        let prefix = "10.0.0.0/24".parse().unwrap();
        let [ingress, egress] = Direction::BOTH.map(|direction| tree_node(direction, prefix));
        assert_ne!(ingress, egress);
    }
}
