//! What the engine costs: loading a cluster, and each kind of change after that.
//!
//! `cargo bench -p portcullis-tests --bench engine`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use policy_engine::direction::PerDirection;
use policy_engine::engine::{Engine, Scope};
use policy_engine::labels::Labels;
use policy_engine::model::{Change, Life, Namespace, Pod, PodKey};
use policy_engine::policy::{Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::Selector;
use policy_engine::world::Options;

const NODE: &str = "node-1";
/// Pods of each node, that of the measured agent included.
const LOCAL_PODS: u32 = 250;

fn pod(number: u32, namespaces: u32, app: u32) -> Change {
    let key = PodKey::new(&format!("ns-{}", number % namespaces), &format!("pod-{number}"));
    let node = format!("node-{}", 1 + number / LOCAL_PODS);
    let pod = Pod {
        key: key.clone(),
        labels: Labels::from_iter([
            ("app", format!("app-{app}")),
            ("pod-template-hash", format!("{:08x}", app * 7919)),
        ]),
        node: Some(node.into()),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))].into(),
        ports: [].into(),
        host_network: false,
        life: Life::Active,
        created: i64::from(number),
        extra_source_ranges: Box::default(),
    };
    Change::Pod(key, Some(Arc::new(pod)))
}

fn namespace(number: u32) -> Change {
    let name = format!("ns-{number}");
    let labels = Labels::from_iter([
        ("kubernetes.io/metadata.name", name.clone()),
        ("team", format!("team-{}", number % 50)),
    ]);
    Change::Namespace(name.into(), Some(Namespace { labels }))
}

/// Selects one app of a namespace; allows another app there and a team's namespaces, on one port.
fn policy(number: u32, namespaces: u32, port: u16) -> Change {
    let namespace = format!("ns-{}", number % namespaces);
    let peer = |namespaces, pods| Peer::Pods(PodPeer { namespaces, pods });
    let own = Namespaces::Named(namespace.as_str().into());
    let team = Selector::label("team", &format!("team-{}", (number + 1) % 50));
    let rule = Rule {
        peers: Peers::Listed(vec![
            peer(own, Selector::label("app", &format!("app-{}", number % 10))),
            peer(Namespaces::Selected(team), Selector::everything()),
        ]),
        ports: Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, PortRange::single(port))]),
    };
    // The policies of a namespace select its apps in turn, so that every pod is isolated.
    let subject = Selector::label("app", &format!("app-{}", (number / namespaces) % 10));
    let rules = PerDirection { ingress: Some(vec![rule]), egress: None };
    Policy::network_policy(namespace, format!("policy-{number}"), subject, rules).into()
}

fn cluster(pods: u32, namespaces: u32, policies: u32) -> Vec<Change> {
    (0..namespaces)
        .map(namespace)
        .chain((0..policies).map(|number| policy(number, namespaces, 80)))
        .chain((0..pods).map(|number| pod(number, namespaces, number / namespaces % 10)))
        .collect()
}

fn loaded(scope: &Scope, changes: Vec<Change>) -> Engine {
    let mut engine = Engine::new(scope.clone(), Options::default());
    changes.into_iter().for_each(|change| engine.apply(change));
    engine.flush();
    assert!(!engine.compiled().endpoints.is_empty(), "the benchmark must isolate pods");
    engine
}

fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    let node = Scope::Node(NODE.into());
    for (name, scope, size) in [
        ("10k pods, 500 namespaces, 5k policies, one node", &node, (10_000, 500, 5_000)),
        ("10k pods, 10k namespaces, 10k policies, one node", &node, (10_000, 10_000, 10_000)),
        ("100k pods, 1k namespaces, 10k policies, one node", &node, (100_000, 1_000, 10_000)),
        ("10k pods, 500 namespaces, 5k policies, all", &Scope::Cluster, (10_000, 500, 5_000)),
    ] {
        let changes = cluster(size.0, size.1, size.2);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || changes.clone(),
                |changes| black_box(loaded(scope, changes)),
                BatchSize::PerIteration,
            );
        });
    }
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one change, 10k pods, 500 namespaces, 5k policies");
    let node = Scope::Node(NODE.into());
    let mut engine = loaded(&node, cluster(10_000, 500, 5_000));
    let mut alternate = |name: &str, concerns: bool, one: &dyn Fn(u32) -> Change| {
        let mut round = 0_u32;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                round += 1;
                engine.apply(one(round % 2));
                let update = engine.flush();
                assert_eq!(update.is_empty(), !concerns, "{name}");
                black_box(update)
            });
        });
    };
    alternate("peer pod relabelled", true, &|odd| pod(9_007, 500, 8 - odd));
    // App 99 is one that no policy selects.
    alternate("local pod relabelled", true, &|odd| pod(7, 500, 99 * odd));
    alternate("policy of local pods changed", true, &|odd| {
        policy(9, 500, if odd == 1 { 81 } else { 80 })
    });
    alternate("policy of no local pod changed", false, &|odd| {
        policy(300, 500, if odd == 1 { 81 } else { 80 })
    });
}

criterion_group!(benches, load, change);
criterion_main!(benches);
