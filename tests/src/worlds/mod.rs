//! Random worlds for property tests: small enough that everything meets everything.
//!
//! Few names, labels, ports and addresses, so that pods share and take over addresses, selectors
//! match by chance, blocks cut each other, and namespaces are sometimes unknown.

mod tiers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use policy_engine::direction::PerDirection;
use policy_engine::flow::Traffic;
use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Change, Life, NamedPort, Namespace, Node, Pod, PodKey};
use policy_engine::policy::{
    IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule,
};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::{Operator, Requirement, Selector};
use policy_engine::tier::Mode;
use policy_engine::world::enforcement::Enforcement;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

/// The node whose pods are the subjects where a test looks at one node.
pub const OWN_NODE: &str = "node-1";

/// Every address that can occur: of pods, of nodes, and of nobody.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let v4 = (0..12).map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
    let v6 = (0..12).map(|host| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host)));
    v4.chain(v6).collect()
}

/// Traffic to all ports that rules single out, to some beside them, and without ports.
#[must_use]
pub fn traffic() -> Vec<Traffic> {
    let ports = [0, 53, 79, 80, 81, 82, 83, 65535];
    let numbered = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| ports.map(|port| Traffic::Port(protocol, port)));
    numbered.chain([Traffic::Other]).collect()
}

/// A history: changes in the order in which they arrive.
pub fn history(
    changes: impl Into<prop::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Change>> {
    vec(change(), changes)
}

/// One change to a small world.
pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (pod(), 0..10_u8).prop_map(|(pod, dice)| {
            Change::Pod(pod.key.clone(), (dice > 1).then(|| Arc::new(pod)))
        }),
        2 => (namespace_name(), option::weighted(0.8, labels())).prop_map(|(name, labels)| {
            let found = labels.map(|labels| Namespace {
                labels: labels.with("kubernetes.io/metadata.name", &name),
            });
            Change::Namespace(name, found)
        }),
        1 => (node_name(), option::weighted(0.8, vec(node_address(), 1..3)))
            .prop_flat_map(|(name, found)| (Just(name), Just(found), labels()))
            .prop_map(|(name, found, labels)| {
                Change::Node(name, found.map(|addresses| Node { labels, addresses }))
            }),
        6 => (policy(), 0..10_u8).prop_map(put_or_remove),
        2 => (tiers::cluster_policy(), 0..10_u8).prop_map(put_or_remove),
        2 => (tiers::default_policy(), 0..10_u8).prop_map(put_or_remove),
        1 => tiers::api_server(),
    ]
}

/// Pods of several nodes that claim one of two addresses, some of them terminating; the last changes
/// take some of the pods away.
pub fn claims(
    changes: impl Into<prop::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Change>> {
    let claim = (pod(), 0..2_u8, 0..10_u8).prop_map(|(pod, host, dice)| {
        let pod = Pod { addresses: addresses_of(Some(host), Some(host)).into(), ..pod };
        Change::Pod(pod.key.clone(), (dice > 0).then(|| Arc::new(pod)))
    });
    vec(claim, changes)
}

fn put_or_remove((policy, dice): (Policy, u8)) -> Change {
    Change::Policy(policy.name.clone(), (dice > 1).then(|| Arc::new(policy)))
}

/// A pod, mostly of the own node.
pub fn pod() -> impl Strategy<Value = Pod> {
    let name = (0..4_u8).prop_map(|n| format!("pod-{n}"));
    let node = option::weighted(0.9, node_name());
    let life = prop_oneof![
        8 => Just(Life::Active),
        1 => Just(Life::Terminating),
        1 => Just(Life::Finished),
    ];
    let addresses = (option::weighted(0.9, 0..8_u8), option::weighted(0.6, 0..8_u8));
    let host_network = prop::bool::weighted(0.1);
    let key = (namespace_name(), name);
    (key, labels(), node, addresses, vec(named_port(), 0..3), host_network, life, 0..3_i64)
        .prop_map(
            |((namespace, name), labels, node, (v4, v6), ports, host_network, life, created)| {
                let addresses = addresses_of(v4, v6).into();
                let key = PodKey::new(&namespace, &name);
                let pod = Pod::new(key, labels);
                Pod { node, addresses, ports: ports.into(), host_network, life, created, ..pod }
            },
        )
}

fn addresses_of(v4: Option<u8>, v6: Option<u8>) -> Vec<IpAddr> {
    let v4 = v4.map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
    let v6 = v6.map(|host| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())));
    v4.into_iter().chain(v6).collect()
}

