//! Single policies as large as an API server takes: few steps are made for each, or a budget refuses it.

use std::net::{IpAddr, Ipv4Addr};

use crate::budget::Budget;
use crate::direction::PerDirection;
use crate::engine::{Engine, Scope};
use crate::labels::{Labels, Str};
use crate::model::{Change, NamedPort, Namespace, Pod, PodKey};
use crate::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::selector::{Operator, Requirement, Selector};
use crate::sorted::SortedSet;
use crate::work::{self, Work};
use crate::world::Options;

const PODS: u32 = 300;

/// The pods of the node, each with a named port of its own.
const LOCAL: u32 = 20;

/// At most so many steps of each kind are made for one policy. Each takes some 100 ns.
const STEPS: usize = 1_000_000;

fn pod(number: u32) -> Change {
    let key = PodKey::new("shop", &format!("pod-{number}"));
    let labels = [("app", format!("app-{number}")), ("managed", "all".to_owned())];
    let node = if number < LOCAL { "node-1" } else { "node-2" };
    let name = name(number);
    let port = NamedPort { name, protocol: Protocol::Tcp, number: 80 };
    let addresses = vec![IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number))].into();
    let pod = Pod::new(key, Labels::from_iter(labels));
    Pod { node: Some(node.into()), addresses, ports: [port].into(), ..pod }.into()
}

fn name(number: u32) -> Str {
    format!("p{number}").as_str().into()
}

/// The policy selects all pods; its rules are for both directions.
fn compile(rules: Vec<Rule>) -> (Option<Budget>, [usize; 3]) {
    let mut engine = Engine::new(Scope::Node("node-1".into()), Options::default());
    let labels = Labels::from_iter([("team", "a")]);
    engine.apply(Change::Namespace("shop".into(), Some(Namespace { labels })));
    (0..PODS).for_each(|number| engine.apply(pod(number)));
    engine.flush();
    let rules = PerDirection { ingress: Some(rules.clone()), egress: Some(rules) };
    engine.apply(Policy::network_policy("shop", "all", Selector::everything(), rules).into());
    work::take();
    engine.flush();
    let steps = work::take();
    let refused = engine.refused().next().map(|refused| refused.exceeded.budget);
    (refused, steps)
}

