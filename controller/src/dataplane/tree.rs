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

use super::desired::Chains;
use super::name;
use super::rule::{Is, Rule};

/// How many chains may lie between a root and a ruleset.
///
/// `nf_tables` refuses more than 15 chains in a row from a hook on, gotos included ("Too many
/// links"). Three lie above the tree, the root included, and four below: rulesets of Admin, Baseline
/// and Default, and what a denial goes to. Two are left to spare.
const LEVELS_MAX: usize = 6;

/// How many addresses or subtrees a chain has at most above the lowest level.
const ENTRIES_MAX: usize = 4;

/// Where packets of one address go: to one of these chains, or to both.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Judges {
    /// What decides.
    pub enforced: Option<String>,
    /// What is asked about packets that pass it.
    pub audited: Option<String>,
}

/// The chains that send packets of each address in `leaves` to its judges, the root included.
///
/// `leaves` are of one family. A packet of no such address comes back from the root.
pub(super) fn chains(direction: Direction, leaves: &BTreeMap<IpAddr, Judges>) -> Chains {
    let leaves: Vec<Leaf> =
        leaves.iter().map(|(address, judges)| Leaf { address: *address, judges }).collect();
    let mut tree = Tree { direction, chains: Chains::new() };
    tree.fill(name::root(direction).to_owned(), &leaves, 0);
    tree.chains
}

#[derive(Clone, Copy)]
struct Leaf<'a> {
    address: IpAddr,
    judges: &'a Judges,
}

struct Tree {
    direction: Direction,
    chains: Chains,
}

