//! What hostile shapes cost the engine, each at growing sizes: CPU time, members and rules.
//!
//! `cargo bench -p portcullis-tests --bench hostile`
//!
//! A shape that takes longer than [`LIMIT`] is not made larger: its growth is visible by then.
//! With `-- rulesets`, only the last table is printed: one change on a node with many rulesets. With
//! `-- objects`, only single policies of about 1.5 MiB are measured.

#[path = "hostile/objects.rs"]
mod objects;
#[path = "hostile/rulesets.rs"]
mod rulesets;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use policy_engine::direction::PerDirection;
use policy_engine::engine::{Engine, Scope};
use policy_engine::labels::Labels;
use policy_engine::model::{Change, NamedPort, Namespace, Pod, PodKey};
use policy_engine::policy::{
    IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule,
};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::{Operator, Requirement, Selector};
use policy_engine::world::Options;

const LIMIT: Duration = Duration::from_secs(20);

/// Pods of the cluster, of which the first is on the node.
const PODS: u32 = 10_000;

fn main() {
    if std::env::args().any(|argument| argument == "rulesets") {
        rulesets::print();
        return;
    }
    println!("{:<58} {:>8} {:>10} {:>9} {:>7}", "shape", "size", "CPU ms", "members", "rules");
    objects::print();
    if std::env::args().any(|argument| argument == "objects") {
        return;
    }
    let rules = |rules: fn(u32) -> Vec<Rule>| move |size| policy(loaded(PODS), rules(size));
    grows(
        "nested port ranges with peers of their own",
        &[100, 300, 1_000, 3_000, 5_000],
        rules(nested),
    );
    grows(
        "port ranges, each with a peer that matches all pods",
        &[10, 50, 250, 1_000],
        rules(ranges),
    );
    grows("5 rules for all pods, of so many ports each", &[1, 5, 15], rules(ports));
    grows("ipBlocks of one rule", &[1_000, 5_000, 10_000, 40_000], rules(blocks));
    grows("ipBlocks, each with a port of its own", &[100, 1_000, 5_000], rules(blocks_with_ports));
    grows("networks in `except` of one ipBlock", &[1_000, 10_000, 30_000], rules(except));
    grows("pods with named ports that no rule names, 5,000 policies", &[1, 10, 60], named_ports);
    grows("pods, and a policy with a label key that is new", &[10_000, 100_000], new_key);
    grows("pods of a namespace that is relabelled, 100 policies", &[1_000, 10_000], relabelled);
    rulesets::print();
}

