//! What `exposure` says of pods that do not exist is tried: they are created, and `evaluate` judges them.

use std::sync::Arc;

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::flow::Traffic;
use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Change, Namespace, Pod, PodKey};
use policy_engine::policy::Peer;
use policy_engine::port::Protocol;
use policy_engine::reach::PortSet;
use policy_engine::world::World;
use portcullis_whatif::exposure::{Allowed, Example, Exposed, NewPods, exposed};
use portcullis_whatif::model::{Cluster, Inventory};
use proptest::prelude::*;

use super::{evaluated_for, pod};

/// How many pods of a world are asked about.
const ASKED: usize = 4;

/// Adds a namespace, unless it is known.
fn add_namespace(world: &mut World, name: &Str, labels: &Labels) {
    if !world.namespaces().contains_key(name) {
        let own = [("kubernetes.io/metadata.name".into(), Arc::clone(name))];
        let labels = labels.iter().map(|(key, value)| (key.clone(), value.clone()));
        let labels = own.into_iter().chain(labels).collect();
        world.apply(Change::Namespace(Arc::clone(name), Some(Namespace { labels })));
    }
}

/// The world with a pod that was an example.
fn with(world: &World, example: &Example) -> (World, PodKey) {
    let mut world = world.clone();
    let namespace = example.namespace.clone().unwrap_or_else(|| "created".into());
    add_namespace(&mut world, &namespace, &example.namespace_labels);
    let key = PodKey::new(&namespace, "created");
    let mut pod = Pod::new(key.clone(), example.labels.clone());
    pod.addresses = example.addresses.clone().into();
    world.apply(Change::Pod(key.clone(), Some(Arc::new(pod))));
    (world, key)
}

/// Ports at which an answer may change, and some at which rules of random worlds do.
fn ports_of_interest(allowed: &PortSet) -> Vec<Traffic> {
    let edges = allowed.iter().flat_map(|(protocol, range)| {
        // No connection has port 0.
        let before = range.first().checked_sub(1).filter(|port| *port != 0);
        let after = range.last().checked_add(1);
        let all = [before, Some(range.first()), Some(range.last()), after];
        all.into_iter().flatten().map(move |port| Traffic::Port(protocol, port))
    });
    let fixed = [80, 81, 443].map(|port| Traffic::Port(Protocol::Tcp, port));
    edges.chain(fixed).chain([Traffic::Port(Protocol::Udp, 53), Traffic::Other]).collect()
}

/// Which new pods, and which ports.
fn said(one: &Exposed) -> PerDirection<Vec<(NewPods, PortSet)>> {
    let of = |entry: &Allowed| (entry.pods.clone(), entry.ports.clone());
    PerDirection::new(|direction| one.allowed.get(direction).iter().map(of).collect())
}

/// How many entries were tried.
pub(super) fn is_true(world: &World) -> Result<usize, TestCaseError> {
    let mut cluster = Cluster::new(&Inventory::default(), world.options.clone());
    // As a cluster has it: a pod is in a namespace that exists.
    let mut world = world.clone();
    let namespaces: Vec<Str> = world.pods().keys().map(|key| key.namespace.clone()).collect();
    for name in namespaces {
        add_namespace(&mut world, &name, &Labels::default());
    }
    cluster.world = world.clone();
    let peers = world.policies().flat_map(|policy| policy.all_rules());
    let mut peers = peers.flat_map(|rule| rule.peers.listed());
    let has_blocks = peers.any(|peer| matches!(peer, Peer::Block(_)));
    let mut tried = 0;
    let subjects: Vec<_> =
        world.pods().values().filter(|pod| pod.takes_part()).take(ASKED).collect();
    let together = exposed(&cluster, &subjects.iter().map(|pod| pod.key.clone()).collect());
    for subject in subjects {
        let all = exposed(&cluster, &[subject.key.clone()].into());
        prop_assert_eq!(all.len(), 1);
        let allowed = &all[0].allowed;
        if !has_blocks {
            // Only the addresses of new pods depend on who else is asked about.
            let name = cluster.pod_ref(&subject.key);
            let group = together.iter().find(|one| one.names.iter().any(|known| **known == *name));
            prop_assert_eq!(group.map(said), Some(said(&all[0])), "{}", name);
        }
        // Whether an `ipBlock` contains it depends on which address a pod gets.
        let addresses = allowed.ingress.iter().chain(&allowed.egress).find(|_| !has_blocks);
        let addresses = addresses.map(|entry| entry.example.addresses.clone());
        for direction in Direction::BOTH {
            let entries = allowed.get(direction);
            let mut asked: Vec<(Example, PortSet)> =
                entries.iter().map(|entry| (entry.example.clone(), entry.ports.clone())).collect();
            // A pod without labels that has no entry can open nothing.
            let has_general = entries.iter().any(|entry| entry.pods == NewPods::Anywhere);
            if let (false, Some(addresses)) = (has_general, addresses.clone()) {
                let (namespace_labels, labels) = (Labels::default(), Labels::default());
                let plain = Example { namespace: None, namespace_labels, labels, addresses };
                asked.push((plain, PortSet::default()));
            }
            for (example, ports) in asked {
                let (with, new) = with(&world, &example);
                let (own, new) = (pod(&with, &subject.key), pod(&with, &new));
                for traffic in ports_of_interest(&ports) {
                    let found = match direction {
                        Direction::Ingress => evaluated_for(&with, &new, &own, traffic),
                        Direction::Egress => evaluated_for(&with, &own, &new, traffic),
                    };
                    let key = &subject.key;
                    prop_assert_eq!(
                        found,
                        ports.contains(traffic),
                        "{} {:?} {}",
                        key,
                        example,
                        traffic
                    );
                    tried += 1;
                }
            }
        }
    }
    Ok(tried)
}
