//! The parts that a snapshot keeps. The parts that conversion needs are tested in `convert`.

use serde_json::json;

use super::snapshot;

#[test]
fn nothing_that_is_not_asked_for_stays() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "managedFields": [],
            "annotations": {"token": "s3cret", "portcullis.dev/extra-source-ranges": "s3cret"}},
        "spec": {"containers": [{
            "image": "x", "args": ["--password=s3cret"], "env": [{"name": "A", "value": "s3cret"}],
            "ports": [{"name": "http", "containerPort": 80, "hostIP": "10.0.0.1"}],
        }], "volumes": [{"secret": {"secretName": "s3cret"}}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    });
    let kept = snapshot(&pod).unwrap();
    assert!(!kept.to_string().contains("s3cret"), "{kept}");
    let wanted = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    });
    assert_eq!(kept, wanted);
    assert_eq!(snapshot(&json!({"apiVersion": "v1", "kind": "Secret"})), None);
}

#[test]
fn policies_of_every_kind_keep_their_spec_and_their_mode() {
    for (api_version, kind) in [
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1", "ClusterNetworkPolicy"),
        ("portcullis.dev/v1alpha1", "ClusterDefaultNetworkPolicy"),
    ] {
        let policy = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": "a", "annotations": {
                "portcullis.dev/mode": "audit", "token": "s3cret",
            }},
            "spec": {"anything": [1]}, "status": {"conditions": []},
        });
        let mut wanted = policy.clone();
        wanted["metadata"]["annotations"] = json!({"portcullis.dev/mode": "audit"});
        wanted.as_object_mut().unwrap().remove("status");
        assert_eq!(snapshot(&policy), Some(wanted), "{kind}");
        let mut other = policy;
        other["apiVersion"] = json!("crd.antrea.io/v1beta1");
        assert_eq!(snapshot(&other), None, "{kind}");
    }
}

#[test]
fn a_part_of_an_unexpected_shape_stays_recognisable() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": {"env": "s3cret"}}});
    assert_eq!(snapshot(&pod).unwrap()["spec"], json!({"containers": {}}));
}