/// Runs a shape at each size. It returns the engine, and the work that is measured.
fn grows<W: FnOnce(&mut Engine)>(shape: &str, sizes: &[u32], make: impl Fn(u32) -> (Engine, W)) {
    for size in sizes {
        let (mut engine, work) = make(*size);
        let before = cpu();
        work(&mut engine);
        let took = cpu().saturating_sub(before);
        let compiled = engine.compiled();
        let members: usize = compiled.sets.values().map(|set| set.members.len()).sum();
        let rules: usize = compiled.rulesets.values().map(|ruleset| ruleset.rules.len()).sum();
        println!(
            "{shape:<58} {size:>8} {:>10.1} {members:>9} {rules:>7}",
            took.as_secs_f64() * 1e3
        );
        if took > LIMIT {
            break;
        }
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel knows what this process used");
    let used = usage.user_time();
    Duration::from_secs(used.tv_sec().unsigned_abs())
        + Duration::from_micros(used.tv_usec().unsigned_abs())
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn pod(number: u32, namespace: &str) -> Pod {
    let key = PodKey::new(namespace, &format!("pod-{number}"));
    let labels = Labels::from_iter([
        ("app", format!("app-{}", number / 10)),
        ("pod-template-hash", format!("{:08x}", number / 10 * 7919)),
    ]);
    let node = if number == 0 { "node-1" } else { "node-2" };
    Pod {
        node: Some(node.into()),
        addresses: vec![address(number)].into(),
        ..Pod::new(key, labels)
    }
}

fn loaded(pods: u32) -> Engine {
    let mut engine = Engine::new(Scope::Node("node-1".into()), Options::default());
    let labels = Labels::from_iter([("team", "a")]);
    engine.apply(Change::Namespace("shop".into(), Some(Namespace { labels })));
    (0..pods).for_each(|number| engine.apply(pod(number, "shop").into()));
    engine.flush();
    engine
}

fn policy(engine: Engine, rules: Vec<Rule>) -> (Engine, impl FnOnce(&mut Engine)) {
    (engine, move |engine: &mut Engine| {
        engine.apply(ingress("hostile", rules));
        engine.flush();
    })
}

fn ingress(name: &str, rules: Vec<Rule>) -> Change {
    let rules = PerDirection { ingress: Some(rules), egress: None };
    Policy::network_policy("shop", name, Selector::everything(), rules).into()
}

fn tcp(first: u32, last: u32) -> PortMatch {
    let [first, last] = [first, last].map(|port| u16::try_from(port).expect("a port"));
    PortMatch::Numbers(Protocol::Tcp, PortRange::new(first, last).expect("a range"))
}

fn own(selector: Selector) -> Peer {
    Peer::Pods(PodPeer { namespaces: Namespaces::Named("shop".into()), pods: selector })
}

/// Matches all pods, by a selector that no other number has.
fn everybody(number: u32) -> Peer {
    let values = [number.to_string().as_str().into()].into();
    let other = Requirement { key: "no".into(), operator: Operator::NotIn(values) };
    let namespaces = Namespaces::Selected(Selector::everything());
    Peer::Pods(PodPeer { namespaces, pods: Selector::from_iter([other]) })
}

fn nested(count: u32) -> Vec<Rule> {
    let rule = |n| Rule {
        peers: Peers::Listed(vec![own(Selector::label("app", &format!("app-{n}")))]),
        ports: Ports::Listed(vec![tcp(1 + n, 60_000 - n)]),
    };
    (0..count).map(rule).collect()
}

fn ranges(count: u32) -> Vec<Rule> {
    let rule = |n| Rule {
        peers: Peers::Listed(vec![everybody(n)]),
        ports: Ports::Listed(vec![tcp(n * 60, n * 60 + 58)]),
    };
    (0..count).map(rule).collect()
}

fn ports(count: u32) -> Vec<Rule> {
    let rule = |n| Rule {
        peers: Peers::Listed(vec![everybody(n)]),
        ports: Ports::Listed(
            (0..count).map(|at| tcp(n * 100 + at * 2, n * 100 + at * 2)).collect(),
        ),
    };
    (0..5).map(rule).collect()
}

fn block(number: u32, except: Vec<ipnet::IpNet>) -> Peer {
    let cidr = ipnet::Ipv4Net::new(Ipv4Addr::from(0x1400_0000 + number * 2), 32);
    Peer::Block(IpBlock { cidr: cidr.expect("32 is a length").into(), except })
}

fn blocks(count: u32) -> Vec<Rule> {
    let peers = Peers::Listed((0..count).map(|n| block(n, Vec::new())).collect());
    vec![Rule { peers, ports: Ports::Listed(vec![tcp(80, 80)]) }]
}

fn blocks_with_ports(count: u32) -> Vec<Rule> {
    let rule = |n| Rule {
        peers: Peers::Listed(vec![block(n, Vec::new())]),
        ports: Ports::Listed(vec![tcp(n * 2, n * 2)]),
    };
    (0..count).map(rule).collect()
}

fn except(count: u32) -> Vec<Rule> {
    let net = |n: u32| {
        ipnet::Ipv4Net::new(Ipv4Addr::from(n.wrapping_mul(0x0001_0003)), 32)
            .expect("a length")
            .into()
    };
    let cidr = "0.0.0.0/0".parse().expect("a network");
    let peers = vec![Peer::Block(IpBlock { cidr, except: (0..count).map(net).collect() })];
    vec![Rule { peers: Peers::Listed(peers), ports: Ports::Any }]
}

fn named_ports(count: u32) -> (Engine, impl FnOnce(&mut Engine)) {
    let mut engine = loaded(0);
    for n in 0..5_000 {
        let rule = Rule {
            peers: Peers::Listed(vec![own(Selector::label("app", &format!("app-{n}")))]),
            ports: Ports::Listed(vec![tcp(80, 80)]),
        };
        engine.apply(ingress(&format!("policy-{n}"), vec![rule]));
    }
    engine.flush();
    (engine, move |engine: &mut Engine| {
        for number in 0..count {
            let name = format!("port-{number}").as_str().into();
            let port = NamedPort { name, protocol: Protocol::Tcp, number: 80 };
            let pod =
                Pod { ports: [port].into(), node: Some("node-1".into()), ..pod(number, "shop") };
            engine.apply(pod.into());
        }
        engine.flush();
    })
}

fn new_key(pods: u32) -> (Engine, impl FnOnce(&mut Engine)) {
    let rule = Rule {
        peers: Peers::Listed(vec![own(Selector::label("app", "app-7"))]),
        ports: Ports::Any,
    };
    policy(loaded(pods), vec![rule])
}

fn relabelled(pods: u32) -> (Engine, impl FnOnce(&mut Engine)) {
    let mut engine = loaded(pods);
    for n in 0..100 {
        let team = Namespaces::Selected(Selector::label("team", "b"));
        let peers = vec![
            Peer::Pods(PodPeer { namespaces: team, pods: Selector::everything() }),
            own(Selector::label("app", &format!("app-{n}"))),
        ];
        let rule = Rule {
            peers: Peers::Listed(peers),
            ports: Ports::Listed(vec![tcp(n * 100, n * 100 + 90)]),
        };
        engine.apply(ingress(&format!("policy-{n}"), vec![rule]));
    }
    engine.flush();
    (engine, |engine: &mut Engine| {
        let labels = Labels::from_iter([("team", "b")]);
        engine.apply(Change::Namespace("shop".into(), Some(Namespace { labels })));
        engine.flush();
    })
}
