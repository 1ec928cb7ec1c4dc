//! Finds the ruleset of an address in a few comparisons: a prefix tree of chains.
//!
//! ```text
//! root: -s 10.1.0.0/26 -g T…      two bits a level; levels where all addresses agree are skipped
//!       -s 10.1.0.64/26 -g T…
//! T…:   -s 10.1.0.17/32 ! -d 10.1.0.17/32 -g R…
//!       -s 10.1.0.18/32 ! -d 10.1.0.18/32 -j R…      what it lets pass comes back,
//!       -s 10.1.0.18/32 ! -d 10.1.0.18/32 -g A…      and policies in audit are asked
//! ```
//!
//! No chain has more than four entries unless the tree would get deeper than the kernel allows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;

use super::name::{self, ChainName};
use super::rule::{Chains, Is, Match, Rule, Side, Verdict};

/// How many chains may lie between a root and a ruleset.
///
/// `nf_tables` refuses more than 15 chains in a row from a hook on, gotos included ("Too many
/// links"). Three lie above the tree, the root included, and four below: rulesets of Admin, Baseline
/// and Default, and what a denial goes to. Two are left to spare.
const LEVELS_MAX: usize = 6;

/// How many addresses or subtrees a chain has at most above the lowest level.
const ENTRIES_MAX: usize = 4;

/// Where packets of one address go: to one of these chains, or to both.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Judges {
    /// What decides.
    pub enforced: Option<ChainName>,
    /// What is asked about packets that pass it.
    pub audited: Option<ChainName>,
}

/// The chains that send packets of each address in `leaves` to its judges, the root included.
///
/// `leaves` are of one family. A packet of no such address comes back from the root.
pub(super) fn chains(direction: Direction, leaves: &BTreeMap<IpAddr, Judges>) -> Chains {
    let leaves: Vec<Leaf> = leaves
        .iter()
        .map(|(address, judges)| Leaf { address: *address, judges: *judges })
        .collect();
    let own_side = Side::of_subject(direction);
    let mut tree = Tree { direction, own_side, chains: Chains::new() };
    tree.fill(name::root(direction), &leaves, 0);
    tree.chains
}

#[derive(Clone, Copy)]
struct Leaf {
    address: IpAddr,
    judges: Judges,
}

struct Tree {
    direction: Direction,
    own_side: Side,
    chains: Chains,
}

