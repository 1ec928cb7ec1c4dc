//! Compiled rulesets against their runs, read one after another.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::allow_set::{NamedPeers, Reading};
use crate::compiled::{Compiled, Endpoint, Match, Rule};
use crate::direction::PerDirection;
use crate::flow::Traffic;
use crate::model::PodKey;
use crate::policy::{self, IpBlock, Peer, Peers, PortMatch, Ports};
use crate::port::PortRange;
use crate::selector::Selector;

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

fn peer(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

fn run(rules: &[policy::Rule], target: Target) -> Run {
    let (direction, named) = (Direction::Ingress, NamedPeers::All);
    let (budgets, share) = (&Budgets::default(), &|peer: &PodPeer| Arc::new(peer.clone()));
    let reading = Reading { direction, named, subject_ports: &[], budgets, share };
    Run { matches: AllowSet::fold(rules, reading).unwrap(), target }
}

fn ruleset(runs: Vec<Run>, otherwise: Target, depth: usize) -> Option<Arc<DefinedRuleset>> {
    let tier = Tier::NetworkPolicy;
    let bounds = Bounds { budgets: &Budgets::default(), may_fold: &|_| true, depth };
    let written = DefinedRuleset::write(Direction::Ingress, tier, runs, otherwise, None, bounds);
    written.unwrap().top
}

fn compiled(top: Option<&DefinedRuleset>) -> Compiled {
    let Some(top) = top else { return Compiled::default() };
    let rulesets = top.reachable().into_iter().map(|found| (found.id, found.ruleset.clone()));
    let enforced = PerDirection { ingress: Some(top.id), egress: None };
    let pod = PodKey::new("a", "a");
    let endpoint = Endpoint { pod, enforced, audited: PerDirection::default() };
    let endpoints = [(POD, endpoint)].into();
    Compiled { endpoints, rulesets: rulesets.collect(), ..Compiled::default() }
}

/// The most rules that one packet can meet.
fn longest(compiled: &Compiled, id: &RulesetId) -> usize {
    let rules = &compiled.rulesets[id];
    let targets = rules.rules.iter().map(|rule| rule.target).chain([rules.otherwise]);
    let below = targets.enumerate().map(|(before, target)| match target {
        Target::Next(next) => before + 1 + longest(compiled, &next),
        Target::Allow | Target::Deny => before + 1,
    });
    below.max().unwrap_or_default()
}

fn block(cidr: &str) -> Peer {
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() })
}

fn tcp(first: u16, last: u16) -> Ports {
    let range = PortRange::new(first, last).unwrap();
    Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, range)])
}

/// Few addresses and ports, so that a test can check each of them.
fn rules() -> impl Strategy<Value = Vec<policy::Rule>> {
    let peers = prop::collection::vec((0..16_u8, 28..=32_u8), 0..3).prop_map(|nets| {
        let net = |(number, prefix)| block(&format!("10.0.0.{number}/{prefix}"));
        Peers::Listed(nets.into_iter().map(net).collect())
    });
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let item = (protocol, 0..60_u16, 0..4_u16).prop_map(|(protocol, first, more)| {
        PortMatch::Numbers(protocol, PortRange::new(first, first + more).unwrap())
    });
    let listed = prop::collection::vec(item, 0..8).prop_map(Ports::Listed);
    let ports = prop_oneof![8 => listed, 1 => Just(Ports::Any)];
    let rule = (peers, ports).prop_map(|(peers, ports)| policy::Rule { peers, ports });
    prop::collection::vec(rule, 0..12)
}

fn matches(rule: &policy::Rule, address: IpAddr, traffic: Traffic) -> bool {
    let Peers::Listed(peers) = &rule.peers else { return false };
    let by_peer = peers.iter().any(|peer| match peer {
        Peer::Block(block) => block.contains(address),
        _ => false,
    });
    by_peer
        && match (&rule.ports, traffic) {
            (Ports::Any, _) => true,
            (Ports::Listed(items), Traffic::Port(protocol, port)) => items.iter().any(|item| {
                matches!(item, PortMatch::Numbers(wanted, range)
                    if *wanted == protocol && range.contains(port))
            }),
            (Ports::Listed(_), Traffic::Other) => false,
        }
}

