//! Single policies of about 1.5 MiB, each of a shape that costs much in one place of the engine.

use policy_engine::direction::PerDirection;
use policy_engine::engine::Engine;
use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::policy::{
    IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule,
};
use policy_engine::port::Protocol;
use policy_engine::selector::{Operator, Requirement, Selector};

use super::{PODS, block, grows, loaded, own, tcp};

/// A name, a size, and the rules of a shape.
type Shape = (&'static str, u32, fn(u32) -> Vec<Rule>);

/// Prints a line for each shape.
pub(crate) fn print() {
    let shapes: [Shape; 10] = [
        ("17,000 peers, and so many ports by name", 50_000, names),
        ("500 port ranges, and a peer that lists so many values", 60_000, long_selector),
        ("peers that match all pods", 14_000, |count| everywhere(count, &[])),
        ("peers that match no pod", 14_000, |count| everywhere(count, &[without_app()])),
        ("peers of all namespaces, each with a label of its own", 23_000, labels),
        ("two unions in turns of 500 ports, one of so many peers", 17_000, in_turns),
        ("unions of 240 peers and 15 ports", 1_000, unions),
        ("20,000 ipBlocks, and so many ports", 1_000, blocks),
        ("networks in `except` of ::/0", 60_000, except),
        ("nested port ranges of rules that match nothing", 32_000, nothing),
    ];
    for (shape, size, rules) in shapes {
        grows(shape, &[size], |size| {
            let rules = rules(size);
            let work = |engine: &mut Engine| {
                engine.apply(both("hostile", rules));
                engine.flush();
            };
            (loaded(PODS), work)
        });
    }
}

/// Rules for both directions, since ports by name count differently.
fn both(name: &str, rules: Vec<Rule>) -> Change {
    let rules = PerDirection { ingress: Some(rules.clone()), egress: Some(rules) };
    Policy::network_policy("shop", name, Selector::everything(), rules).into()
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> Rule {
    let ports = if ports.is_empty() { Ports::Any } else { Ports::Listed(ports) };
    Rule { peers: Peers::Listed(peers), ports }
}

fn app(number: u32) -> Peer {
    own(Selector::label("app", &format!("app-{number}")))
}

fn selected(requirements: impl IntoIterator<Item = Requirement>) -> Peer {
    let namespaces = Namespaces::Selected(Selector::everything());
    Peer::Pods(PodPeer { namespaces, pods: requirements.into_iter().collect() })
}

fn not_in(values: std::ops::Range<u32>) -> Requirement {
    let values = values.map(|value| Str::from(value.to_string().as_str()));
    Requirement { key: "no".into(), operator: Operator::NotIn(values.collect()) }
}

fn without_app() -> Requirement {
    Requirement { key: "app".into(), operator: Operator::DoesNotExist }
}

fn everywhere(count: u32, others: &[Requirement]) -> Vec<Rule> {
    let peer = |n| selected([not_in(n..n + 1)].into_iter().chain(others.iter().cloned()));
    vec![rule((0..count).map(peer).collect(), Vec::new())]
}

fn names(count: u32) -> Vec<Rule> {
    let name = |n: u32| PortMatch::Named(Protocol::Tcp, format!("p{n}").as_str().into());
    vec![rule((0..17_000).map(app).collect(), (0..count).map(name).collect())]
}

fn long_selector(values: u32) -> Vec<Rule> {
    let mut rules = vec![rule(vec![selected([not_in(0..values)])], vec![tcp(1, 65_535)])];
    rules.extend((0..500).map(|n| rule(vec![app(n)], vec![tcp(n * 3 + 1, n * 3 + 2)])));
    rules
}

fn labels(count: u32) -> Vec<Rule> {
    let peer = |n: u32| {
        let namespaces = Namespaces::Selected(Selector::everything());
        let pods = Selector::label("a", &n.to_string());
        Peer::Pods(PodPeer { namespaces, pods })
    };
    vec![rule((0..count).map(peer).collect(), Vec::new())]
}

fn in_turns(count: u32) -> Vec<Rule> {
    let ports = |first: u32| (0..500).map(|n| tcp(n * 4 + first, n * 4 + first)).collect();
    vec![rule((0..count).map(app).collect(), ports(1)), rule(vec![app(20_000)], ports(3))]
}

fn unions(count: u32) -> Vec<Rule> {
    let mut rules = vec![rule((0..240).map(app).collect(), vec![tcp(1, 65_535)])];
    let own = |n| rule(vec![app(10_000 + n)], vec![tcp(n * 15 + 1, n * 15 + 15)]);
    rules.extend((0..count).map(own));
    rules
}

fn blocks(ports: u32) -> Vec<Rule> {
    let peers = (0..20_000).map(|n| block(n, Vec::new())).collect();
    vec![rule(peers, (0..ports).map(|n| tcp(n * 2 + 1, n * 2 + 1)).collect())]
}

fn except(count: u32) -> Vec<Rule> {
    let net = |n: u32| {
        let bits = (u128::from(n.wrapping_mul(0x9e37_79b1)) << 96) | (u128::from(n) << 40) | 5;
        ipnet::Ipv6Net::from(std::net::Ipv6Addr::from(bits)).into()
    };
    let cidr = "::/0".parse().expect("a network");
    let block = IpBlock { cidr, except: (0..count).map(net).collect() };
    vec![rule(vec![Peer::Block(block)], Vec::new())]
}

fn nothing(count: u32) -> Vec<Rule> {
    (0..count).map(|n| rule(vec![Peer::Invalid], vec![tcp(1, n + 10)])).collect()
}
