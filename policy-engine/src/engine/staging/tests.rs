//! Which pods wait for the members of new sets, and until when.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::compiled::Update;
use crate::direction::PerDirection;
use crate::engine::{Engine, Scope};
use crate::id::SetId;
use crate::labels::Labels;
use crate::model::{Change, Pod, PodKey};
use crate::object::{Kind, ObjectRef};
use crate::policy::{Namespaces, Peer, Peers, PodPeer, Policy, Ports, Rule};
use crate::selector::Selector;
use crate::world::Options;

/// So many pods of other nodes are peers.
const PEERS: u8 = 20;
/// So many members are added in one flush.
const SLICE: usize = 4;

/// The pod that is isolated.
fn subject() -> PodKey {
    PodKey::new("shop", "web")
}

fn pod(name: &str, node: &str, last: u8) -> Arc<Pod> {
    // Some pods have the same labels.
    let labels = Labels::from_iter([("third", format!("{}", last / 3))]);
    let pod = Pod::new(PodKey::new("shop", name), labels);
    let addresses = vec![IpAddr::from(Ipv4Addr::new(10, 0, 0, last))].into();
    Arc::new(Pod { node: Some(node.into()), addresses, ..pod })
}

fn put(pod: Arc<Pod>) -> Change {
    Change::Pod(pod.key.clone(), Some(pod))
}

/// A policy of the pod that allows all pods of the namespace.
fn policy(name: &str) -> Change {
    let peer = PodPeer { namespaces: Namespaces::Own, pods: Selector::everything() };
    let rule = Rule { peers: Peers::Listed(vec![Peer::Pods(peer)]), ports: Ports::Any };
    let rules = PerDirection { ingress: Some(vec![rule]), egress: None };
    Policy::network_policy("shop", name, Selector::everything(), rules).into()
}

fn gone(name: &str) -> Change {
    Change::Policy(ObjectRef::new(Kind::NetworkPolicy, "shop", name), None)
}

/// An engine whose dataplane has everything. Its only subject is `web`, which nothing isolates.
fn engine() -> Engine {
    let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
    engine.apply(put(pod("web", "n1", 200)));
    for peer in 0..PEERS {
        engine.apply(put(pod(&format!("peer-{peer}"), "n2", peer)));
    }
    engine.flush();
    engine.fill_in_slices(SLICE);
    engine
}

/// The only set, with how many members it has.
fn set(engine: &Engine) -> (SetId, usize) {
    let mut sets = engine.compiled().sets.iter();
    let (id, set) = sets.next().expect("a ruleset refers to a set");
    assert!(sets.next().is_none());
    (*id, set.members.len())
}

fn is_isolated(engine: &Engine) -> bool {
    !engine.compiled().endpoints.is_empty()
}

/// How many members a flush adds to sets that existed before.
fn added(update: &Update) -> usize {
    update.sets_changed.values().map(|delta| delta.added.len()).sum()
}

#[test]
fn a_pod_keeps_its_rules_until_the_dataplane_has_all_members_of_the_new_ones() {
    let mut engine = engine();
    engine.apply(policy("allow"));
    let update = engine.flush();
    assert_eq!(update.sets_created.len(), 1);
    let mut members = set(&engine).1;
    assert!((1..=SLICE + 1).contains(&members), "{members}");
    while members <= usize::from(PEERS) {
        assert!(engine.is_filling() && !is_isolated(&engine));
        assert_eq!((engine.waiting(), engine.compiled().waiting.len()), (1, 1));
        engine.applied(|_| true);
        let update = engine.flush();
        assert!((1..=SLICE + 1).contains(&added(&update)), "{update:?}");
        members += added(&update);
        assert_eq!(set(&engine).1, members);
    }
    // All members are known, and some are not applied.
    engine.applied(|_| false);
    assert!(engine.flush().is_empty() && !is_isolated(&engine));
    engine.applied(|_| true);
    assert!(engine.flush().rules_changed && is_isolated(&engine));
    assert!(!engine.is_filling() && engine.flush().is_empty());
}

#[test]
fn few_members_and_first_rules_do_not_wait() {
    let mut few = engine();
    few.fill_in_slices(usize::from(PEERS) + 1);
    let mut first = engine();
    first.fill_at_once();
    for engine in [&mut few, &mut first] {
        engine.apply(policy("allow"));
        engine.flush();
        assert!(!engine.is_filling() && is_isolated(engine));
        assert_eq!(set(engine).1, usize::from(PEERS) + 1);
    }
}

#[test]
fn a_pod_that_is_new_or_has_another_address_does_not_wait() {
    let moved = pod("web", "n1", 201);
    let again = Arc::new(Pod { created: 1, ..pod("web", "n1", 200).as_ref().clone() });
    for other in [moved, again] {
        let mut engine = engine();
        engine.apply(policy("allow"));
        engine.apply(put(other.clone()));
        engine.flush();
        assert!(is_isolated(&engine) && engine.is_filling());
        assert!(
            other.addresses.iter().all(|address| engine.compiled().endpoints.contains_key(address))
        );
        assert!(set(&engine).1 < usize::from(PEERS));
    }
}

#[test]
fn what_a_pod_waited_for_goes_with_the_policy_or_the_pod() {
    for gone in [gone("allow"), Change::Pod(subject(), None)] {
        let mut engine = engine();
        engine.apply(policy("allow"));
        engine.flush();
        let (id, _) = set(&engine);
        engine.apply(gone);
        let update = engine.flush();
        assert!(update.sets_removed.contains(&id), "{update:?}");
        assert!(update.rules_changed && engine.compiled().waiting.is_empty());
        assert!(engine.compiled().sets.is_empty() && engine.compiled().rulesets.is_empty());
        assert!(!engine.is_filling() && !is_isolated(&engine));
    }
}

#[test]
fn pods_that_come_and_go_while_a_set_is_filled_are_members_or_not() {
    let mut engine = engine();
    engine.apply(policy("allow"));
    engine.flush();
    for peer in 0..PEERS {
        if peer % 2 == 0 {
            engine.apply(Change::Pod(PodKey::new("shop", &format!("peer-{peer}")), None));
        }
        engine.apply(put(pod(&format!("new-{peer}"), "n2", 100 + peer)));
        engine.flush();
        engine.applied(|_| true);
    }
    engine.flush();
    assert!(is_isolated(&engine));
    assert_eq!(set(&engine).1, usize::from(PEERS) / 2 + usize::from(PEERS) + 1);
}

#[test]
fn no_pod_waits_once_all_sets_are_filled_at_once() {
    let mut engine = engine();
    engine.apply(policy("allow"));
    engine.flush();
    engine.fill_at_once();
    engine.flush();
    assert!(is_isolated(&engine) && !engine.is_filling());
    assert_eq!(set(&engine).1, usize::from(PEERS) + 1);
}