proptest! {
    #[test]
    fn a_ruleset_decides_as_its_runs_do(
        runs in prop::collection::vec((rules(), any::<bool>()), 0..4),
        otherwise in any::<bool>(),
        depth in DEPTH_OF_A_TIER..=DEPTH_MAX,
    ) {
        let target = |allow| if allow { Target::Allow } else { Target::Deny };
        let made = runs.iter().map(|(rules, allow)| run(rules, target(*allow))).collect();
        let top = ruleset(made, target(otherwise), depth);
        prop_assert!(top.as_ref().is_none_or(|top| top.depth <= depth));
        let compiled = compiled(top.as_deref());
        let ports = (0..66).flat_map(|port| {
            [Traffic::Port(Protocol::Tcp, port), Traffic::Port(Protocol::Udp, port)]
        });
        for traffic in ports.chain([Traffic::Other]) {
            for address in (0..18).map(peer) {
                let first = runs.iter().find(|(rules, _)| {
                    rules.iter().any(|rule| matches(rule, address, traffic))
                });
                let expected = first.map_or(otherwise, |(_, allow)| *allow);
                let found = compiled.allows_in(Direction::Ingress, POD, address, traffic);
                prop_assert_eq!(found, expected, "{} {:?}", address, traffic);
            }
        }
    }
}

#[test]
fn a_connection_meets_few_of_a_thousand_rules() {
    // Each has two networks, so that each port needs a ruleset of its own.
    let rule = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let peers = [format!("10.{high}.{low}.1/32"), format!("10.{high}.{low}.128/25")];
        let peers = Peers::Listed(peers.iter().map(|net| block(net)).collect());
        policy::Rule { peers, ports: tcp(n * 2, n * 2) }
    };
    let check = |count: u16, depth, most| {
        let rules: Vec<policy::Rule> = (1..=count).map(rule).collect();
        let top = ruleset(vec![run(&rules, Target::Allow)], Target::Deny, depth).unwrap();
        assert!(top.depth <= depth, "{count} ports: {} rulesets in a row", top.depth);
        let compiled = compiled(Some(&top));
        let longest = longest(&compiled, &top.id);
        assert!(longest <= most, "{count} ports, depth {depth}: {longest} rules");
        for n in 1..=count {
            let [high, low] = n.to_be_bytes();
            let address = Ipv4Addr::new(10, high, low, 200).into();
            let allows = |port| {
                let traffic = Traffic::Port(Protocol::Tcp, port);
                compiled.allows_in(Direction::Ingress, POD, address, traffic)
            };
            assert!(allows(2 * n) && !allows(2 * n + 1) && !allows(2 * n + 2), "port {n}");
        }
    };
    for (count, most) in [(8, 9), (16, 9), (100, 21), (200, 25), (500, 25), (1_000, 25)] {
        check(count, DEPTH_MAX, most);
    }
    // Less room, because of the tiers above and below: as for a NetworkPolicy below Admin policies.
    for (depth, most) in [(4, 25), (3, 31), (2, 65)] {
        check(1_000, depth, most);
    }
}

#[test]
fn ports_of_the_same_peers_share_rules_where_no_port_of_others_is_between() {
    let rule = |peers: &str, first: u16, count: u16| {
        let port = |n: u16| PortMatch::Numbers(Protocol::Tcp, PortRange::single(first + 2 * n));
        let ports = Ports::Listed((0..count).map(port).collect());
        policy::Rule { peers: Peers::Listed(vec![block(peers)]), ports }
    };
    let rules = [rule("10.0.0.0/28", 100, 300), rule("10.0.0.16/28", 1_000, 300)];
    let top = ruleset(vec![run(&rules, Target::Allow)], Target::Deny, DEPTH_MAX).unwrap();
    let all: usize = top.reachable().iter().map(|found| found.ruleset.rules.len()).sum();
    // 15 ports a rule, and a rule for each group.
    assert!((40..=50).contains(&all), "{all} rules");
    let compiled = compiled(Some(&top));
    let longest = longest(&compiled, &top.id);
    assert!(longest <= 15, "{longest} rules");
    for port in 90..1_610 {
        let is = |range: std::ops::Range<u16>| range.contains(&port) && port % 2 == 0;
        for (number, expected) in [(1, is(100..700)), (17, is(1_000..1_600))] {
            let traffic = Traffic::Port(Protocol::Tcp, port);
            let found = compiled.allows_in(Direction::Ingress, POD, peer(number), traffic);
            assert_eq!(found, expected, "port {port} from {}", peer(number));
        }
    }
}

