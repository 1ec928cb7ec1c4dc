//! What `suggest` proposes is applied, and judged by `evaluate` alone.

#![allow(clippy::panic)] // all of it is test code

use std::collections::BTreeSet;

use policy_engine::evaluate::evaluate_as;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::labels::{Labels, Str};
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;
use policy_engine::tier::View;
use policy_engine::world::World;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::manifest::Manifest;
use portcullis_whatif::endpoint::{Resolved, Side, resolve};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::suggest::ask::words;
use portcullis_whatif::suggest::{Asked, Outcome, suggest};
use proptest::prelude::*;
use serde_json::Value;

use super::{node, pod};

const TRAFFIC: [Traffic; 5] = [
    Traffic::Port(Protocol::Tcp, 80),
    Traffic::Port(Protocol::Tcp, 81),
    Traffic::Port(Protocol::Udp, 53),
    Traffic::Port(Protocol::Sctp, 7),
    Traffic::Other,
];

/// The ports of the connections that are asked for, by turns; the last one means every port.
const PORTS: [Option<&str>; 4] = [Some("81"), Some("53/udp"), Some("80"), None];

/// How many connections are asked for in one world.
const ASKED: usize = 6;

fn documents(yaml: &[String]) -> Vec<Value> {
    let text = yaml.join("---\n");
    let manifest = Manifest::parse("suggestion", &text);
    assert!(manifest.diagnostics.is_empty(), "{:?}\n{text}", manifest.diagnostics);
    manifest.documents.iter().map(|one| one.value().clone()).collect()
}

fn applied(world: &World, documents: &[Value]) -> World {
    let mut world = world.clone();
    for document in documents {
        let (found, diagnostics) = item(document, None, "default");
        assert!(diagnostics.is_empty(), "{diagnostics:?}\n{document}");
        let Item::Object(change) = found else { panic!("{document}") };
        world.apply(change);
    }
    world
}

fn endpoints(world: &World, side: &Side) -> Vec<Endpoint> {
    match side {
        Side::Pod(key, _) => pod(world, key),
        Side::Node(name, _) => node(world, name),
        // The first and the last address of each family.
        Side::Outside(set) => policy_engine::cidr::Family::BOTH
            .into_iter()
            .flat_map(|family| set.networks(family))
            .flat_map(|net| [net.network(), net.broadcast()])
            .map(Endpoint::External)
            .collect(),
    }
}

/// The connections that are denied, in either view, of those that were asked for.
fn denied(world: &World, asked: &[&Asked]) -> Vec<String> {
    let mut found = Vec::new();
    for one in asked {
        let sides = |side: &Resolved| -> Vec<Endpoint> {
            side.parties.iter().flat_map(|party| endpoints(world, &party.side)).collect()
        };
        for source in sides(&one.source) {
            for destination in sides(&one.destination) {
                let addresses = source.address().zip(destination.address());
                if addresses.is_some_and(|(one, other)| one.is_ipv4() != other.is_ipv4()) {
                    continue;
                }
                for traffic in TRAFFIC.into_iter().filter(|traffic| one.ports.contains(*traffic)) {
                    let (source, destination) = (source.clone(), destination.clone());
                    let flow = Flow { source, destination, traffic };
                    let allowed = |view| evaluate_as(world, &flow, view).is_allowed();
                    if !allowed(View::Enforced) || !allowed(View::Audited) {
                        found.push(format!("{} ({flow:?})", one.name));
                    }
                }
            }
        }
    }
    found
}

/// Some connections of a world: between pods, from a node, and with external addresses.
fn asked(cluster: &Cluster) -> Vec<Asked> {
    let pods: Vec<&PodKey> =
        cluster.world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    let mut names: Vec<(String, String)> = Vec::new();
    for (number, from) in pods.iter().enumerate() {
        let to = pods[(number * 5 + 3) % pods.len()];
        names.push((cluster.pod_ref(from), cluster.pod_ref(to)));
    }
    names.truncate(ASKED - 3);
    if let (Some(first), Some(last)) = (pods.first(), pods.last()) {
        let (first, last) = (cluster.pod_ref(first), cluster.pod_ref(last));
        names.push((first.clone(), "192.0.2.0/24".to_owned()));
        names.push(("198.51.100.7".to_owned(), last));
        let node = cluster.world.nodes().keys().next();
        names.extend(node.map(|node| (format!("node/{node}"), first)));
    }
    let mut all = Vec::new();
    for (number, (from, to)) in names.iter().enumerate() {
        let port = PORTS[number % PORTS.len()];
        let found = words(from, to, port, |endpoint| Ok(resolve(cluster, endpoint, "default")?));
        // Addresses that several pods claim have no answer.
        all.extend(found.into_iter().flatten());
    }
    all
}

