//! Lean objects: any JSON can be decoded to one, and it means the same as the whole object.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use policy_engine::model::Life;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use serde_json::json;

use super::super::{Change, Converted, DEFAULT_NAMESPACE, Diagnostic, Kind, Report, Value, known};
use super::policy_of;
use crate::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use crate::api::cluster_network_policy::ClusterNetworkPolicy;
use crate::lean::{EXTRA_SOURCE_RANGES_ANNOTATION, Lean, LeanKind, MODE_ANNOTATION};

/// `value` as it comes from an API server.
fn decoded<K: LeanKind>(value: &Value) -> Lean<K> {
    serde_json::from_str(&value.to_string()).expect("every JSON value has a lean form")
}

/// The result of the conversion of the whole object.
fn converted_whole(kind: Kind, value: &Value) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(None);
    let converted = known(kind, value, DEFAULT_NAMESPACE, &mut report);
    (converted, report.finish())
}

/// Checks that no field that matters was removed, and the names of the object.
fn check<K: LeanKind>(value: &Value) {
    let lean = decoded::<K>(value);
    // Both are read from the same text, because numbers may lose their last digit.
    let value = &serde_json::from_str(&value.to_string()).expect("what was written can be read");
    let whole = converted_whole(K::KIND, value);
    assert_eq!(super::super::lean(&lean), whole, "{value}");
    let object = lean.names().map(|(namespace, name)| ObjectRef::new(K::KIND, namespace, name));
    let of_change = match whole.0 {
        Converted::Object(change) => Some(change.object()),
        Converted::Foreign { .. } | Converted::UnknownVersion(_) | Converted::Unusable => None,
    };
    assert_eq!(object, of_change, "{value}");
}

fn check_every_kind(value: &Value) {
    check::<core::Pod>(value);
    check::<core::Namespace>(value);
    check::<core::Node>(value);
    check::<networking::NetworkPolicy>(value);
    check::<ClusterNetworkPolicy>(value);
    check::<ClusterDefaultNetworkPolicy>(value);
}

/// A pod as an API server sends it, with fields that are not needed.
fn pod() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {"a": "b", EXTRA_SOURCE_RANGES_ANNOTATION: "192.0.2.7/32"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "r"}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:phase": {}}}}],
        },
        "spec": {
            "nodeName": "n1", "hostNetwork": false,
            "containers": [
                {"name": "a", "env": [{"name": "A", "value": "b"}],
                 "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]},
                {"name": "b"},
            ],
            "initContainers": [
                {"name": "c", "restartPolicy": "Always", "ports": [{"name": "dns",
                 "containerPort": 53, "protocol": "UDP"}]},
                {"name": "d", "ports": [{"name": "once", "containerPort": 1}]},
            ],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.0.1"}],
        },
    })
}

fn policy() -> Value {
    json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": "a", "namespace": "shop", "resourceVersion": "8", "generation": 3,
            "annotations": {MODE_ANNOTATION: "audit", "a": "b"},
        },
        "spec": {
            "podSelector": {"matchLabels": {"a": "b"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}, {"from": [{"podSelector": {}}], "ports": [{"port": "http"}, {}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        },
    })
}

