//! Names of our chains and sets. Exactly the chains and sets whose names begin with [`PREFIX`] are
//! ours.
//!
//! A name is stored without the prefix, in place: rules are compared and copied without allocating.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::id::{ContentHasher, RulesetId, SetId};
use policy_engine::tier::View;

use super::attachment::InterfaceName;
use super::set::Kind;

/// The beginning of the name of each of our chains and sets.
pub const PREFIX: &str = "PORTCULLIS-";
/// The chain that a forwarded packet enters first.
pub const FORWARD: ChainName = Name::short("FORWARD");
/// The chain that a packet to this node enters first.
pub const INPUT: ChainName = Name::short("INPUT");
/// The chain that judges a forwarded packet: for egress, then for ingress.
pub const JUDGE: ChainName = Name::short("JUDGE");
/// The chain that judges a packet to this node: for the egress of its sender.
pub const NODE: ChainName = Name::short("NODE");
/// The chain for segments in the middle of a TCP connection without a conntrack entry.
pub const MIDSTREAM: ChainName = Name::short("MIDSTREAM");
/// The chain for messages that only IPv6 routers send.
pub const ROUTER: ChainName = Name::short("ROUTER");
/// The chain that accepts packets of local pods; only with [`super::AcceptAction::Accept`].
pub const ACCEPT: ChainName = Name::short("ACCEPT");

/// The chain that drops packets to pods at other ports of a bridge.
pub const BRIDGE_PODS: ChainName = Name::short("BRIDGE-PODS");

/// The name of a chain. iptables takes 28 characters.
pub type ChainName = Name<17>;

/// The name of a set. ipset takes 31 characters.
pub type SetName = Name<20>;

/// A name of ours: at most `MAX` bytes behind [`PREFIX`], filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<const MAX: usize>([u8; MAX]);

impl<const MAX: usize> Name<MAX> {
    /// The name [`PREFIX`] + `text`. Does not compile when a constant is too long.
    pub(super) const fn short(text: &str) -> Self {
        let (mut bytes, text) = ([0; MAX], text.as_bytes());
        let mut index = 0;
        while index < text.len() {
            bytes[index] = text[index];
            index += 1;
        }
        Self(bytes)
    }

    /// The name [`PREFIX`] + `text`.
    pub(super) fn written(text: fmt::Arguments<'_>) -> Self {
        let mut bytes = [0; MAX];
        bytes.as_mut_slice().write_fmt(text).expect("our names fit the kernel's limits");
        Self(bytes)
    }

    fn text(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        str::from_utf8(text).expect("names are made of text")
    }

    /// Reads a name that the kernel printed; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let text = name.strip_prefix(PREFIX)?;
        (text.len() <= MAX).then(|| Self::short(text))
    }
}

impl<const MAX: usize> fmt::Display for Name<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.text())
    }
}

impl<const MAX: usize> fmt::Debug for Name<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The chain that finds the ruleset of a pod, for one direction.
#[must_use]
pub fn root(direction: Direction) -> ChainName {
    match direction {
        Direction::Egress => Name::short("EGRESS"),
        Direction::Ingress => Name::short("INGRESS"),
    }
}

/// The chain for packets whose address on the pod's side is not a known address behind their
/// interface, for one direction.
#[must_use]
pub fn unknown_address(direction: Direction) -> ChainName {
    match direction {
        Direction::Egress => Name::short("SOURCE"),
        Direction::Ingress => Name::short("DESTINATION"),
    }
}

/// The chain that finds the pod behind the port of a bridge, for one direction.
#[must_use]
pub fn bridge_ports(direction: Direction) -> ChainName {
    match direction {
        Direction::Egress => Name::short("PORT-IN"),
        Direction::Ingress => Name::short("PORT-OUT"),
    }
}

/// The chain for frames that come in by ports of bridges from pods, or that leave by them, for one
/// direction.
#[must_use]
pub fn bridge(direction: Direction) -> ChainName {
    match direction {
        Direction::Egress => Name::short("BRIDGE-IN"),
        Direction::Ingress => Name::short("BRIDGE-OUT"),
    }
}

