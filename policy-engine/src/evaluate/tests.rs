//! One flow at a time: which reason decides it, and which rule.

use super::*;
use crate::direction::PerDirection;
use crate::labels::Labels;
use crate::model::{NamedPort, PodKey};
use crate::policy::OrderedRule;
use crate::port::{PortRange, Protocol};
use crate::selector::Selector;
use crate::world::Options;

fn web() -> Pod {
    let ports = [NamedPort { name: "http".into(), protocol: Protocol::Tcp, number: 8080 }].into();
    let pod = Pod::new(PodKey::new("shop", "web"), Labels::from_iter([("app", "web")]));
    Pod { ports, node: Some("n1".into()), ..pod }
}

/// `shop/web` on node `n1`, and `shop/other`.
fn world(allow_egress_to_own_node: bool) -> World {
    let mut world = World::new(Options { allow_egress_to_own_node, ..Options::default() });
    world.apply(web().into());
    world.apply(Pod::new(PodKey::new("shop", "other"), Labels::default()).into());
    world
}

fn with(policies: impl IntoIterator<Item = Policy>) -> World {
    let mut world = world(false);
    policies.into_iter().for_each(|policy| world.apply(policy.into()));
    world
}

fn isolating(name: &str, ports: Ports) -> Policy {
    let rules = vec![Rule { peers: Peers::Any, ports }];
    let rules = PerDirection { ingress: Some(rules.clone()), egress: Some(rules) };
    Policy::network_policy("shop", name, Selector::label("app", "web"), rules)
}

fn pod(name: &str) -> Endpoint {
    Endpoint::Pod(PodKey::new("shop", name), None)
}

fn node(name: &str) -> Endpoint {
    Endpoint::Node(name.into(), None)
}

fn flow(source: Endpoint, destination: Endpoint, traffic: Traffic) -> Flow {
    Flow { source, destination, traffic }
}

const TCP: Traffic = Traffic::Port(Protocol::Tcp, 8080);

fn nothing() -> Ports {
    Ports::Listed(Vec::new())
}

#[test]
fn only_a_pod_and_its_node_are_exempt() {
    let isolated = |own_node| {
        let mut world = world(own_node);
        world.apply(isolating("closed", nothing()).into());
        world
    };
    let reasons = |own_node: bool, source: Endpoint, destination: Endpoint| {
        let verdict = evaluate(&isolated(own_node), &flow(source, destination, TCP));
        (verdict.egress.reason, verdict.ingress.reason)
    };
    let closed = Reason::NoRuleAllows;
    for (own_node, source, destination, expected) in [
        (false, pod("web"), pod("web"), (Reason::SamePod, Reason::SamePod)),
        (false, pod("other"), pod("web"), (Reason::NotIsolated, closed)),
        (false, node("n1"), pod("web"), (Reason::NoSubject, Reason::OwnNode)),
        (false, node("n2"), pod("web"), (Reason::NoSubject, closed)),
        (false, pod("web"), node("n1"), (closed, Reason::NoSubject)),
        (true, pod("web"), node("n1"), (Reason::EgressToOwnNode, Reason::NoSubject)),
        (true, pod("web"), node("n2"), (closed, Reason::NoSubject)),
        (true, node("n2"), pod("web"), (Reason::NoSubject, closed)),
    ] {
        let what = format!("{source} to {destination}, {own_node}");
        assert_eq!(reasons(own_node, source, destination), expected, "{what}");
    }
}

#[test]
fn a_port_matches_by_protocol_and_number_and_a_name_also_by_the_pod() {
    let range = |first, last| PortRange::new(first, last).unwrap();
    let allows = |item: PortMatch, traffic| {
        let world = with([isolating("ports", Ports::Listed(vec![item]))]);
        evaluate(&world, &flow(pod("other"), pod("web"), traffic)).ingress.is_allowed()
    };
    let numbers = |protocol, first, last| PortMatch::Numbers(protocol, range(first, last));
    let named = |protocol, name: &str| PortMatch::Named(protocol, name.into());
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    for (item, port, expected) in [
        (numbers(tcp, 8080, 8080), (tcp, 8080), true),
        (numbers(tcp, 8080, 8080), (tcp, 8081), false),
        (numbers(tcp, 8080, 8080), (udp, 8080), false),
        (numbers(udp, 8000, 8080), (udp, 8000), true),
        (named(tcp, "http"), (tcp, 8080), true),
        (named(tcp, "http"), (tcp, 8081), false),
        (named(tcp, "http"), (udp, 8080), false),
        (named(udp, "http"), (udp, 8080), false),
        (named(udp, "http"), (tcp, 8080), false),
        (named(tcp, "https"), (tcp, 8080), false),
        (PortMatch::Invalid, (tcp, 8080), false),
    ] {
        assert_eq!(
            allows(item.clone(), Traffic::Port(port.0, port.1)),
            expected,
            "{item:?} {port:?}"
        );
        assert!(!allows(item, Traffic::Other));
    }
}

#[test]
fn the_first_tier_with_a_decision_decides_and_its_rules_are_named() {
    let cluster = |name: &str, tier, actions: &[Action]| {
        let rule = Rule { peers: Peers::Any, ports: Ports::Any };
        let rules =
            actions.iter().map(|action| OrderedRule { action: *action, rule: rule.clone() });
        let rules = PerDirection { ingress: rules.collect(), egress: Vec::new() };
        let subject = crate::policy::Subject::pods(Selector::everything());
        Policy::cluster_network_policy(name, (tier, 1), subject, rules)
    };
    let ingress = |policies: Vec<Policy>| {
        evaluate(&with(policies), &flow(pod("other"), pod("web"), TCP)).ingress
    };
    let (open, closed) = (|| isolating("open", Ports::Any), || isolating("closed", nothing()));
    let admin = |actions: &[Action]| cluster("admin", Tier::Admin, actions);
    let baseline = |actions: &[Action]| cluster("baseline", Tier::Baseline, actions);
    let (accept, deny, pass) = (Action::Accept, Action::Deny, Action::Pass);
    for (policies, reason, tier) in [
        (vec![], Reason::NotIsolated, None),
        (vec![closed()], Reason::NoRuleAllows, Some(Tier::NetworkPolicy)),
        (vec![closed(), open()], Reason::RuleAllows, Some(Tier::NetworkPolicy)),
        (vec![admin(&[accept]), closed()], Reason::RuleAccepts, Some(Tier::Admin)),
        (vec![admin(&[deny]), open()], Reason::RuleDenies, Some(Tier::Admin)),
        (vec![admin(&[pass, deny]), open()], Reason::RuleAllows, Some(Tier::NetworkPolicy)),
        (vec![admin(&[]), baseline(&[deny])], Reason::RuleDenies, Some(Tier::Baseline)),
        (vec![baseline(&[deny]), open()], Reason::RuleAllows, Some(Tier::NetworkPolicy)),
    ] {
        let decision = ingress(policies);
        assert_eq!((decision.reason, decision.tier), (reason, tier), "{decision:?}");
    }
    let decision = ingress(vec![admin(&[pass]), closed(), open()]);
    let names = |rules: &[RuleRef]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&decision.decided_by), ["shop/open rule 1"]);
    assert_eq!(names(&decision.passed_by), ["ClusterNetworkPolicy/admin rule 1"]);
    let isolated_by: Vec<String> = decision.isolated_by.iter().map(ObjectRef::short).collect();
    assert_eq!(isolated_by, ["shop/closed", "shop/open"]);
}