/// A policy of any shape that the converters can give.
pub fn policy() -> impl Strategy<Value = Policy> {
    let name = (0..4_u8).prop_map(|n| format!("policy-{n}"));
    // Sometimes so many that they are written in groups of ports.
    let some = || prop_oneof![39 => vec(rule(), 0..4), 1 => vec(rule(), 10..16)];
    let rules = || option::weighted(0.7, some());
    (namespace_name(), name, selector(), rules(), rules(), mode()).prop_map(
        |(namespace, name, subject, ingress, egress, mode)| {
            let rules = PerDirection { ingress, egress };
            Policy { mode, ..Policy::network_policy(namespace, name, subject, rules) }
        },
    )
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Audit)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => vec(peer(), 0..4).prop_map(Peers::Listed),
    ];
    let ports = prop_oneof![
        1 => Just(Ports::Any),
        3 => vec(port_match(), 1..4).prop_map(Ports::Listed),
    ];
    (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports })
}

fn peer() -> impl Strategy<Value = Peer> {
    let namespaces = prop_oneof![
        namespace_name().prop_map(Namespaces::Named),
        selector().prop_map(Namespaces::Selected),
    ];
    prop_oneof![
        6 => (namespaces, selector())
            .prop_map(|(namespaces, pods)| Peer::Pods(PodPeer { namespaces, pods })),
        3 => block().prop_map(Peer::Block),
        1 => Just(Peer::Invalid),
    ]
}

fn block() -> impl Strategy<Value = IpBlock> {
    let net = |family: bool| {
        (0..16_u8, prop_oneof![4 => 0..=4_u8, 1 => Just(u8::MAX)]).prop_map(move |(host, free)| {
            let (address, width) = if family {
                (IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 32_u8)
            } else {
                (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())), 128)
            };
            let length = width.saturating_sub(free).min(if free == u8::MAX { 0 } else { width });
            ipnet::IpNet::new(address, length).expect("the length fits the family").trunc()
        })
    };
    any::<bool>().prop_flat_map(move |family| {
        (net(family), vec(net(family), 0..3)).prop_map(|(cidr, except)| IpBlock { cidr, except })
    })
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    let range = prop_oneof![
        3 => port_number().prop_map(PortRange::single),
        1 => Just(PortRange::ALL),
        2 => (port_number(), 0..3_u16).prop_map(|(first, more)| {
            PortRange::new(first, first.saturating_add(more)).expect("ends behind its start")
        }),
    ];
    prop_oneof![
        6 => (protocol(), range).prop_map(|(protocol, range)| PortMatch::Numbers(protocol, range)),
        3 => (protocol(), port_name()).prop_map(|(protocol, name)| PortMatch::Named(protocol, name)),
        1 => Just(PortMatch::Invalid),
    ]
}

fn named_port() -> impl Strategy<Value = NamedPort> {
    (port_name(), protocol(), port_number()).prop_map(|(name, protocol, number)| NamedPort {
        name,
        protocol,
        number,
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let operator = prop_oneof![
        3 => btree_set(label_value(), 1..3).prop_map(|values| Operator::In(values.into())),
        2 => btree_set(label_value(), 1..3).prop_map(|values| Operator::NotIn(values.into())),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement =
        (label_key(), operator).prop_map(|(key, operator)| Requirement { key, operator });
    vec(requirement, 0..3).prop_map(Selector::from_iter)
}

/// In which namespaces policies are enforced.
pub fn enforcement() -> impl Strategy<Value = Enforcement> {
    prop_oneof![
        4 => Just(Enforcement::Everywhere),
        1 => Just(Enforcement::Nowhere),
        3 => selector().prop_map(Enforcement::Namespaces),
    ]
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(label_key(), label_value(), 0..3).prop_map(Labels::from_iter)
}

fn label_key() -> impl Strategy<Value = Str> {
    prop::sample::select(vec!["app", "tier", "team"]).prop_map(Str::from)
}

fn label_value() -> impl Strategy<Value = Str> {
    prop::sample::select(vec!["a", "b", ""]).prop_map(Str::from)
}

fn namespace_name() -> impl Strategy<Value = Str> {
    prop::sample::select(vec!["one", "two", "kube-system"]).prop_map(Str::from)
}

fn node_name() -> impl Strategy<Value = Str> {
    prop::sample::select(vec![OWN_NODE, OWN_NODE, "node-2"]).prop_map(Str::from)
}

fn node_address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec!["10.0.0.8", "10.0.0.9", "fd00::8", "fd00::9"])
        .prop_map(|address| address.parse().expect("an address"))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn port_name() -> impl Strategy<Value = Str> {
    prop::sample::select(vec!["web", "dns"]).prop_map(Str::from)
}

fn port_number() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![53, 80, 81, 82, 65534])
}