#[test]
fn a_connection_meets_few_rules_of_ports_that_have_many_peers_each() {
    let selected = |n: u16, key: u16| {
        let selector = Selector::label(&format!("key-{key}"), &n.to_string());
        let namespaces = policy::Namespaces::Selected(selector);
        Peer::Pods(PodPeer { namespaces, pods: Selector::everything() })
    };
    let rule = |n: u16| {
        let blocks = ["10.0.0.0/25", "10.0.1.0/25"].map(block);
        let peers = (0..4).map(|key| selected(n, key)).chain(blocks).collect();
        policy::Rule { peers: Peers::Listed(peers), ports: tcp(n * 40, n * 40 + 30) }
    };
    // As many as the budget of sets allows.
    let rules: Vec<policy::Rule> = (1..=500).map(rule).collect();
    let top = ruleset(vec![run(&rules, Target::Allow)], Target::Deny, DEPTH_MAX).unwrap();
    let longest = longest(&compiled(Some(&top)), &top.id);
    assert!(longest <= 27, "{longest} rules");
}

#[test]
fn a_selector_of_whole_namespaces_has_one_set_that_unions_share() {
    let selected = |key: &str| {
        let namespaces = policy::Namespaces::Selected(Selector::label(key, "x"));
        Peer::Pods(PodPeer { namespaces, pods: Selector::everything() })
    };
    let app = |name: &str| {
        let namespaces = policy::Namespaces::Named("shop".into());
        Peer::Pods(PodPeer { namespaces, pods: Selector::label("app", name) })
    };
    let rule = |n: u16| {
        let peers = Peers::Listed(vec![selected("team"), app(&n.to_string())]);
        policy::Rule { peers, ports: tcp(n, n) }
    };
    let rules: Vec<policy::Rule> = (1..4).map(rule).collect();
    let top = ruleset(vec![run(&rules, Target::Allow)], Target::Deny, DEPTH_MAX).unwrap();
    let labelled = |rule: &Rule| match &rule.matches {
        Match::Peers { labelled, .. } => *labelled,
        Match::PeerPorts { .. } => None,
    };
    let mut used: Vec<SetId> = top.ruleset.rules.iter().filter_map(labelled).collect();
    assert_eq!(used.len(), 6, "two for each port");
    used.sort_unstable();
    used.dedup();
    assert_eq!((used.len(), top.sets.len()), (4, 4), "one is shared");
}

#[test]
fn too_many_networks_or_sets_exceed_their_budget() {
    let blocks = |count: u32| {
        let net = |n: u32| block(&format!("{}/32", Ipv4Addr::from(n * 2)));
        let peers = Peers::Listed((0..count).map(net).collect());
        vec![run(&[policy::Rule { peers, ports: Ports::Any }], Target::Allow)]
    };
    let budgets = Budgets { networks: 100, sets: 3, ..Budgets::default() };
    let check = |runs| {
        let (direction, tier) = (Direction::Ingress, Tier::NetworkPolicy);
        let bounds = Bounds { budgets: &budgets, may_fold: &|_| true, depth: DEPTH_MAX };
        DefinedRuleset::write(direction, tier, runs, Target::Deny, None, bounds).map(drop)
    };
    assert_eq!(check(blocks(100)), Ok(()));
    let exceeded = |budget, limit| Err(Exceeded { budget, limit });
    assert_eq!(check(blocks(101)), exceeded(Budget::Networks, 100));
    // 16 ports need a second rule, with the same networks.
    let with_ports = |count: u32, ports: u16| {
        let net = |n: u32| block(&format!("{}/32", Ipv4Addr::from(n * 2)));
        let peers = Peers::Listed((0..count).map(net).collect());
        let port =
            |n: u16| PortMatch::Numbers(Protocol::Tcp, PortRange { first: 2 * n, last: 2 * n });
        let ports = Ports::Listed((1..=ports).map(port).collect());
        vec![run(&[policy::Rule { peers, ports }], Target::Allow)]
    };
    assert_eq!(check(with_ports(100, 15)), Ok(()));
    assert_eq!(check(with_ports(50, 16)), Ok(()));
    assert_eq!(check(with_ports(51, 16)), exceeded(Budget::Networks, 100));
    let rule = |n: u16| {
        let peers = Peers::Listed(vec![block(&format!("10.0.0.{n}/32"))]);
        policy::Rule { peers, ports: tcp(n, n) }
    };
    let runs = |count| vec![run(&(1..=count).map(rule).collect::<Vec<_>>(), Target::Allow)];
    assert_eq!(check(runs(3)), Ok(()));
    assert_eq!(check(runs(4)), exceeded(Budget::Sets, 3));
}
