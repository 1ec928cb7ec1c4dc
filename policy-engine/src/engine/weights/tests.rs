//! Budgets and weights that pods cross in both directions, and hostile policies whose cost is bounded.

use std::net::{IpAddr, Ipv4Addr};

use crate::budget::{Budget, Budgets};
use crate::compiled::{Match, SetKind};
use crate::direction::{Direction, PerDirection};
use crate::engine::{Engine, Scope};
use crate::flow::Traffic;
use crate::labels::Labels;
use crate::model::{Change, Namespace, Pod, PodKey};
use crate::object::{Kind, ObjectRef};
use crate::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::selector::Selector;
use crate::world::Options;

const NODE: &str = "node-1";

fn engine(budgets: Budgets) -> Engine {
    let options = Options { budgets, ..Options::default() };
    Engine::new(Scope::Node(NODE.into()), options)
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn pod(number: u32, node: &str) -> Change {
    let key = PodKey::new("shop", &format!("pod-{number}"));
    let labels = Labels::from_iter([("app", format!("app-{}", number % 10))]);
    let (node, addresses) = (Some(node.into()), vec![address(number)].into());
    Pod { node, addresses, ..Pod::new(key, labels) }.into()
}

fn deleted(number: u32) -> Change {
    Change::Pod(PodKey::new("shop", &format!("pod-{number}")), None)
}

fn app(number: usize) -> Peers {
    let pods = Selector::label("app", &format!("app-{number}"));
    Peers::Listed(vec![Peer::Pods(PodPeer { namespaces: Namespaces::Named("shop".into()), pods })])
}

/// All pods of the namespaces with a label of one of so many values, or without it.
fn all_pods(values: usize) -> Peers {
    use crate::selector::{Operator, Requirement};
    let values = (0..=values).map(|value| value.to_string().as_str().into()).collect();
    let other = Requirement { key: "no".into(), operator: Operator::NotIn(values) };
    let pods = Selector::from_iter([other]);
    let namespaces = Namespaces::Selected(Selector::everything());
    Peers::Listed(vec![Peer::Pods(PodPeer { namespaces, pods })])
}

fn tcp(first: u16, last: u16) -> Ports {
    let range = PortRange::new(first, last).unwrap();
    Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, range)])
}

fn each(ports: impl Iterator<Item = u16>) -> Ports {
    let single = |port| PortMatch::Numbers(Protocol::Tcp, PortRange::single(port));
    Ports::Listed(ports.map(single).collect())
}

fn policy(name: &str, rules: Vec<Rule>) -> Change {
    let rules = PerDirection { ingress: Some(rules), egress: None };
    Policy::network_policy("shop", name, Selector::label("app", "app-0"), rules).into()
}

fn refused(engine: &Engine) -> Vec<(Budget, String)> {
    let name = |policy: &Policy| policy.name.short();
    engine
        .refused()
        .map(|r| (r.exceeded.budget, r.largest.map_or_else(String::new, |p| name(p))))
        .collect()
}

fn allows(engine: &Engine, from: u32, port: u16) -> bool {
    let traffic = Traffic::Port(Protocol::Tcp, port);
    engine.compiled().allows_in(Direction::Ingress, address(0), address(from), traffic)
}

#[test]
fn rules_with_too_many_members_deny_until_the_pods_are_fewer() {
    let mut engine = engine(Budgets { members: 20, ..Budgets::default() });
    engine.apply(pod(0, NODE));
    engine.apply(policy("all", vec![Rule { peers: all_pods(0), ports: tcp(80, 80) }]));
    (1..20).for_each(|number| engine.apply(pod(number, "node-2")));
    engine.flush();
    assert!(refused(&engine).is_empty() && allows(&engine, 7, 80));
    engine.apply(pod(20, "node-2"));
    engine.flush();
    assert_eq!(refused(&engine), [(Budget::Members, "shop/all".to_owned())]);
    assert!(!allows(&engine, 7, 80));
    assert!(engine.compiled().sets.is_empty(), "what is not used is not kept");
    assert!(engine.flush().is_empty());
    engine.apply(deleted(3));
    let update = engine.flush();
    assert!(refused(&engine).is_empty() && allows(&engine, 7, 80) && !allows(&engine, 3, 80));
    assert_eq!((update.sets_created.len(), update.rules_changed), (1, true));
}

