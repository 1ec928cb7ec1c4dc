//! Reachability by classes says of every pair of pods, and of every port, what `evaluate` says.
//!
//! `PROPTEST_CASES` sets how many random worlds; `make test` runs thousands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Direction, Pod, PodKey};
use policy_engine::reach::{PortSet, Reach};
use policy_engine::world::{Options, World};
use portcullis_tests::worlds;
use proptest::prelude::*;

/// The default of `proptest` is 256; this many run here unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 500;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    }
}

/// The ports that matter, without 0: nothing can be opened to it.
fn traffic() -> impl Iterator<Item = Traffic> {
    worlds::traffic().into_iter().filter(|traffic| !matches!(traffic, Traffic::Port(_, 0)))
}

/// The sides as which a pod takes part in flows: one for each address that it owns.
fn sides(world: &World, pod: &Pod) -> Vec<Endpoint> {
    let owned: Vec<IpAddr> = world.owned_addresses(pod).collect();
    let side = |address| Endpoint::Pod(pod.key.clone(), address);
    if owned.is_empty() {
        vec![side(None)]
    } else {
        owned.into_iter().map(|a| side(Some(a))).collect()
    }
}

fn can_meet(source: &Endpoint, destination: &Endpoint) -> bool {
    match (source.address(), destination.address()) {
        (Some(source), Some(destination)) => Family::of(source) == Family::of(destination),
        _ => true,
    }
}

/// Whether `evaluate` lets one pod connect to another by any of their addresses.
fn evaluated(world: &World, source: &Pod, destination: &Pod, traffic: Traffic) -> bool {
    sides(world, source).iter().any(|from| {
        sides(world, destination).iter().filter(|to| can_meet(from, to)).any(|to| {
            let flow = Flow { source: from.clone(), destination: to.clone(), traffic };
            evaluate(world, &flow).is_allowed()
        })
    })
}

/// What the map says of each pair of different pods.
fn by_pod(reach: &Reach<'_>) -> BTreeMap<(PodKey, PodKey), PortSet> {
    let mut found = BTreeMap::new();
    for edge in reach.edges().iter() {
        for source in &reach.classes()[edge.source].pods {
            for destination in &reach.classes()[edge.destination].pods {
                let before = found.insert((source.clone(), destination.clone()), edge.allowed);
                assert_eq!(before, None, "one edge for each pair");
            }
        }
    }
    found
}

fn check_pods(world: &World, reach: &Reach<'_>) -> Result<(), TestCaseError> {
    let map = by_pod(reach);
    let pods: Vec<&Pod> =
        world.pods().values().map(AsRef::as_ref).filter(|pod| pod.takes_part()).collect();
    for source in &pods {
        for destination in pods.iter().filter(|pod| pod.key != source.key) {
            let mapped = map.get(&(source.key.clone(), destination.key.clone()));
            for traffic in traffic() {
                prop_assert_eq!(
                    mapped.is_some_and(|ports| ports.contains(traffic)),
                    evaluated(world, source, destination, traffic),
                    "{} → {} {}",
                    source.key,
                    destination.key,
                    traffic
                );
            }
        }
    }
    Ok(())
}

/// What holds between any two addresses, and between pods and the addresses outside.
fn check_addresses(world: &World, reach: &Reach<'_>) -> Result<(), TestCaseError> {
    for source in worlds::addresses() {
        for destination in worlds::addresses() {
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            let (from, to) = (world.endpoint(source), world.endpoint(destination));
            let between = reach.between(&from, &to);
            for traffic in traffic() {
                let flow = world.flow(source, destination, traffic);
                let allowed = evaluate(world, &flow).is_allowed();
                prop_assert_eq!(between.contains(traffic), allowed, "{:?}", flow);
                for (direction, side, other) in
                    [(Direction::Egress, &from, &to), (Direction::Ingress, &to, &from)]
                {
                    let Endpoint::External(address) = other else { continue };
                    let Endpoint::Pod(key, _) = side else { continue };
                    let is_pod = |class: &policy_engine::reach::Class| class.pods.contains(key);
                    let Some(class) = reach.classes().iter().position(is_pod) else { continue };
                    let parts = reach.outside(class, direction).parts;
                    let holding: Vec<_> =
                        parts.iter().filter(|(cidrs, _)| cidrs.contains(*address)).collect();
                    prop_assert!(holding.len() < 2, "parts do not overlap");
                    let outside = holding.iter().any(|(_, ports)| ports.contains(traffic));
                    prop_assert_eq!(outside, allowed, "outside: {:?}", flow);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_map_says_what_evaluate_says(
        history in worlds::history(0..40),
        allow_egress_to_own_node in any::<bool>(),
    ) {
        let mut world = World::new(Options { allow_egress_to_own_node });
        history.into_iter().for_each(|change| world.apply(change));
        let reach = Reach::new(&world);
        check_pods(&world, &reach)?;
        check_addresses(&world, &reach)?;
    }
}