fn cluster_policy() -> Value {
    json!({
        "kind": "ClusterNetworkPolicy", "apiVersion": "policy.networking.k8s.io/v1beta1",
        "metadata": {
            "name": "a", "resourceVersion": "8", "annotations": {MODE_ANNOTATION: "enforce"},
        },
        "spec": {
            "tier": "Admin", "priority": 5, "subject": {"pods": {"podSelector": {}}},
            "ingress": [{
                "name": "monitoring", "action": "Accept",
                "from": [{"namespaces": {"matchLabels": {"a": "b"}}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                              {"destinationNamedPort": "metrics"}],
            }],
            "egress": [
                {"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}],
                 "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]},
                {"action": "Pass", "to": [{"pods": {"podSelector": {}}}]},
            ],
        },
        "status": {"conditions": []},
    })
}

fn default_policy() -> Value {
    json!({
        "kind": "ClusterDefaultNetworkPolicy", "apiVersion": "portcullis.dev/v1alpha1",
        "metadata": {"name": "a", "resourceVersion": "8", "annotations": {"a": "b"}},
        "spec": {
            "namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"sameNamespace": true}], "ports": [{"port": 80}]}],
            "egress": [{"to": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
            "allowDNS": false, "allowAPIServer": true, "includeSystemNamespaces": true, "mode": "Audit",
        },
        "status": {"pods": 5},
    })
}

/// Any JSON, in which fields of the API are more frequent than by chance.
fn anything() -> impl Strategy<Value = Value> {
    let number = any::<f64>().prop_filter("JSON has no other numbers", |value| value.is_finite());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        number.prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 15] = [
        "metadata",
        "name",
        "namespace",
        "labels",
        "resourceVersion",
        "generation",
        "spec",
        "status",
        "containers",
        "ports",
        "podIPs",
        "ip",
        "addresses",
        "ingress",
        "restartPolicy",
    ];
    prop_oneof![4 => prop::sample::select(&KNOWN[..]).prop_map(str::to_owned), 1 => ".{0,4}"]
}

/// `value` with another value at the end of `way`.
fn replaced(value: Value, way: &[prop::sample::Index], by: Value) -> Value {
    let Some((step, rest)) = way.split_first() else { return by };
    match value {
        Value::Array(mut items) if !items.is_empty() => {
            let at = step.index(items.len());
            items[at] = replaced(items[at].take(), rest, by);
            Value::Array(items)
        }
        Value::Object(mut fields) if !fields.is_empty() => {
            let at = step.index(fields.len());
            let field = fields.values_mut().nth(at).expect("an index within");
            *field = replaced(field.take(), rest, by);
            Value::Object(fields)
        }
        _ => by,
    }
}

/// A pod or a policy that is broken in up to three places.
fn nearly_good() -> impl Strategy<Value = Value> {
    let break_at = (vec(any::<prop::sample::Index>(), 1..5), anything());
    let good = vec![pod(), policy(), cluster_policy(), default_policy()];
    (prop::sample::select(good), vec(break_at, 0..4)).prop_map(|(good, breaks)| {
        breaks.into_iter().fold(good, |value, (way, by)| replaced(value, &way, by))
    })
}

proptest! {
    #[test]
    fn any_json_has_a_lean_form_that_means_the_same(value in anything()) {
        check_every_kind(&value);
    }

    #[test]
    fn a_lean_object_means_what_the_whole_object_means(value in nearly_good()) {
        check_every_kind(&value);
    }
}

#[test]
fn a_pod_keeps_a_small_part_of_what_it_was() {
    let lean = decoded::<core::Pod>(&pod());
    let kept = json!({
        "metadata": {
            "name": "web", "namespace": "shop", "resourceVersion": "7", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "tier": "front"},
            "annotations": {"portcullis.dev/extra-source-ranges": "192.0.2.7/32"},
        },
        "spec": {
            "nodeName": "n1", "hostNetwork": false,
            "containers": [
                {"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}, {},
            ],
            "initContainers": [
                {"restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53,
                 "protocol": "UDP"}]},
                {"ports": [{"name": "once", "containerPort": 1}]},
            ],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        },
    });
    assert_eq!(lean.value(), &kept);
    assert_eq!((lean.names(), lean.resource_version()), (Some(("shop", "web")), Some("7")));
}

#[test]
fn a_pod_that_its_api_type_refuses_is_still_a_subject() {
    let mut weird = pod();
    weird["spec"]["containers"] = json!("none");
    weird["status"]["phase"] = json!(7);
    serde_json::from_value::<core::Pod>(weird.clone()).expect_err("the API type refuses it");
    let (converted, found) = super::super::lean(&decoded::<core::Pod>(&weird));
    let Converted::Object(Change::Pod(_, Some(pod))) = converted else { panic!("{converted:?}") };
    assert_eq!((pod.life, pod.addresses.len(), found.len()), (Life::Active, 2, 2), "{found:?}");
}

#[test]
fn nesting_that_would_end_the_reader_ends_one_field() {
    let depth = 120;
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let text = format!(
        r#"{{"metadata": {{"name": "a", "namespace": "b"}}, "spec": {{"podSelector": {deep}}}}}"#
    );
    let lean: Lean<networking::NetworkPolicy> = serde_json::from_str(&text).unwrap();
    let (converted, found) = super::super::lean(&lean);
    let policy = policy_of(converted);
    assert!(policy.subject.any_pods().is_everything(), "it fails closed");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn an_object_without_a_name_is_reported_and_not_enforced() {
    for metadata in [json!(null), json!([]), json!({}), json!({"name": 5}), json!({"name": ""})] {
        let lean = decoded::<core::Pod>(&json!({"metadata": metadata}));
        let (converted, found) = super::super::lean(&lean);
        assert_eq!((lean.names(), converted, found.len()), (None, Converted::Unusable, 1));
    }
}

#[test]
fn a_policy_knows_which_object_it_is() {
    for (generation, expected) in [(json!(3), Some(3)), (json!("3"), None), (json!(null), None)] {
        for spec in [json!({}), json!("nothing that can be understood")] {
            let value = json!({
                "metadata": {"name": "a", "namespace": "b", "uid": "1-2", "generation": generation},
                "spec": spec,
            });
            let (converted, _) = super::super::lean(&decoded::<networking::NetworkPolicy>(&value));
            let policy = policy_of(converted);
            let uid = Some("1-2".into());
            assert_eq!(policy.revision, Revision { uid, generation: expected });
        }
    }
}