#[test]
fn a_large_set_of_addresses_and_ports_becomes_rules_and_the_reverse() {
    let mut engine = engine(Budgets { members_with_ports: 40, ..Budgets::default() });
    engine.apply(pod(0, NODE));
    // Six unions of two ports.
    let rules = (1..7_u16).map(|n| Rule { peers: app(n.into()), ports: tcp(n * 10, n * 10 + 1) });
    engine.apply(policy("ports", rules.collect()));
    (1..33).for_each(|number| engine.apply(pod(number, "node-2")));
    engine.flush();
    let kinds = |engine: &Engine| -> Vec<SetKind> {
        engine.compiled().sets.values().map(|set| set.kind).collect()
    };
    // Pods 1 to 32: four of app-1 and app-2, three of the others, each with two ports: 40.
    assert_eq!(kinds(&engine), [SetKind::AddressPorts]);
    assert!(allows(&engine, 13, 30) && !allows(&engine, 13, 40));
    engine.apply(pod(33, "node-2"));
    engine.flush();
    assert_eq!(kinds(&engine), vec![SetKind::Addresses; 6]);
    assert!(allows(&engine, 13, 30) && allows(&engine, 33, 31) && !allows(&engine, 13, 40));
    engine.apply(deleted(13));
    engine.flush();
    assert_eq!(kinds(&engine), [SetKind::AddressPorts]);
    assert!(allows(&engine, 33, 31) && !allows(&engine, 13, 30));
}

#[test]
fn a_relabelled_namespace_changes_the_members_of_its_own_selector_only() {
    let mut engine = engine(Budgets::default());
    engine.apply(pod(0, NODE));
    let labelled = |value: &str| {
        let labels = Labels::from_iter([("team", value)]);
        Change::Namespace("other".into(), Some(Namespace { labels }))
    };
    engine.apply(labelled("a"));
    for number in 100..200 {
        let key = PodKey::new("other", &format!("pod-{number}"));
        let (node, addresses) = (Some("node-2".into()), vec![address(number)].into());
        engine.apply(Pod { node, addresses, ..Pod::new(key, Labels::default()) }.into());
    }
    // Fifty unions, each with the selected namespaces and with pods of its own.
    let team = Namespaces::Selected(Selector::label("team", "b"));
    let team = Peer::Pods(PodPeer { namespaces: team, pods: Selector::everything() });
    let rules = (0..50_u16).map(|n| {
        let Peers::Listed(mut peers) = app(n.into()) else { unreachable!() };
        peers.push(team.clone());
        Rule { peers: Peers::Listed(peers), ports: tcp(n * 20, n * 20 + 18) }
    });
    engine.apply(policy("ranges", rules.collect()));
    engine.flush();
    assert!(refused(&engine).is_empty() && !allows(&engine, 150, 25));
    engine.apply(labelled("b"));
    let update = engine.flush();
    assert!(allows(&engine, 150, 25) && !allows(&engine, 150, 39));
    let added: usize = update.sets_changed.values().map(|delta| delta.added.len()).sum();
    assert_eq!((update.rules_changed, added), (false, 100), "one set, not fifty");
}