/// What suggested policies are worth: they allow everything that was asked for and can be allowed,
/// each of their rules is needed, and what else they allow or deny is reported. How many rules were
/// tried.
pub(crate) fn is_least(world: &World) -> Result<usize, TestCaseError> {
    let mut cluster = Cluster::new(&Inventory::default(), world.options.clone());
    cluster.world = world.clone();
    let asked = asked(&cluster);
    let suggestion = suggest(&mut cluster, &asked);
    let policies = documents(&suggestion.policies);
    let text = suggestion.policies.join("---\n");
    let after = applied(world, &policies);
    let possible: Vec<&Asked> = asked
        .iter()
        .zip(&suggestion.outcomes)
        .filter(|(_, outcome)| !matches!(outcome, Outcome::Impossible(..)))
        .map(|(one, _)| one)
        .collect();
    let is_denied = denied(&after, &possible);
    prop_assert!(is_denied.is_empty(), "still denied: {is_denied:?}\n{text}");
    for (one, outcome) in asked.iter().zip(&suggestion.outcomes) {
        if *outcome == Outcome::Added {
            prop_assert!(!policies.is_empty(), "{}", one.name);
        }
    }
    let all: Vec<&Asked> = asked.iter().collect();
    let mut tried = 0;
    for (number, policy) in policies.iter().enumerate() {
        for field in ["ingress", "egress"] {
            let rules = policy["spec"][field].as_array().map_or(0, Vec::len);
            for rule in 0..rules {
                let mut fewer = policies.clone();
                let list = fewer[number]["spec"][field].as_array_mut().expect("a list");
                list.remove(rule);
                let before = denied(&after, &all).len();
                let is_denied = denied(&applied(world, &fewer), &all).len();
                prop_assert!(is_denied > before, "rule {rule} of {policy} is not needed\n{text}");
                tried += 1;
            }
        }
    }
    nothing_else_is_unsaid(world, &after, &asked, &suggestion.effects)
        .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
    Ok(tried)
}

fn nothing_else_is_unsaid(
    world: &World,
    after: &World,
    asked: &[Asked],
    effects: &portcullis_whatif::advice::Effects,
) -> Result<(), TestCaseError> {
    type Look = (Str, Labels);
    let look = |key: &PodKey| -> Look { (key.namespace.clone(), world.pods()[key].labels.clone()) };
    let looks = |side: &Resolved| -> BTreeSet<Look> {
        side.parties.iter().filter_map(|party| party.side.pod()).map(look).collect()
    };
    let alike: Vec<_> =
        asked.iter().map(|one| (looks(&one.source), looks(&one.destination), one)).collect();
    let between = |source: &PodKey, destination: &PodKey, traffic: Traffic| {
        alike.iter().any(|(from, to, one)| {
            from.contains(&look(source))
                && to.contains(&look(destination))
                && one.ports.contains(traffic)
        })
    };
    let itself = |source: &PodKey, destination: &PodKey, traffic: Traffic| {
        let is = |side: &Resolved, pod: &PodKey| {
            side.parties.iter().any(|party| party.side.pod() == Some(pod))
        };
        asked.iter().any(|one| {
            is(&one.source, source)
                && is(&one.destination, destination)
                && one.ports.contains(traffic)
        })
    };
    // Ports of ICMP need every port; an ipBlock can contain pods.
    let only_pods = asked.iter().all(|one| {
        let pods = |side: &Resolved| side.parties.iter().all(|party| party.side.pod().is_some());
        pods(&one.source) && pods(&one.destination)
    });
    let pods: Vec<&PodKey> =
        world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    for source in &pods {
        for destination in pods.iter().filter(|other| other != &source) {
            let (sides, others) = (pod(world, source), pod(world, destination));
            for traffic in TRAFFIC {
                let was = super::evaluated_for(world, &sides, &others, traffic);
                let is = super::evaluated_for(after, &sides, &others, traffic);
                if !was && is && !itself(source, destination, traffic) {
                    prop_assert!(
                        !only_pods || between(source, destination, traffic),
                        "{source} to {destination}, {traffic} is allowed too"
                    );
                    prop_assert!(!effects.allowed.is_empty(), "{source} to {destination}");
                }
                if was && !is {
                    prop_assert!(!effects.denied.is_empty(), "{source} to {destination}");
                }
            }
        }
    }
    Ok(())
}