/// The chain for the denials of frames, for one direction.
#[must_use]
pub fn bridge_denial(direction: Direction) -> ChainName {
    match direction {
        Direction::Egress => Name::short("BRIDGE-DENY-OUT"),
        Direction::Ingress => Name::short("BRIDGE-DENY-IN"),
    }
}

/// The chain of one port of a bridge, for one direction.
#[must_use]
pub fn bridge_port(direction: Direction, port: InterfaceName) -> ChainName {
    let mut hasher = ContentHasher::new("bridge port");
    hasher.text(direction.as_str());
    hasher.text(port.as_str());
    Name::written(format_args!("B{}", hasher.finish()))
}

/// Whether a chain is for frames of bridges, not for packets of an IP family.
#[must_use]
pub fn is_of_bridge(chain: ChainName) -> bool {
    chain.text().starts_with('B')
}

/// The chain for interfaces whose names begin with `beginning`: ports of bridges, or others.
#[must_use]
pub fn interface_node(direction: Direction, is_port: bool, beginning: InterfaceName) -> ChainName {
    let mut hasher = ContentHasher::new("interfaces");
    hasher.text(direction.as_str());
    hasher.text(if is_port { "port" } else { "interface" });
    hasher.text(beginning.as_str());
    Name::written(format_args!("I{}", hasher.finish()))
}

/// The chain of one address of a pod.
#[must_use]
pub fn pod(direction: Direction, address: IpAddr) -> ChainName {
    let mut hasher = ContentHasher::new("pod");
    hasher.text(direction.as_str());
    hasher.text(&address.to_string());
    Name::written(format_args!("P{}", hasher.finish()))
}

/// The chain for the pods inside `prefix`.
#[must_use]
pub fn tree_node(direction: Direction, prefix: IpNet) -> ChainName {
    let mut hasher = ContentHasher::new("tree");
    hasher.text(direction.as_str());
    hasher.text(&prefix.to_string());
    Name::written(format_args!("T{}", hasher.finish()))
}

/// The chain of a ruleset: enforced, or in audit.
#[must_use]
pub fn ruleset(view: View, id: &RulesetId) -> ChainName {
    let letter = match view {
        View::Enforced => 'R',
        View::Audited => 'A',
    };
    Name::written(format_args!("{letter}{id}"))
}

/// The names that an engine's set can have: one for each family, by the kind of its members.
pub fn sets(id: &SetId) -> impl Iterator<Item = SetName> {
    let kinds = [Kind::Address, Kind::AddressPort];
    let names = move |family| kinds.map(|kind| set(family, kind, id));
    Family::BOTH.into_iter().flat_map(names)
}

/// The set of `kind` for one family whose content or definition hashes to `id`.
#[must_use]
pub fn set(family: Family, kind: Kind, id: &dyn fmt::Display) -> SetName {
    let letter = match kind {
        Kind::Address => 'a',
        Kind::AddressPort => 'p',
        Kind::Network => 'n',
    };
    Name::written(format_args!("{}{letter}{id}", digit(family)))
}

/// The set of these networks: its name is its content.
#[must_use]
pub fn network_set(family: Family, networks: &[IpNet]) -> SetName {
    let mut hasher = ContentHasher::new("networks");
    for network in networks {
        hasher.text(&network.to_string());
    }
    set(family, Kind::Network, &hasher.finish())
}

/// The set of the local addresses that have a ruleset.
#[must_use]
pub fn local_set(family: Family) -> SetName {
    Name::written(format_args!("{}local", digit(family)))
}

/// The set of the addresses of this node's pods whose interface is known.
#[must_use]
pub fn attached_set(family: Family) -> SetName {
    Name::written(format_args!("{}attached-pods", digit(family)))
}

/// The set of the addresses of this node's pods whose interface is not known.
#[must_use]
pub fn unattached_set(family: Family) -> SetName {
    Name::written(format_args!("{}unattached", digit(family)))
}

/// The set of the addresses of this node's pods that are isolated in one direction.
#[must_use]
pub fn isolated_set(family: Family, direction: Direction) -> SetName {
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    Name::written(format_args!("{}isolated-{direction}", digit(family)))
}