/// One object of 1.5 MiB can have so many rules.
#[test]
fn of_a_hostile_policy_few_rules_and_members_are_made() {
    let shapes: [(&str, Vec<Rule>, Option<Budget>); 5] = [
        (
            "nested ranges with peers of their own",
            (0..5_000)
                .map(|n| Rule { peers: app(n.into()), ports: tcp(1 + n, 60_000 - n) })
                .collect(),
            Some(Budget::Peers),
        ),
        (
            "ranges that follow each other, each with a peer that matches all pods",
            (0..1_000)
                .map(|n| Rule { peers: all_pods(n.into()), ports: tcp(n * 20, n * 20 + 18) })
                .collect(),
            Some(Budget::Members),
        ),
        (
            "three thousand rules of fifteen ports",
            (0..3_000)
                .map(|n: u16| Rule {
                    peers: app(n.into()),
                    ports: each((0..15).map(|at| n * 15 + at)),
                })
                .collect(),
            Some(Budget::PortRanges),
        ),
        (
            "fifteen ports for all pods, five times",
            (0..5_u16)
                .map(|n| {
                    let ports = each((0..15).map(|at| n * 100 + at * 2));
                    Rule { peers: all_pods(n.into()), ports }
                })
                .collect(),
            None,
        ),
        (
            "five hundred ranges with peers of their own",
            (0..500)
                .map(|n| Rule { peers: app(n.into()), ports: tcp(n * 20, n * 20 + 18) })
                .collect(),
            None,
        ),
    ];
    for (shape, rules, expected) in shapes {
        let mut engine = engine(Budgets::default());
        engine.apply(pod(0, NODE));
        (1..1_000).for_each(|number| engine.apply(pod(number, "node-2")));
        engine.apply(policy("hostile", rules));
        engine.flush();
        let found = refused(&engine).first().map(|(budget, _)| *budget);
        assert_eq!(found, expected, "{shape}");
        let compiled = engine.compiled();
        let members: usize = compiled.sets.values().map(|set| set.members.len()).sum();
        let rules = compiled.rulesets.values().map(|ruleset| ruleset.rules.len());
        let (longest, all) = (rules.clone().max().unwrap_or(0), rules.sum::<usize>());
        assert!(members <= 10_000, "{shape}: {members} members");
        assert!(longest <= 24, "{shape}: {longest} rules in a row");
        assert!(all <= 600, "{shape}: {all} rules");
        let labelled = compiled.rulesets.values().flat_map(|ruleset| &ruleset.rules);
        assert!(labelled.clone().count() > 0 || expected.is_some());
        let with_ports = labelled.filter(|rule| matches!(rule.matches, Match::PeerPorts { .. }));
        assert_eq!(with_ports.count(), 0, "{shape}: no set of addresses and ports");
    }
}

#[test]
fn pods_that_differ_in_ports_that_no_rule_names_share_their_rules() {
    use crate::model::NamedPort;
    let mut engine = engine(Budgets::default());
    for number in 0..20_u16 {
        let key = PodKey::new("shop", &format!("pod-{number}"));
        let port = NamedPort {
            name: format!("p{number}").as_str().into(),
            protocol: Protocol::Tcp,
            number,
        };
        let labels = Labels::from_iter([("app", "app-0")]);
        let (node, addresses) = (Some(NODE.into()), vec![address(number.into())].into());
        engine.apply(Pod { node, addresses, ports: [port].into(), ..Pod::new(key, labels) }.into());
    }
    let named = |name: &str| Ports::Listed(vec![PortMatch::Named(Protocol::Tcp, name.into())]);
    engine.apply(policy("named", vec![Rule { peers: app(1), ports: named("p7") }]));
    engine.flush();
    assert_eq!(engine.compiled().rulesets.len(), 2, "of the pod with the port, and of all others");
    engine.apply(Change::Policy(ObjectRef::new(Kind::NetworkPolicy, "shop", "named"), None));
    engine.flush();
    assert_eq!(engine.compiled().rulesets.len(), 0);
}

#[test]
fn a_set_of_addresses_and_ports_is_asked_before_groups_of_port_ranges() {
    let mut engine = engine(Budgets::default());
    (0..10).for_each(|number| engine.apply(pod(number, NODE)));
    // Six unions of pods for one port each, and networks for ranges around these ports.
    let pods = (1..7_u16).map(|n| Rule { peers: app(n.into()), ports: tcp(n * 10, n * 10) });
    let networks = (0..20_u16).map(|n| {
        let cidr = format!("192.0.2.{n}/32").parse().unwrap();
        let peers = Peers::Listed(vec![Peer::Block(IpBlock { cidr, except: Vec::new() })]);
        Rule { peers, ports: tcp(n * 10 + 1, n * 10 + 9) }
    });
    engine.apply(policy("both", pods.chain(networks).collect()));
    engine.flush();
    let kinds: Vec<SetKind> = engine.compiled().sets.values().map(|set| set.kind).collect();
    assert_eq!(kinds, [SetKind::AddressPorts]);
    assert!(engine.compiled().rulesets.len() > 1, "there are groups");
    for n in 1..7_u16 {
        assert!(allows(&engine, n.into(), n * 10) && !allows(&engine, n.into(), n * 10 + 1));
    }
    let outside: IpAddr = "192.0.2.7".parse().unwrap();
    let traffic = Traffic::Port(Protocol::Tcp, 75);
    assert!(engine.compiled().allows_in(Direction::Ingress, address(0), outside, traffic));
}