fn check(shape: &str, rules: Vec<Rule>, expected: Option<Budget>) {
    let (refused, steps) = compile(rules);
    assert_eq!(refused, expected, "{shape}");
    for step in [Work::Compare, Work::Join, Work::Name] {
        let made = steps[step as usize];
        assert!(made <= STEPS, "{shape}: {made} steps of the kind {step:?}");
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
    let ports = if ports.is_empty() { Ports::Any } else { Ports::Listed(ports) };
    Rule { peers: Peers::Listed(peers), ports }
}

fn app(number: u32) -> Peer {
    let pods = Selector::label("app", &format!("app-{number}"));
    Peer::Pods(PodPeer { namespaces: Namespaces::Named("shop".into()), pods })
}

fn everywhere(requirements: impl IntoIterator<Item = (&'static str, Operator)>) -> Peer {
    let required = requirements.into_iter();
    let required = required.map(|(key, operator)| Requirement { key: key.into(), operator });
    let namespaces = Namespaces::Selected(Selector::everything());
    Peer::Pods(PodPeer { namespaces, pods: required.collect() })
}

fn values(numbers: std::ops::Range<u32>) -> SortedSet<Str> {
    numbers.map(|number| Str::from(number.to_string().as_str())).collect()
}

fn tcp(first: u32, last: u32) -> PortMatch {
    let [first, last] = [first, last].map(|port| u16::try_from(port).unwrap());
    PortMatch::Numbers(Protocol::Tcp, PortRange::new(first, last).unwrap())
}

fn named(number: u32) -> PortMatch {
    PortMatch::Named(Protocol::Tcp, name(number))
}

#[test]
fn ports_by_name_with_many_peers_exceed_the_budget_before_they_are_joined() {
    let rules = vec![rule((0..4_000).map(app).collect(), (0..4_000).map(named).collect())];
    check("ports by name, each with many peers", rules, Some(Budget::Peers));
}

#[test]
fn a_long_selector_in_many_ranges_exceeds_the_budget() {
    let long = everywhere([("app", Operator::NotIn(values(0..60_000)))]);
    let mut rules = vec![rule(vec![long], vec![tcp(1, 65_535)])];
    rules.extend((0..500).map(|n| rule(vec![app(n)], vec![tcp(n * 3 + 1, n * 3 + 2)])));
    check("a peer with many values in many port ranges", rules, Some(Budget::Peers));
}

#[test]
fn peers_that_no_label_distinguishes_are_few() {
    let not = |n: u32| ("x", Operator::NotIn(values(n..n + 1)));
    let all = Operator::In(["all".into()].into());
    let shapes = [
        ("all pods", vec![]),
        ("no pod", vec![("app", Operator::DoesNotExist)]),
        ("a label that all pods have", vec![("managed", all)]),
    ];
    for (shape, others) in shapes {
        let peer = |n| everywhere(others.iter().cloned().chain([not(n)]));
        let peers = |count| (0..count).map(peer);
        let rules = |count| vec![rule(peers(count).collect(), Vec::new())];
        check(shape, rules(4_000), Some(Budget::SimilarPeers));
        check(shape, rules(1_024), None);
    }
}

#[test]
fn peers_are_compared_with_pods_that_have_their_label() {
    let peers = |n: u32| everywhere([("app", Operator::In(values(n..n + 1)))]);
    check("many labels", vec![rule((0..20_000).map(peers).collect(), Vec::new())], None);
}

#[test]
fn a_set_is_named_once_for_all_rules_that_refer_to_it() {
    let ports = |first: u32| (0..500).map(|n| tcp(n * 4 + first, n * 4 + first)).collect();
    // The rules of the two unions alternate, so that no rule can list more than one port.
    let many = rule((0..2_000).map(app).collect(), ports(1));
    check("two unions in turns", vec![many, rule(vec![app(9_000)], ports(3))], None);
}

#[test]
fn a_set_of_addresses_and_ports_that_would_be_large_is_not_even_defined() {
    let mut rules = vec![rule((0..200).map(app).collect(), vec![tcp(1, 65_535)])];
    let own = |n: u32| rule(vec![app(1_000 + n)], vec![tcp(n * 15 + 1, n * 15 + 15)]);
    rules.extend((0..1_000).map(own));
    check("a thousand unions of fifteen ports", rules, None);
}

#[test]
fn it_does_not_matter_how_often_the_same_is_written() {
    let nested = |n: u32| vec![tcp(1 + n, 60_000 - n)];
    let same = (0..10_000).map(|n| rule(vec![app(1)], nested(n))).collect();
    check("rules for the same peer", same, None);
    let in_one = (0..20_000).flat_map(nested).collect();
    check("ranges of one rule", vec![rule(vec![app(1), app(2)], in_one)], None);
    let nothing = (0..20_000).map(|n| rule(vec![Peer::Invalid], nested(n))).collect();
    check("rules that match nothing", nothing, None);
}

#[test]
fn networks_are_counted_for_each_fifteen_ports_before_they_are_listed() {
    let block = |n: u32| {
        let cidr = ipnet::Ipv4Net::from(Ipv4Addr::from(0x1400_0000 + n * 2)).into();
        Peer::Block(IpBlock { cidr, except: Vec::new() })
    };
    let ports = (0..1_000).map(|n| tcp(n * 2 + 1, n * 2 + 1)).collect();
    let rules = vec![rule((0..20_000).map(block).collect(), ports)];
    check("20,000 networks and 1,000 ports", rules, Some(Budget::Networks));
}
