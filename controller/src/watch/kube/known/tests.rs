//! The events of a watch and the batches that follow, one rule a test.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::*;

fn lean<K: LeanKind>(value: &Value) -> Lean<K> {
    serde_json::from_str(&value.to_string()).expect("every JSON value has a lean form")
}

fn pod(name: &str, version: u32) -> Lean<Pod> {
    lean(&json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()},
        "status": {"podIP": format!("10.0.0.{version}")},
    }))
}

/// What a batch does to pods: the last byte of their address, or `None` for a deletion.
fn pod_changes(batch: &Batch) -> Vec<(String, Option<u8>)> {
    let each = batch.changes.iter().map(|object| match &object.change {
        Change::Pod(key, pod) => {
            let last = |address: &std::net::IpAddr| match address {
                std::net::IpAddr::V4(address) => address.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            };
            let address = pod.as_ref().map(|pod| pod.addresses.first().map_or(0, last));
            (key.to_string(), address)
        }
        other => panic!("{other:?}"),
    });
    each.collect()
}

fn list(known: &mut Known<Pod>, pods: &[(&str, u32)]) -> bool {
    known.begin();
    pods.iter().for_each(|(name, version)| known.applied(&pod(name, *version)));
    known.end()
}

fn named(name: &str, address: Option<u8>) -> (String, Option<u8>) {
    (format!("shop/{name}"), address)
}

#[test]
fn parts_of_the_first_list_are_sent_at_once() {
    let mut known = Known::default();
    known.begin();
    known.applied(&pod("a", 1));
    assert_eq!(pod_changes(&known.flush()), [named("a", Some(1))]);
    known.applied(&pod("b", 2));
    assert!(known.end(), "it is the first list");
    assert_eq!(pod_changes(&known.flush()), [named("b", Some(2))]);
}

#[test]
fn a_list_after_an_outage_is_one_batch_with_just_the_difference() {
    let mut known = Known::default();
    assert!(list(&mut known, &[("a", 1), ("b", 2), ("c", 3)]));
    known.flush();
    known.begin();
    for (name, version) in [("a", 1), ("c", 4), ("d", 5)] {
        known.applied(&pod(name, version));
        assert_eq!(known.flush(), Batch::default(), "parts were sent");
    }
    assert!(!known.end(), "it is not the first list");
    let expected = [named("c", Some(4)), named("d", Some(5)), named("b", None)];
    assert_eq!(pod_changes(&known.flush()), expected);
}

#[test]
fn after_the_server_went_back_an_object_of_a_known_version_is_another_one() {
    let mut known = Known::default();
    list(&mut known, &[("a", 1), ("b", 2)]);
    known.flush();
    known.forget_versions();
    list(&mut known, &[("a", 1)]);
    assert_eq!(pod_changes(&known.flush()), [named("a", Some(1)), named("b", None)]);
}

#[test]
fn a_list_that_was_broken_off_deletes_nothing() {
    let mut known = Known::default();
    list(&mut known, &[("a", 1), ("b", 2)]);
    known.flush();
    known.begin();
    known.applied(&pod("c", 3));
    assert!(!list(&mut known, &[("a", 1), ("b", 2), ("c", 3)]));
    assert_eq!(pod_changes(&known.flush()), [named("c", Some(3))]);
}

#[test]
fn a_removed_kind_removes_its_objects_and_comes_back_as_one_batch() {
    let mut known = Known::default();
    assert!(list(&mut known, &[("a", 1), ("b", 2)]), "it is the first list");
    known.flush();
    assert_eq!(known.len(), 2);
    assert!(!list(&mut known, &[]), "it is not the first list");
    assert!(known.is_empty());
    assert_eq!(pod_changes(&known.flush()), [named("a", None), named("b", None)]);
    known.begin();
    known.applied(&pod("b", 3));
    assert_eq!(known.flush(), Batch::default(), "a part was sent");
    known.end();
    assert_eq!(pod_changes(&known.flush()), [named("b", Some(3))]);
}

#[test]
fn an_object_that_the_broken_first_list_had_and_the_next_has_not_is_deleted() {
    let mut known = Known::default();
    known.begin();
    known.applied(&pod("a", 1));
    known.flush();
    assert!(list(&mut known, &[("b", 2)]), "no list was complete before");
    assert_eq!(pod_changes(&known.flush()), [named("b", Some(2)), named("a", None)]);
}

#[test]
fn events_follow_the_list_and_repeated_ones_are_silent() {
    let mut known = Known::default();
    list(&mut known, &[("a", 1)]);
    known.flush();
    known.applied(&pod("a", 1));
    known.deleted(&pod("never-seen", 2));
    assert_eq!(known.flush(), Batch::default());
    known.applied(&pod("a", 3));
    known.deleted(&pod("a", 4));
    assert_eq!(pod_changes(&known.flush()), [named("a", Some(3)), named("a", None)]);
    known.deleted(&pod("a", 4));
    assert_eq!(known.flush(), Batch::default());
}

