//! What `lint` calls redundant changes no verdict when it is removed, alone or all at once.
//!
//! Judged by `evaluate`, which shares no code with the check, in random worlds.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Change, Direction};
use policy_engine::policy::PolicyKey;
use policy_engine::world::{Options, World};
use portcullis_whatif::lint::{Code, Finding, lint};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::source::Sources;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// How many random worlds, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 300;

/// A policy, or one rule of it by direction and position from 0.
type Part = (PolicyKey, Option<(Direction, usize)>);

#[test]
fn removing_what_is_redundant_changes_no_verdict() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    });
    let found = std::cell::Cell::new((0_usize, 0_usize));
    // Mostly policies, so that many select the same pods.
    let policies = proptest::collection::vec(worlds::policy(), 4..16);
    let all = (worlds::history(10..40), policies);
    let checked = runner.run(&all, |(history, policies)| {
        let mut cluster = Cluster::new(&Inventory::default(), Options::default());
        history.into_iter().for_each(|change| cluster.world.apply(change));
        for policy in policies {
            let key = policy.key.clone();
            cluster.world.apply(Change::NetworkPolicy(key, Some(Arc::new(policy))));
        }
        let parts: BTreeSet<Part> =
            lint(&Sources::default(), &cluster).iter().filter_map(part).collect();
        let rules = parts.iter().filter(|(_, rule)| rule.is_some()).count();
        found.set((found.get().0 + rules, found.get().1 + parts.len() - rules));
        if parts.is_empty() {
            return Ok(());
        }
        let before = verdicts(&cluster.world);
        for part in &parts {
            let after = verdicts(&without(&cluster.world, &BTreeSet::from([part.clone()])));
            prop_assert!(before == after, "{:?} is not redundant", part);
        }
        let after = verdicts(&without(&cluster.world, &parts));
        prop_assert!(before == after, "{:?} are not redundant together", parts);
        Ok(())
    });
    let (rules, policies) = found.get();
    println!("{rules} rules and {policies} policies were redundant");
    checked.unwrap();
    assert!(rules > 50 && policies > 10, "{rules} rules and {policies} policies prove little");
}

/// What a finding calls redundant.
fn part(finding: &Finding) -> Option<Part> {
    let (namespace, name) = finding.object.strip_prefix("NetworkPolicy ")?.split_once('/')?;
    let key = PolicyKey::new(namespace, name);
    match finding.code {
        Code::RedundantPolicy | Code::SamePolicy => Some((key, None)),
        Code::RedundantRule => {
            let (field, at) = finding.field.strip_suffix(']')?.split_once('[')?;
            let ingress = field == "spec.ingress";
            assert!(ingress || field == "spec.egress", "{field} holds no rules");
            let direction = if ingress { Direction::Ingress } else { Direction::Egress };
            Some((key, Some((direction, at.parse().expect("a position")))))
        }
        _ => None,
    }
}

fn without(world: &World, parts: &BTreeSet<Part>) -> World {
    let mut world = world.clone();
    for (key, policy) in world.policies().clone() {
        let mut less = policy.as_ref().clone();
        for (direction, rules) in
            [(Direction::Ingress, &mut less.ingress), (Direction::Egress, &mut less.egress)]
        {
            let gone = |at: usize| parts.contains(&(key.clone(), Some((direction, at))));
            if let Some(rules) = rules {
                let mut at = 0..;
                rules.retain(|_| !gone(at.next().expect("they go on")));
            }
        }
        let gone = parts.contains(&(key.clone(), None));
        world.apply(Change::NetworkPolicy(key, (!gone).then(|| Arc::new(less))));
    }
    world
}

/// Every verdict between addresses, and between pods without one.
fn verdicts(world: &World) -> Vec<bool> {
    let mut sides: Vec<Endpoint> =
        worlds::addresses().into_iter().map(|address| world.endpoint(address)).collect();
    let pending = world.pods().values().filter(|pod| world.owned_addresses(pod).next().is_none());
    sides.extend(pending.map(|pod| Endpoint::Pod(pod.key.clone(), None)));
    let family = |side: &Endpoint| side.address().map(|address: IpAddr| address.is_ipv4());
    let mut verdicts = Vec::new();
    for source in &sides {
        for destination in &sides {
            let families = family(source).zip(family(destination));
            if families.is_some_and(|(one, other)| one != other) {
                continue;
            }
            for traffic in worlds::traffic() {
                if matches!(traffic, Traffic::Port(_, 0)) {
                    continue;
                }
                let (source, destination) = (source.clone(), destination.clone());
                let flow = Flow { source, destination, traffic };
                verdicts.push(evaluate(world, &flow).is_allowed());
            }
        }
    }
    verdicts
}