/// The family of a set, by its name.
#[must_use]
pub fn family(set: SetName) -> Family {
    if set.text().starts_with(digit(Family::V6)) { Family::V6 } else { Family::V4 }
}

/// Whether a set is one of the addresses of this node's pods, which do not come from policies.
#[must_use]
pub fn is_local(set: SetName) -> bool {
    let family = family(set);
    let isolated = || Direction::BOTH.map(|direction| isolated_set(family, direction));
    [local_set(family), attached_set(family), unattached_set(family)].contains(&set)
        || isolated().contains(&set)
}

/// Whether a chain is the one of a ruleset.
#[must_use]
pub fn is_ruleset(chain: ChainName) -> bool {
    // Hashes have lower-case letters only, and our other names begin with a word in capitals.
    let is_hash = |text: &str| !text.contains(|letter: char| letter.is_ascii_uppercase());
    chain.text().strip_prefix(['R', 'A']).is_some_and(is_hash)
}

/// Whether a chain is the one of a ruleset that is enforced, and not in audit.
#[must_use]
pub fn is_enforced_ruleset(chain: ChainName) -> bool {
    is_ruleset(chain) && chain.text().starts_with('R')
}

/// Whether a set has the name of one that is being built.
#[must_use]
pub fn is_temporary(set: SetName) -> bool {
    set.text().ends_with('~')
}

/// The temporary name of a set while it is built to replace the set `name`.
#[must_use]
pub fn temporary(name: SetName) -> SetName {
    Name::written(format_args!("{}~", name.text()))
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
        assert_eq!(tree_node(Direction::Ingress, prefix).to_string().len(), 28);
        let [enforced, audited] = [View::Enforced, View::Audited]
            .map(|view| ruleset(view, &RulesetId::new(id())).to_string());
        assert_eq!((enforced.len(), audited.len()), (28, 28));
        assert_ne!(enforced, audited);
        let name = set(Family::V6, Kind::AddressPort, &SetId::new(id()));
        assert_eq!(temporary(name).to_string().len(), 30);
    }

    #[test]
    fn names_read_back_as_they_were_written() {
        for name in ["PORTCULLIS-", "PORTCULLIS-FORWARD", "PORTCULLIS-AUDIT-OUT-DEFAULT"] {
            assert_eq!(ChainName::parse(name).unwrap().to_string(), name);
        }
        assert_eq!(ChainName::parse("PORTCULLIS-FORWARD"), Some(FORWARD));
        for other in ["FORWARD", "portcullis-FORWARD", "PORTCULLIS-that-iptables-would-refuse"] {
            assert_eq!(ChainName::parse(other), None);
        }
    }

    #[test]
    fn a_name_contains_what_it_names() {
        let id = || ContentHasher::new("x").finish();
        for family in Family::BOTH {
            let of_policy = set(family, Kind::Address, &SetId::new(id()));
            for set in [of_policy, temporary(of_policy), network_set(family, &[])] {
                assert_eq!((super::family(set), is_local(set)), (family, false), "{set}");
            }
            for set in [local_set(family), attached_set(family), unattached_set(family)] {
                assert_eq!((super::family(set), is_local(set)), (family, true), "{set}");
            }
        }
        for view in [View::Enforced, View::Audited] {
            let chain = ruleset(view, &RulesetId::new(id()));
            assert!(is_ruleset(chain));
            assert_eq!(is_enforced_ruleset(chain), view == View::Enforced);
        }
        let pod = pod(Direction::Ingress, "10.0.0.1".parse().unwrap());
        for chain in [FORWARD, ROUTER, ACCEPT, Name::short("AUDIT-IN-POLICY"), pod] {
            assert!(!is_ruleset(chain), "{chain}");
        }
    }

    #[test]
    fn a_node_has_one_chain_for_each_direction() {
        let prefix = "10.0.0.0/24".parse().unwrap();
        let [ingress, egress] = Direction::BOTH.map(|direction| tree_node(direction, prefix));
        assert_ne!(ingress, egress);
    }
}
