//! What `plan` tells of nodes is what `evaluate` says, before and after, in random worlds.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds/mod.rs"]
mod worlds;

use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::policy::{Peer, Peers};
use policy_engine::world::{Options, World};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::plan::Plan;
use portcullis_whatif::source::Sources;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// How many random worlds, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 60;

#[test]
fn what_changes_towards_nodes_is_told_and_nothing_else() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    });
    let told = std::cell::Cell::new(0);
    let changes = (worlds::history(20..60), worlds::history(1..10));
    let checked = runner.run(&changes, |(history, more)| {
        let mut before = cluster(history.iter().cloned());
        let mut after = cluster(history.into_iter().chain(more));
        for cluster in [&mut before, &mut after] {
            assume_namespaces(&mut cluster.world);
        }
        let plan = Plan::new(&Sources::default(), &before, &after, Options::default());
        told.set(told.get() + check(&plan)?);
        Ok(())
    });
    checked.expect("it holds in every world");
    println!("{} connections to nodes change", told.get());
    assert!(told.get() > 100, "{} changes prove little", told.get());
}

fn cluster(changes: impl Iterator<Item = Change>) -> Cluster {
    let mut cluster = Cluster::new(&Inventory::default(), Options::default());
    changes.for_each(|change| cluster.world.apply(change));
    cluster
}

fn assume_namespaces(world: &mut World) {
    for name in ["one", "two", "kube-system"] {
        if !world.namespaces().contains_key(name) {
            let assumed = portcullis_crds::convert::assumed_namespace(name);
            world.apply(Change::Namespace(name.into(), Some(assumed)));
        }
    }
}

/// How many connections change towards nodes.
fn check(plan: &Plan<'_>) -> Result<usize, TestCaseError> {
    let worlds = [&plan.before.world, &plan.after.world];
    if !worlds.into_iter().any(names_nodes) {
        return Ok(0);
    }
    let mut changed = 0;
    for (id, group) in plan.difference.groups.iter().enumerate() {
        if group.before.is_none() || group.after.is_none() {
            continue;
        }
        for node in worlds[1].nodes().keys().filter(|name| worlds[0].nodes().contains_key(*name)) {
            let mut found = plan.external.iter();
            let found = found.find(|change| change.group == id && change.nodes.contains(node));
            for pod in &group.pods {
                for traffic in worlds::traffic() {
                    if matches!(traffic, Traffic::Port(_, 0)) {
                        continue;
                    }
                    let [was, is] = worlds.map(|world| may_open(world, pod, node, traffic));
                    changed += usize::from(was != is);
                    match found {
                        None => prop_assert_eq!(was, is, "{} to {}: {:?}", pod, node, traffic),
                        Some(change) => {
                            prop_assert_eq!(change.before.contains(traffic), was);
                            prop_assert_eq!(change.after.contains(traffic), is);
                        }
                    }
                }
            }
        }
    }
    Ok(changed)
}

fn names_nodes(world: &World) -> bool {
    let policies = world.cluster_policies().values();
    let mut rules = policies.flat_map(|policy| &policy.egress);
    rules.any(|rule| match &rule.rule.peers {
        Peers::Any => false,
        Peers::Listed(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
    })
}

/// Whether some address of the pod may open it at some address of the node.
fn may_open(world: &World, pod: &PodKey, node: &Str, traffic: Traffic) -> bool {
    let own: Vec<_> = world.owned_addresses(&world.pods()[pod]).map(Some).collect();
    let own = if own.is_empty() { vec![None] } else { own };
    let there: Vec<_> = world.nodes()[node].addresses.iter().copied().map(Some).collect();
    let there = if there.is_empty() { vec![None] } else { there };
    own.iter().any(|from| {
        there.iter().any(|to| {
            let meet = from.zip(*to).is_none_or(|(one, other)| one.is_ipv4() == other.is_ipv4());
            let source = Endpoint::Pod(pod.clone(), *from);
            let destination = Endpoint::Node(node.clone(), *to);
            meet && evaluate(world, &Flow { source, destination, traffic }).is_allowed()
        })
    })
}
