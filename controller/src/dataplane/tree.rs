//! Finds the ruleset of an address in a few comparisons: a prefix tree of chains.
//!
//! ```text
//! root: -s 10.1.0.0/26 -g T…      two bits a level; levels where all addresses agree are skipped
//!       -s 10.1.0.64/26 -g T…
//! T…:   -s 10.1.0.17/32 -g P…
//!       -s 10.1.0.18/32 -m physdev ! --physdev-in veth18 -g DENY-OUT-ADDRESS
//! P…:   -m physdev ! --physdev-in veth17 -g DENY-OUT-ADDRESS
//!       ! -d 10.1.0.17/32 -j R…                 packets that it allows return,
//!       ! -d 10.1.0.17/32 -g A…                 and policies in audit judge them
//!       -m conntrack ! --ctstate DNAT -j R…     the same for a packet from the pod to itself
//! ```
//!
//! A pod with one rule has no chain P. No chain has more than four entries unless the tree would get
//! deeper than the kernel allows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;

use super::attachment::Attachment;
use super::denial::Denial;
use super::name::{self, ChainName};
use super::rule::{Chains, Is, IsInterface, Match, Rule, Side, Verdict};

/// How many chains may lie between a root and a ruleset.
///
/// `nf_tables` refuses more than 15 chains in a row from a hook on, gotos included ("Too many
/// links"). Three lie above the tree, the root included, and eight below: the chain of the pod,
/// [`DEPTH_MAX`](policy_engine::ruleset::DEPTH_MAX) rulesets, and the chain of a kind of denial.
const LEVELS_MAX: usize = 4;

/// The most addresses or subtrees of a chain above the lowest level.
const ENTRIES_MAX: usize = 4;

/// The chains that judge packets of one address: one of these, or both.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Judges {
    /// The chain that decides.
    pub enforced: Option<ChainName>,
    /// The chain of audit, which judges packets that pass `enforced`.
    pub audited: Option<ChainName>,
}

impl Judges {
    /// The rules that send packets which match all of `matches` to the judges; empty without
    /// judges.
    pub(super) fn rules(self, matches: &[Match]) -> Vec<Rule> {
        let send = |verdict| Rule::new(matches.iter().cloned(), verdict);
        match (self.enforced, self.audited) {
            (None, None) => Vec::new(),
            (Some(chain), None) | (None, Some(chain)) => vec![send(Verdict::Goto(chain))],
            (Some(enforced), Some(audited)) => {
                vec![send(Verdict::Jump(enforced)), send(Verdict::Goto(audited))]
            }
        }
    }
}

/// How packets of one address of a pod are judged.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    /// The chains that judge the packets.
    pub judges: Judges,
    /// The interface by which the packets come and leave; `None` when that is not checked.
    pub attachment: Option<Attachment>,
}

/// The chains that send packets of each address in `places` to its judges, the root included.
///
/// `places` are of one family. A packet of no such address comes back from the root.
///
/// With `in_map`, the root lists all addresses, and each has a chain: the backend looks an address up.
pub(super) fn chains(
    direction: Direction,
    places: &BTreeMap<IpAddr, Place>,
    in_map: bool,
) -> Chains {
    let leaves: Vec<Leaf> =
        places.iter().map(|(address, place)| Leaf { address: *address, place: *place }).collect();
    let own_side = Side::of_subject(direction);
    let mut tree = Tree { direction, own_side, in_map, chains: Chains::new() };
    tree.fill(name::root(direction), &leaves, 0);
    tree.chains
}

#[derive(Clone, Copy)]
struct Leaf {
    address: IpAddr,
    place: Place,
}

struct Tree {
    direction: Direction,
    own_side: Side,
    in_map: bool,
    chains: Chains,
}

