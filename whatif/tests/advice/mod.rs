//! The policies that `check` advises are applied, and judged by `evaluate` alone.

#![allow(clippy::panic)] // all of it is test code

use std::cell::OnceCell;

use policy_engine::evaluate::evaluate;
use policy_engine::flow::Traffic;
use policy_engine::labels::Labels;
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;
use policy_engine::reach::Reach;
use policy_engine::world::World;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::manifest::Manifest;
use portcullis_whatif::advice::advise;
use portcullis_whatif::judge::{Verdict, judge};
use portcullis_whatif::model::{Cluster, Inventory};
use proptest::prelude::*;

use super::{PORT, evaluated_for, pod, resolved};

/// How many denied connections of a world are tried.
const TRIED: usize = 3;

const TRAFFIC: [Traffic; 4] = [
    Traffic::Port(Protocol::Tcp, PORT),
    Traffic::Port(Protocol::Tcp, 80),
    Traffic::Port(Protocol::Udp, 53),
    Traffic::Other,
];

fn applied(world: &World, yaml: &str) -> World {
    let mut world = world.clone();
    let manifest = Manifest::parse("advice", yaml);
    assert!(manifest.diagnostics.is_empty(), "{:?}\n{yaml}", manifest.diagnostics);
    for document in &manifest.documents {
        let (found, diagnostics) = item(document.value(), Some(document), "default");
        assert!(diagnostics.is_empty(), "{diagnostics:?}\n{yaml}");
        let Item::Object(change) = found else { panic!("{yaml}") };
        world.apply(change);
    }
    world
}

/// What advice is worth: it allows what was asked for, all that changes beside it is said, and pods
/// that labels tell apart from those that were asked about gain nothing. How many were tried.
pub(crate) fn is_worth_it(world: World) -> Result<usize, TestCaseError> {
    let mut cluster = Cluster::new(&Inventory::default(), world.options.clone());
    cluster.world = world;
    let (world, reach) = (&cluster.world, Reach::new(&cluster.world));
    let whole = OnceCell::new();
    let pods: Vec<&PodKey> =
        world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (*from, *to)));
    let mut tried = 0;
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        if tried >= TRIED {
            break;
        }
        let (source, destination) = (cluster.pod_ref(from), cluster.pod_ref(to));
        let answer = judge(
            &cluster,
            (&reach).into(),
            &resolved(&cluster, &source),
            &resolved(&cluster, &format!("{destination}:{PORT}")),
        );
        for part in answer.parts.iter().filter(|part| part.verdict == Verdict::Denied) {
            let advice = advise(&cluster, &whole, part);
            let Some(policies) = &advice.policies else { continue };
            let after = applied(world, &policies.yaml);
            if advice.blocked.is_empty() {
                let allowed = evaluate(&after, &part.flow).is_allowed();
                prop_assert!(allowed, "{} to {}\n{}", from, to, policies.yaml);
                tried += 1;
            }
            nothing_else_is_unsaid(world, &after, (from, to), policies)?;
        }
    }
    Ok(tried)
}

fn nothing_else_is_unsaid(
    world: &World,
    after: &World,
    (from, to): (&PodKey, &PodKey),
    policies: &portcullis_whatif::advice::Policies,
) -> Result<(), TestCaseError> {
    let labels = |key: &PodKey| -> Labels { world.pods()[key].labels.clone() };
    let alike = |one: &PodKey, other: &PodKey| {
        one.namespace == other.namespace && labels(one) == labels(other)
    };
    let pods: Vec<&PodKey> =
        world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    for source in &pods {
        for destination in pods.iter().filter(|other| other != &source) {
            let (sides, others) = (pod(world, source), pod(world, destination));
            for traffic in TRAFFIC {
                let was = evaluated_for(world, &sides, &others, traffic);
                let is = evaluated_for(after, &sides, &others, traffic);
                let asked = (*source, *destination) == (from, to) && traffic == TRAFFIC[0];
                let effects = &policies.effects;
                if !was && is && !asked {
                    prop_assert!(
                        alike(source, from) && alike(destination, to) && traffic == TRAFFIC[0],
                        "{} to {}, {} is allowed too\n{}",
                        source,
                        destination,
                        traffic,
                        policies.yaml
                    );
                    prop_assert!(!effects.allowed.is_empty(), "{}", policies.yaml);
                }
                if was && !is {
                    prop_assert!(!effects.denied.is_empty(), "{}", policies.yaml);
                }
            }
        }
    }
    Ok(())
}

/// The YAML in an answer.
pub(crate) fn yaml_in(answer: &str) -> String {
    let mut lines = answer.lines().skip_while(|line| !line.starts_with("    apiVersion:"));
    let inside = lines.by_ref().take_while(|line| line.starts_with("    "));
    inside.flat_map(|line| [line.get(4..).unwrap_or_default(), "\n"]).collect()
}