impl Tree {
    /// Writes chain `name` for `leaves`, ascending, and those below it.
    fn fill(&mut self, name: ChainName, leaves: &[Leaf], level: usize) {
        let mut rules = Vec::new();
        if leaves.len() <= ENTRIES_MAX || level == LEVELS_MAX {
            rules.extend(leaves.iter().flat_map(|leaf| self.leaf_rules(leaf)));
        } else {
            let quarter_length = common_length(leaves) + 2;
            let same_quarter = |a: &Leaf, b: &Leaf| {
                prefix(a.address, quarter_length) == prefix(b.address, quarter_length)
            };
            for quarter in leaves.chunk_by(same_quarter) {
                match quarter {
                    [] => {}
                    [leaf] => rules.extend(self.leaf_rules(leaf)),
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
        self.chains.insert(name, rules);
    }

    /// NetworkPolicy v1: a pod always reaches itself, also through a Service that sends it
    /// back; so a packet between a pod and itself is not a matter of its ruleset.
    fn leaf_rules(&self, leaf: &Leaf) -> Vec<Rule> {
        let own = IpNet::from(leaf.address);
        let pod = Match::Address(self.own_side, Is::Within(own));
        let peer = Match::Address(Side::of_peer(self.direction), Is::Outside(own));
        let send = |verdict| Rule::new([pod.clone(), peer.clone()], verdict);
        match (leaf.judges.enforced, leaf.judges.audited) {
            (None, None) => Vec::new(),
            (Some(chain), None) | (None, Some(chain)) => vec![send(Verdict::Goto(chain))],
            (Some(enforced), Some(audited)) => {
                vec![send(Verdict::Jump(enforced)), send(Verdict::Goto(audited))]
            }
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
    use crate::dataplane::backend::iptables::text;

    fn chain(name: &str) -> ChainName {
        ChainName::parse(&format!("{}{name}", name::PREFIX)).unwrap()
    }

    fn tree(direction: Direction, addresses: &[&str]) -> Chains {
        let judges = Judges { enforced: Some(chain("R")), audited: None };
        let leaf = |address: &&str| (address.parse().unwrap(), judges);
        chains(direction, &addresses.iter().map(leaf).collect())
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
        let is_leaf = |rule: &&Rule| rule.verdict == Verdict::Goto(chain("R"));
        chains.values().flatten().filter(is_leaf).count()
    }

    #[test]
    fn no_address_leaves_an_empty_root() {
        let chains = tree(Direction::Egress, &[]);
        let root = name::root(Direction::Egress);
        assert_eq!(chains.into_iter().collect::<Vec<_>>(), [(root, vec![])]);
    }

    #[test]
    fn few_addresses_are_listed_in_the_root() {
        let chains = tree(Direction::Ingress, &["10.0.0.2", "10.9.0.1"]);
        assert_eq!(
            root(&chains, Direction::Ingress),
            [
                "! -s 10.0.0.2/32 -d 10.0.0.2/32 -g PORTCULLIS-R",
                "! -s 10.9.0.1/32 -d 10.9.0.1/32 -g PORTCULLIS-R",
            ]
        );
    }

    #[test]
    fn audit_is_asked_about_what_passed() {
        let judges = |enforced| Judges { enforced, audited: Some(chain("A")) };
        let leaves = [("10.0.0.2", judges(Some(chain("R")))), ("10.0.0.3", judges(None))];
        let leaves = leaves.map(|(address, judges)| (address.parse().unwrap(), judges));
        let chains = chains(Direction::Egress, &BTreeMap::from(leaves));
        assert_eq!(
            root(&chains, Direction::Egress),
            [
                "-s 10.0.0.2/32 ! -d 10.0.0.2/32 -j PORTCULLIS-R",
                "-s 10.0.0.2/32 ! -d 10.0.0.2/32 -g PORTCULLIS-A",
                "-s 10.0.0.3/32 ! -d 10.0.0.3/32 -g PORTCULLIS-A",
            ]
        );
    }

    #[test]
    fn levels_where_all_addresses_agree_are_skipped() {
        let addresses = ["fd00::1", "fd00::2", "fd00::3", "fd00::11", "fd00::12", "fd00:1::1"];
        let chains = tree(Direction::Egress, &addresses);
        let root = root(&chains, Direction::Egress);
        let node = name::tree_node(Direction::Egress, "fd00::/122".parse().unwrap());
        assert_eq!(root[0], format!("-s fd00::/122 -g {node}"));
        assert_eq!(root[1], "-s fd00:1::1/128 ! -d fd00:1::1/128 -g PORTCULLIS-R");
        assert_eq!(chains[&node].len(), 2);
    }

    #[test]
    fn every_address_has_one_leaf_and_no_chain_is_long() {
        let addresses: Vec<String> = (0..250).map(|host| format!("10.1.0.{host}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert!(chains.values().all(|rules| rules.len() <= ENTRIES_MAX));
        assert_eq!(leaves(&chains), 250);
        assert_eq!(depth(&chains, name::root(Direction::Egress)), 4);
    }

    #[test]
    fn a_tree_is_never_deeper_than_the_kernel_allows() {
        // Each address leaves the path of those before it one level further down.
        let mut addresses: Vec<String> =
            (0..30).map(|bit| std::net::Ipv6Addr::from(1_u128 << (4 * bit)).to_string()).collect();
        addresses.push("::".into());
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert_eq!(depth(&chains, name::root(Direction::Egress)), LEVELS_MAX + 1);
        assert_eq!(leaves(&chains), 31);
    }
}