impl Tree {
    /// Writes chain `name` for `leaves`, ascending, and those below it.
    fn fill(&mut self, name: ChainName, leaves: &[Leaf], level: usize) {
        let mut rules = Vec::new();
        if self.in_map || leaves.len() <= ENTRIES_MAX || level == LEVELS_MAX {
            for leaf in leaves {
                rules.extend(self.leaf(leaf));
            }
        } else {
            let quarter_length = common_length(leaves) + 2;
            let same_quarter = |a: &Leaf, b: &Leaf| {
                prefix(a.address, quarter_length) == prefix(b.address, quarter_length)
            };
            for quarter in leaves.chunk_by(same_quarter) {
                match quarter {
                    [] => {}
                    [leaf] => rules.extend(self.leaf(leaf)),
                    [first, ..] => {
                        let network = prefix(first.address, common_length(quarter));
                        let child = name::tree_node(self.direction, network);
                        let inside = Match::Address(self.own_side, Is::Within(network));
                        rules.push(Rule::new([inside], Verdict::Goto(child)));
                        self.fill(child, quarter, level + 1);
                    }
                }
            }
        }
        self.chains.insert(name, rules.into());
    }

    /// The rule for an address, if it needs any; several are in a chain of their own.
    fn leaf(&mut self, leaf: &Leaf) -> Option<Rule> {
        let own = IpNet::from(leaf.address);
        let pod = Match::Address(self.own_side, Is::Within(own));
        let mut rules = self.pod_rules(own, leaf.place);
        if rules.len() > 1 || self.in_map && !rules.is_empty() {
            let name = name::pod(self.direction, leaf.address);
            self.chains.insert(name, rules.into());
            return Some(Rule::new([pod], Verdict::Goto(name)));
        }
        let only = rules.pop()?;
        Some(Rule::new(only.matches.into_iter().chain([pod]), only.verdict))
    }

    /// The rules for packets of a pod's address.
    fn pod_rules(&self, own: IpNet, place: Place) -> Vec<Rule> {
        let mut rules = place.attachment.map_or_else(Vec::new, |at| self.binding(at));
        // NetworkPolicy v1: a pod always reaches itself, also through a Service that sends it back.
        // A packet from and to its address that no Service sent back is forged.
        let peer = Match::Address(Side::of_peer(self.direction), Is::Outside(own));
        for matches in [peer, Match::NotTranslated] {
            rules.extend(place.judges.rules(&[matches]));
        }
        rules
    }

    /// The rules against packets of the pod's address at another interface.
    fn binding(&self, Attachment { interface, bridge }: Attachment) -> Vec<Rule> {
        let (side, port) = (self.own_side, IsInterface::NotNamed(interface));
        let deny = || Verdict::Goto(Denial::by_address(self.direction).chain());
        let at = |interface| Rule::new([Match::Interface(side, interface)], deny());
        match (bridge, self.direction) {
            (None, _) => vec![at(port)],
            // The ports are compared in chains of the bridge.
            (Some(bridge), _) if self.in_map => vec![at(IsInterface::NotNamed(bridge))],
            // A packet that comes in by a port comes in by the bridge.
            (Some(_), Direction::Egress) => {
                vec![Rule::new([Match::BridgePort(side, port)], deny())]
            }
            // A bridge that does not know the pod's port sends its packets to all ports. That is
            // not reported as denial, unless another pod answers for the address.
            (Some(bridge), Direction::Ingress) => vec![
                at(IsInterface::NotNamed(bridge)),
                Rule::new([Match::BridgePort(side, port)], Verdict::Drop),
            ],
        }
    }
}

/// The length of the longest prefix with an even length that holds two or more `leaves`.
fn common_length(leaves: &[Leaf]) -> u8 {
    let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else { return 0 };
    let same = (left_aligned(first.address) ^ left_aligned(last.address)).leading_zeros();
    let even = same & !1;
    u8::try_from(even).unwrap_or(0).min(width(first.address).saturating_sub(2))
}

fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