#[test]
fn a_version_that_is_no_number_equals_none() {
    let strange = lean::<Pod>(&json!({
        "metadata": {"name": "a", "namespace": "shop", "resourceVersion": "x"},
    }));
    let mut known = Known::default();
    known.begin();
    known.applied(&strange);
    known.applied(&strange);
    known.end();
    assert_eq!(known.flush().changes.len(), 2);
}

#[test]
fn diagnostics_of_an_object_are_reported_until_it_is_correct_or_deleted() {
    let policy = |version: u32, ingress: Value| {
        lean::<NetworkPolicy>(&json!({
            "metadata": {"name": "a", "namespace": "shop", "resourceVersion": version.to_string()},
            "spec": {"podSelector": {}, "ingress": ingress},
        }))
    };
    let mut known = Known::default();
    list_nothing(&mut known);
    let diagnostics_of = |known: &mut Known<NetworkPolicy>| {
        let changed = known.flush().diagnostics.into_iter();
        changed.map(|(origin, found)| (origin.to_string(), found.len())).collect::<Vec<_>>()
    };
    let origin = || "NetworkPolicy shop/a".to_owned();
    known.applied(&policy(1, json!("everything")));
    assert_eq!(diagnostics_of(&mut known), [(origin(), 1)]);
    known.applied(&policy(2, json!([])));
    assert_eq!(diagnostics_of(&mut known), [(origin(), 0)]);
    known.applied(&policy(3, json!([])));
    assert_eq!(diagnostics_of(&mut known), []);
    known.applied(&policy(4, json!(7)));
    known.deleted(&policy(5, json!(7)));
    assert_eq!(diagnostics_of(&mut known), [(origin(), 1), (origin(), 0)]);
}

#[test]
fn an_object_without_a_name_is_reported_until_a_list_lacks_it() {
    let nameless = lean::<Pod>(&json!({"metadata": {"resourceVersion": "1"}}));
    let mut known = Known::default();
    known.begin();
    known.applied(&nameless);
    known.applied(&pod("a", 1));
    known.end();
    let Batch { changes, diagnostics } = known.flush();
    assert_eq!(changes.len(), 1, "the other object is enforced");
    assert_eq!(diagnostics.len(), 1);
    list(&mut known, &[("a", 1)]);
    let expected = Batch { changes: Vec::new(), diagnostics: vec![("Pod".into(), Vec::new())] };
    assert_eq!(known.flush(), expected);
}

fn list_nothing<K: LeanKind>(known: &mut Known<K>) {
    known.begin();
    known.end();
    known.flush();
}

/// A step of the server or the watch: an event that is seen or missed, or a list.
#[derive(Clone, Debug)]
enum Step {
    Event { pod: u8, exists: bool },
    Unseen { pod: u8, exists: bool },
    BrokenList(usize),
    List,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, any::<bool>()).prop_map(|(pod, exists)| Step::Event { pod, exists }),
        4 => (0..6_u8, any::<bool>()).prop_map(|(pod, exists)| Step::Unseen { pod, exists }),
        1 => (0..6_usize).prop_map(Step::BrokenList),
        1 => Just(Step::List),
    ]
}

proptest! {
    #[test]
    fn after_a_list_exactly_what_the_server_has_is_known(
        first in btree_map(0..6_u8, Just(0_u32), 0..6),
        steps in vec(step(), 0..40),
    ) {
        let mut server: BTreeMap<u8, u32> = first;
        let mut version = 0;
        server.values_mut().for_each(|value| { version += 1; *value = version; });
        let mut known = Known::default();
        let mut mirror = BTreeMap::new();
        let name = |pod: u8| format!("pod-{pod}");
        // After a missed event, events come only after a list.
        let mut blind = true;
        for step in steps.into_iter().chain([Step::List]) {
            match step {
                Step::Event { pod, exists } | Step::Unseen { pod, exists } => {
                    version += 1;
                    let old = if exists { server.insert(pod, version) } else { server.remove(&pod) };
                    blind |= matches!(step, Step::Unseen { .. });
                    if blind { continue }
                    if exists { known.applied(&super::tests::pod(&name(pod), version)) }
                    else if old.is_some() { known.deleted(&super::tests::pod(&name(pod), version)) }
                }
                Step::BrokenList(upto) => {
                    known.begin();
                    server.iter().take(upto).for_each(|(pod, version)| known.applied(&super::tests::pod(&name(*pod), *version)));
                    blind = true;
                }
                Step::List => {
                    known.begin();
                    server.iter().for_each(|(pod, version)| known.applied(&super::tests::pod(&name(*pod), *version)));
                    known.end();
                    blind = false;
                }
            }
            for (pod, address) in pod_changes(&known.flush()) {
                mirror.insert(pod, address);
            }
        }
        mirror.retain(|_, address: &mut Option<u8>| address.is_some());
        let expected: BTreeMap<String, Option<u8>> = server.iter()
            .map(|(pod, version)| (format!("shop/pod-{pod}"), u8::try_from(*version).ok())).collect();
        prop_assert_eq!(mirror, expected);
    }
}
