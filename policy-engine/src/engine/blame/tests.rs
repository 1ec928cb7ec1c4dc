//! `blame` returns what `explain` returns, with an effort that stays bounded.

use super::super::Scope;
use super::*;
use crate::direction::PerDirection;
use crate::explain::explain;
use crate::flow::Traffic;
use crate::labels::Labels;
use crate::model::{Change, Pod, PodKey};
use crate::object::Kind;
use crate::policy::{Peers, PodPeer, Policy, Ports};
use crate::port::{PortRange, Protocol};
use crate::world::Options;

const CLIENT: &str = "10.0.0.1";
const SERVER: &str = "10.0.0.2";

fn pod(name: &str, address: &str) -> Change {
    let pod = Pod::new(PodKey::new("shop", name), Labels::from_iter([("app", name)]));
    Pod { addresses: vec![address.parse().unwrap()].into(), ..pod }.into()
}

/// Allows TCP `port` from pods labelled `app: APP`.
fn rule(app: &str, port: u16) -> Rule {
    let peer =
        PodPeer { namespaces: Namespaces::Named("shop".into()), pods: Selector::label("app", app) };
    Rule {
        peers: Peers::Listed(vec![Peer::Pods(peer)]),
        ports: Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, PortRange::single(port))]),
    }
}

fn policy(name: &str, ingress: Vec<Rule>) -> Change {
    let rules = PerDirection { ingress: Some(ingress), egress: None };
    Policy::network_policy("shop", name, Selector::everything(), rules).into()
}

fn rule_of(policy: &str, rule: usize) -> RuleRef {
    RuleRef { policy: ObjectRef::new(Kind::NetworkPolicy, "shop", policy), rule }
}

fn engine(policies: impl IntoIterator<Item = Change>) -> Engine {
    let mut engine = Engine::new(Scope::Cluster, Options::default());
    let pods = [pod("client", CLIENT), pod("server", SERVER)];
    pods.into_iter().chain(policies).for_each(|change| engine.apply(change));
    engine.flush();
    engine
}

fn flow(engine: &Engine) -> Flow {
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    engine.world().flow(client, server, Traffic::Port(Protocol::Tcp, 80))
}

fn blame(engine: &Engine) -> Blame {
    engine.blame(&flow(engine), Direction::Ingress, View::Enforced).expect("the flow is denied")
}

#[test]
fn the_closest_rule_is_that_of_explain() {
    let engine = engine([
        policy("a", vec![rule("other", 81)]),
        policy("b", vec![rule("other", 80), rule("client", 81), rule("client", 82)]),
        policy("c", Vec::new()),
    ]);
    let explained = explain(engine.world(), &flow(&engine));
    let blame = blame(&engine);
    assert_eq!(blame.isolated_by, explained.verdict.ingress.isolated_by);
    assert_eq!(blame.isolating, 3);
    assert_eq!(blame.closest.as_ref(), explained.ingress.first().map(|miss| &miss.rule));
    let expected = rule_of("b", 2);
    assert_eq!(blame.closest, Some(expected));
}

#[test]
fn of_ten_thousand_policies_few_are_read_and_all_are_counted() {
    let many = (0..10_000).map(|n| policy(&format!("p{n:05}"), vec![rule("other", 80)]));
    let closer = policy("q", vec![rule("client", 81)]);
    let engine = engine(many.chain([closer]));
    let blame = blame(&engine);
    assert_eq!((blame.isolating, blame.isolated_by.len()), (10_001, POLICIES_NAMED));
    let expected = rule_of("p00000", 1);
    assert_eq!(blame.closest, Some(expected), "the search ends before q");
}

#[test]
fn a_rule_that_is_too_long_to_read_ends_the_search() {
    let mut long = rule("other", 80);
    if let Peers::Listed(peers) = &mut long.peers {
        *peers = vec![peers[0].clone(); EFFORT_MAX];
    }
    let last = rule("client", 81);
    let engine = engine([policy("a", vec![rule("other", 81), long, last])]);
    let expected = rule_of("a", 1);
    assert_eq!(blame(&engine).closest, Some(expected));
}