fn width(address: IpAddr) -> u8 {
    match Family::of(address) {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::attachment::InterfaceName;
    use crate::dataplane::backend::iptables::text;

    fn chain(name: &str) -> ChainName {
        ChainName::parse(&format!("{}{name}", name::PREFIX)).unwrap()
    }

    fn judges(enforced: Option<&str>, audited: Option<&str>) -> Judges {
        Judges { enforced: enforced.map(chain), audited: audited.map(chain) }
    }

    fn tree(direction: Direction, addresses: &[&str]) -> Chains {
        let place = Place { judges: judges(Some("R"), None), attachment: None };
        let leaf = |address: &&str| (address.parse().unwrap(), place);
        chains(direction, &addresses.iter().map(leaf).collect(), false)
    }

    fn rules(chains: &Chains, name: ChainName) -> Vec<String> {
        chains[&name].iter().map(text::rule).collect()
    }

    fn root(chains: &Chains, direction: Direction) -> Vec<String> {
        rules(chains, name::root(direction))
    }

    fn depth(chains: &Chains, name: ChainName) -> usize {
        let below = chains[&name].iter().filter_map(|rule| match rule.verdict {
            Verdict::Goto(target) => chains.contains_key(&target).then_some(target),
            _ => None,
        });
        1 + below.map(|target| depth(chains, target)).max().unwrap_or(0)
    }

    fn leaves(chains: &Chains) -> usize {
        let judged = Rule::new([Match::NotTranslated], Verdict::Goto(chain("R")));
        let is_leaf = |rule: &&Rule| **rule == judged;
        chains.values().flat_map(|rules| rules.iter()).filter(is_leaf).count()
    }

    #[test]
    fn no_address_leaves_an_empty_root() {
        let chains = tree(Direction::Egress, &[]);
        let root = name::root(Direction::Egress);
        assert_eq!(chains.into_iter().collect::<Vec<_>>(), [(root, [].into())]);
    }

    /// The rules for 10.0.0.2, whose port is `veth2` or whose routed interface is `cali2`.
    fn pod(direction: Direction, judges: Judges, bridge: Option<&str>) -> Vec<String> {
        let name = |text: &str| InterfaceName::new(text).unwrap();
        let interface = name(if bridge.is_some() { "veth2" } else { "cali2" });
        let attachment = Some(Attachment { interface, bridge: bridge.map(name) });
        let address = "10.0.0.2".parse().unwrap();
        let place = Place { judges, attachment };
        let chains = chains(direction, &BTreeMap::from([(address, place)]), false);
        let own = name::pod(direction, address);
        let root = root(&chains, direction);
        if chains.contains_key(&own) { rules(&chains, own) } else { root }
    }

    #[test]
    fn few_addresses_are_listed_in_the_root() {
        let chains = tree(Direction::Ingress, &["10.0.0.2", "10.9.0.1"]);
        let pod = |address: &str| name::pod(Direction::Ingress, address.parse().unwrap());
        assert_eq!(
            root(&chains, Direction::Ingress),
            [
                format!("-d 10.0.0.2/32 -g {}", pod("10.0.0.2")),
                format!("-d 10.9.0.1/32 -g {}", pod("10.9.0.1")),
            ]
        );
        assert_eq!(
            rules(&chains, pod("10.9.0.1")),
            ["! -s 10.9.0.1/32 -g PORTCULLIS-R", "-m conntrack ! --ctstate DNAT -g PORTCULLIS-R"]
        );
    }

    #[test]
    fn audit_is_asked_about_what_passed() {
        let place = |enforced| Place { judges: judges(enforced, Some("A")), attachment: None };
        let (both, audit) = (place(Some("R")), place(None));
        let [first, second] = ["10.0.0.2", "10.0.0.3"].map(|address| address.parse().unwrap());
        let places = BTreeMap::from([(first, both), (second, audit)]);
        let chains = chains(Direction::Egress, &places, false);
        assert_eq!(
            rules(&chains, name::pod(Direction::Egress, first)),
            [
                "! -d 10.0.0.2/32 -j PORTCULLIS-R",
                "! -d 10.0.0.2/32 -g PORTCULLIS-A",
                "-m conntrack ! --ctstate DNAT -j PORTCULLIS-R",
                "-m conntrack ! --ctstate DNAT -g PORTCULLIS-A",
            ]
        );
        assert_eq!(
            rules(&chains, name::pod(Direction::Egress, second)),
            ["! -d 10.0.0.3/32 -g PORTCULLIS-A", "-m conntrack ! --ctstate DNAT -g PORTCULLIS-A"]
        );
    }

    #[test]
    fn an_address_is_bound_to_its_interface() {
        let enforced = judges(Some("R"), None);
        assert_eq!(
            pod(Direction::Egress, enforced, Some("cni0"))[0],
            "-m physdev ! --physdev-in veth2 -g PORTCULLIS-DENY-OUT-ADDRESS"
        );
        assert_eq!(
            pod(Direction::Egress, enforced, None)[0],
            "! -i cali2 -g PORTCULLIS-DENY-OUT-ADDRESS"
        );
        assert_eq!(
            pod(Direction::Ingress, enforced, Some("cni0"))[..2],
            [
                "! -o cni0 -g PORTCULLIS-DENY-IN-ADDRESS",
                "-m physdev ! --physdev-out veth2 --physdev-is-bridged -j DROP",
            ]
        );
        assert_eq!(
            pod(Direction::Ingress, enforced, None)[0],
            "! -o cali2 -g PORTCULLIS-DENY-IN-ADDRESS"
        );
    }

    #[test]
    fn a_pod_that_no_policy_selects_is_bound_to_its_interface_too() {
        let unjudged = Judges::default();
        assert_eq!(
            pod(Direction::Egress, unjudged, Some("cni0")),
            ["-s 10.0.0.2/32 -m physdev ! --physdev-in veth2 -g PORTCULLIS-DENY-OUT-ADDRESS"]
        );
        assert_eq!(
            pod(Direction::Ingress, unjudged, None),
            ["-d 10.0.0.2/32 ! -o cali2 -g PORTCULLIS-DENY-IN-ADDRESS"]
        );
    }

    #[test]
    fn levels_where_all_addresses_agree_are_skipped() {
        let addresses = ["fd00::1", "fd00::2", "fd00::3", "fd00::11", "fd00::12", "fd00:1::1"];
        let chains = tree(Direction::Egress, &addresses);
        let root = root(&chains, Direction::Egress);
        let node = name::tree_node(Direction::Egress, "fd00::/122".parse().unwrap());
        assert_eq!(root[0], format!("-s fd00::/122 -g {node}"));
        assert_eq!(
            root[1],
            format!(
                "-s fd00:1::1/128 -g {}",
                name::pod(Direction::Egress, "fd00:1::1".parse().unwrap())
            )
        );
        assert_eq!(chains[&node].len(), 2);
    }

    #[test]
    fn every_address_has_one_leaf_and_no_chain_is_long() {
        let addresses: Vec<String> = (0..250).map(|host| format!("10.1.0.{host}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert!(chains.values().all(|rules| rules.len() <= ENTRIES_MAX));
        assert_eq!(leaves(&chains), 250);
        // The last one is the pod's own.
        assert_eq!(depth(&chains, name::root(Direction::Egress)), 4 + 1);
    }

    #[test]
    fn a_tree_is_never_deeper_than_the_kernel_allows() {
        // Each address leaves the path of those before it one level further down.
        let mut addresses: Vec<String> =
            (0..30).map(|bit| std::net::Ipv6Addr::from(1_u128 << (4 * bit)).to_string()).collect();
        addresses.push("::".into());
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert_eq!(depth(&chains, name::root(Direction::Egress)), LEVELS_MAX + 2);
        assert_eq!(leaves(&chains), 31);
    }
}
