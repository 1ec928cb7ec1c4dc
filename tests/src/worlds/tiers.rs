//! Random policies of the cluster: of the tiers Admin, Baseline and Default.

use std::sync::Arc;

use policy_engine::direction::PerDirection;
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::{
    Namespaces, OrderedRule, Peer, Peers, PodPeer, Policy, Ports, Rule, Subject,
};
use policy_engine::selector::Selector;
use policy_engine::tier::{Action, Tier};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{addresses, block, mode, port_match, port_number, protocol, rule, selector};

/// Of any shape that the converters can give.
pub(super) fn cluster_policy() -> impl Strategy<Value = Policy> {
    let name = (0..4_u8).prop_map(|n| format!("cluster-{n}"));
    let tier = prop::sample::select(vec![Tier::Admin, Tier::Baseline]);
    let rules = |nodes| vec(tier_rule(nodes), 0..4);
    (name, tier, 0..3_i32, subject(), rules(false), rules(true), mode()).prop_map(
        |(name, tier, priority, subject, ingress, egress, mode)| {
            let (place, rules) = ((tier, priority), PerDirection { ingress, egress });
            Policy { mode, ..Policy::cluster_network_policy(name, place, subject, rules) }
        },
    )
}

/// Of any shape that the converters can give.
pub(super) fn default_policy() -> impl Strategy<Value = Policy> {
    let name = (0..3_u8).prop_map(|n| format!("default-{n}"));
    let rules = || option::weighted(0.7, vec(prop_oneof![rule(), own_rule()], 0..3));
    (name, subject(), rules(), rules(), any::<[bool; 3]>(), mode()).prop_map(
        |(name, subject, ingress, egress, [system, allow_dns, api_server], mode)| {
            let subject = Subject { spares_system: !system, ..subject };
            let rules = PerDirection { ingress, egress };
            let policy = Policy::cluster_default(name, subject, rules, allow_dns);
            let policy = policy.with_api_server(api_server.then(Arc::default));
            Policy { mode, ..policy }
        },
    )
}

/// Addresses of the API server: those of pods, of nodes, or of nobody.
pub(super) fn api_server() -> impl Strategy<Value = Change> {
    let name = prop::sample::select(vec!["kubernetes", "kubernetes-2"]);
    let name = name.prop_map(|name| ObjectRef::new(Kind::EndpointSlice, "default", name));
    let listed = vec((prop::sample::select(addresses()), protocol(), port_number()), 0..3);
    (name, option::weighted(0.8, listed))
        .prop_map(|(name, listed)| Change::ApiServer(name, listed.map(Arc::from)))
}

/// Mostly one that could be understood.
fn subject() -> impl Strategy<Value = Subject> {
    let part = || option::weighted(0.95, wide());
    (part(), part()).prop_map(|(namespaces, pods)| Subject {
        namespaces,
        pods,
        spares_system: false,
    })
}

/// So wide that policies meet: what decides among several must come up.
fn wide() -> impl Strategy<Value = Selector> {
    prop_oneof![2 => Just(Selector::everything()), 1 => selector()]
}

fn tier_rule(nodes: bool) -> impl Strategy<Value = OrderedRule> {
    let action = prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
    (action, vec(tier_peer(nodes), 1..4), ports(), 0..12_u8).prop_map(
        |(action, peers, ports, dice)| {
            // What a Deny or Pass rule becomes when a part of it could not be understood.
            if dice == 0 {
                let rule = Rule { peers: Peers::Any, ports: Ports::Any };
                return OrderedRule { action: Action::Deny, rule };
            }
            OrderedRule { action, rule: Rule { peers: Peers::Listed(peers), ports } }
        },
    )
}

fn tier_peer(nodes: bool) -> BoxedStrategy<Peer> {
    let pods = (wide(), selector()).prop_map(|(namespaces, pods)| {
        Peer::Pods(PodPeer { namespaces: Namespaces::Selected(namespaces), pods })
    });
    if nodes {
        let networks = block().prop_map(Peer::Block);
        prop_oneof![4 => pods, 2 => networks, 2 => selector().prop_map(Peer::Nodes)].boxed()
    } else {
        pods.boxed()
    }
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        2 => Just(Ports::Any),
        3 => vec(port_match(), 1..3).prop_map(Ports::Listed),
    ]
}

/// A rule for pods of the subject's own namespace.
fn own_rule() -> impl Strategy<Value = Rule> {
    (wide(), ports()).prop_map(|(pods, ports)| Rule {
        peers: Peers::Listed(vec![Peer::Pods(PodPeer { namespaces: Namespaces::Own, pods })]),
        ports,
    })
}