impl Tree {
    /// Writes chain `name` for `leaves`, ascending, and those below it.
    fn fill(&mut self, name: String, leaves: &[Leaf<'_>], level: usize) {
        let mut rules = Vec::new();
        if leaves.len() <= ENTRIES_MAX || level == LEVELS_MAX {
            rules.extend(leaves.iter().flat_map(|leaf| self.leaf_rules(leaf)));
        } else {
            let quarter_length = common_length(leaves) + 2;
            let same_quarter = |a: &Leaf<'_>, b: &Leaf<'_>| {
                prefix(a.address, quarter_length) == prefix(b.address, quarter_length)
            };
            for quarter in leaves.chunk_by(same_quarter) {
                match quarter {
                    [] => {}
                    [leaf] => rules.extend(self.leaf_rules(leaf)),
                    [first, ..] => {
                        let network = prefix(first.address, common_length(quarter));
                        let child = name::tree_node(self.direction, network);
                        let rule = Rule::goto(&child);
                        rules.push(self.on_own_side(rule, Is::Within(network)).to_string());
                        self.fill(child, quarter, level + 1);
                    }
                }
            }
        }
        self.chains.insert(name, rules);
    }

    /// NetworkPolicy v1: a pod always reaches itself, also through a Service that sends it
    /// back; so a packet between a pod and itself is not a matter of its ruleset.
    fn leaf_rules(&self, leaf: &Leaf<'_>) -> Vec<String> {
        let own = IpNet::from(leaf.address);
        let send = |rule: Rule| {
            let rule = self.on_own_side(rule, Is::Within(own));
            match self.direction {
                Direction::Egress => rule.destination(Is::Outside(own)),
                Direction::Ingress => rule.source(Is::Outside(own)),
            }
            .to_string()
        };
        match (&leaf.judges.enforced, &leaf.judges.audited) {
            (None, None) => Vec::new(),
            (Some(chain), None) | (None, Some(chain)) => vec![send(Rule::goto(chain))],
            (Some(enforced), Some(audited)) => {
                vec![send(Rule::jump(enforced)), send(Rule::goto(audited))]
            }
        }
    }

    fn on_own_side(&self, rule: Rule, is: Is) -> Rule {
        match self.direction {
            Direction::Egress => rule.source(is),
            Direction::Ingress => rule.destination(is),
        }
    }
}

/// The length of the longest prefix with an even length that holds two or more `leaves`.
fn common_length(leaves: &[Leaf<'_>]) -> u8 {
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

    fn tree(direction: Direction, addresses: &[&str]) -> Chains {
        let judges =
            |address: &str| Judges { enforced: Some(format!("R{address}")), audited: None };
        let leaf = |address: &&str| (address.parse().unwrap(), judges(address));
        chains(direction, &addresses.iter().map(leaf).collect())
    }

    fn depth(chains: &Chains, name: &str) -> usize {
        let below = chains[name].iter().filter_map(|rule| rule.split_once("-g "));
        let below = below.filter(|(_, target)| chains.contains_key(*target));
        1 + below.map(|(_, target)| depth(chains, target)).max().unwrap_or(0)
    }

    #[test]
    fn no_address_leaves_an_empty_root() {
        let chains = tree(Direction::Egress, &[]);
        assert_eq!(chains.into_iter().collect::<Vec<_>>(), [("PORTCULLIS-EGRESS".into(), vec![])]);
    }

    #[test]
    fn few_addresses_are_listed_in_the_root() {
        let chains = tree(Direction::Ingress, &["10.0.0.2", "10.9.0.1"]);
        assert_eq!(
            chains["PORTCULLIS-INGRESS"],
            [
                "! -s 10.0.0.2/32 -d 10.0.0.2/32 -g R10.0.0.2",
                "! -s 10.9.0.1/32 -d 10.9.0.1/32 -g R10.9.0.1",
            ]
        );
    }

    #[test]
    fn audit_is_asked_about_what_passed() {
        let judges = |enforced: Option<&str>| Judges {
            enforced: enforced.map(str::to_owned),
            audited: Some("A".to_owned()),
        };
        let leaves = [("10.0.0.2", judges(Some("R"))), ("10.0.0.3", judges(None))];
        let leaves = leaves.map(|(address, judges)| (address.parse().unwrap(), judges));
        assert_eq!(
            chains(Direction::Egress, &BTreeMap::from(leaves))["PORTCULLIS-EGRESS"],
            [
                "-s 10.0.0.2/32 ! -d 10.0.0.2/32 -j R",
                "-s 10.0.0.2/32 ! -d 10.0.0.2/32 -g A",
                "-s 10.0.0.3/32 ! -d 10.0.0.3/32 -g A",
            ]
        );
    }

    #[test]
    fn levels_where_all_addresses_agree_are_skipped() {
        let addresses = ["fd00::1", "fd00::2", "fd00::3", "fd00::11", "fd00::12", "fd00:1::1"];
        let chains = tree(Direction::Egress, &addresses);
        let root = &chains["PORTCULLIS-EGRESS"];
        let node = name::tree_node(Direction::Egress, "fd00::/122".parse().unwrap());
        assert_eq!(root[0], format!("-s fd00::/122 -g {node}"));
        assert_eq!(root[1], "-s fd00:1::1/128 ! -d fd00:1::1/128 -g Rfd00:1::1");
        assert_eq!(chains[&node].len(), 2);
    }

    #[test]
    fn every_address_has_one_leaf_and_no_chain_is_long() {
        let addresses: Vec<String> = (0..250).map(|host| format!("10.1.0.{host}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert!(chains.values().all(|rules| rules.len() <= ENTRIES_MAX));
        let leaves = chains.values().flatten().filter(|rule| rule.contains("-g R")).count();
        assert_eq!(leaves, 250);
        assert_eq!(depth(&chains, "PORTCULLIS-EGRESS"), 4);
    }

    #[test]
    fn a_tree_is_never_deeper_than_the_kernel_allows() {
        // Each address leaves the path of those before it one level further down.
        let mut addresses: Vec<String> = (0..30)
            .map(|bit| format!("{}", 1_u128 << (4 * bit)))
            .map(|number| std::net::Ipv6Addr::from(number.parse::<u128>().unwrap()).to_string())
            .collect();
        addresses.push("::".into());
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let chains = tree(Direction::Egress, &addresses);
        assert_eq!(depth(&chains, "PORTCULLIS-EGRESS"), LEVELS_MAX + 1);
        assert_eq!(chains.values().flatten().filter(|rule| rule.contains("-g R")).count(), 31);
    }
}
