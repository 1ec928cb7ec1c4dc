//! Objects cut down to what answers depend on: names, labels, owners, addresses, ports, policies.
//! No containers' environment or arguments, no annotations but a policy's mode, no other kinds.

use portcullis_crds::lean::MODE_ANNOTATION;
use serde_json::{Map, Value};

/// What is kept of one part of an object.
enum Keep {
    /// All of it.
    Whole,
    /// Of a mapping these fields.
    Fields(&'static [(&'static str, Keep)]),
    /// Of each item of a list this.
    Items(&'static Keep),
}

use Keep::{Fields, Items, Whole};

const METADATA: Keep = Fields(&[
    ("name", Whole),
    ("namespace", Whole),
    ("labels", Whole),
    ("creationTimestamp", Whole),
    ("deletionTimestamp", Whole),
    (
        "ownerReferences",
        Items(&Fields(&[
            ("apiVersion", Whole),
            ("kind", Whole),
            ("name", Whole),
            ("controller", Whole),
        ])),
    ),
]);

const CONTAINERS: Keep = Items(&Fields(&[
    ("ports", Items(&Fields(&[("name", Whole), ("containerPort", Whole), ("protocol", Whole)]))),
    ("restartPolicy", Whole),
]));

const POD_SPEC: Keep = Fields(&[
    ("nodeName", Whole),
    ("hostNetwork", Whole),
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
]);

const TEMPLATE: Keep = Fields(&[("metadata", Fields(&[("labels", Whole)])), ("spec", POD_SPEC)]);

const JOB_SPEC: Keep =
    Fields(&[("parallelism", Whole), ("suspend", Whole), ("template", TEMPLATE)]);

const POD: Keep = Fields(&[
    ("metadata", METADATA),
    ("spec", POD_SPEC),
    ("status", Fields(&[("phase", Whole), ("podIP", Whole), ("podIPs", Whole)])),
]);

const NODE: Keep = Fields(&[("metadata", METADATA), ("status", Fields(&[("addresses", Whole)]))]);

const NAMED: Keep = Fields(&[("metadata", METADATA)]);

const SERVICE: Keep = Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Fields(&[
            ("selector", Whole),
            ("ports", Whole),
            ("type", Whole),
            ("clusterIP", Whole),
            ("clusterIPs", Whole),
        ]),
    ),
]);

/// Fields that are not known may have been meant to isolate, so the whole `spec` stays.
const POLICY: Keep = Fields(&[
    (
        "metadata",
        Fields(&[
            ("name", Whole),
            ("namespace", Whole),
            ("labels", Whole),
            ("annotations", Fields(&[(MODE_ANNOTATION, Whole)])),
        ]),
    ),
    ("spec", Whole),
]);

const WORKLOAD: Keep = Fields(&[
    ("metadata", METADATA),
    ("spec", Fields(&[("replicas", Whole), ("selector", Whole), ("template", TEMPLATE)])),
]);

const JOB: Keep = Fields(&[
    ("metadata", METADATA),
    ("spec", JOB_SPEC),
    ("status", Fields(&[("conditions", Items(&Fields(&[("type", Whole), ("status", Whole)])))])),
]);

const CRON_JOB: Keep = Fields(&[
    ("metadata", METADATA),
    ("spec", Fields(&[("jobTemplate", Fields(&[("spec", JOB_SPEC)]))])),
]);

/// What of an object answers depend on; `None`: on nothing of it.
#[must_use]
pub fn trim(object: &Value) -> Option<Value> {
    let api_version = object.get("apiVersion")?.as_str()?;
    let kind = object.get("kind")?.as_str()?;
    let keep = match kind {
        "Pod" => &POD,
        "Node" => &NODE,
        "Namespace" => &NAMED,
        "Service" if !api_version.contains('/') => &SERVICE,
        "NetworkPolicy" if api_version.starts_with("networking.k8s.io/") => &POLICY,
        "ClusterNetworkPolicy" if api_version.starts_with("policy.networking.k8s.io/") => &POLICY,
        "ClusterDefaultNetworkPolicy" if api_version.starts_with("portcullis.dev/") => &POLICY,
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" => {
            &WORKLOAD
        }
        "Job" => &JOB,
        "CronJob" => &CRON_JOB,
        _ => return None,
    };
    let mut kept = Map::new();
    kept.insert("apiVersion".to_owned(), api_version.into());
    kept.insert("kind".to_owned(), kind.into());
    if let Value::Object(fields) = cut(object, keep) {
        kept.extend(fields);
    }
    Some(Value::Object(kept))
}

/// A part of an unexpected shape stays as far as its shape can be told, for answers fail closed on
/// it: a text stays, a mapping or list stays empty.
fn cut(value: &Value, keep: &Keep) -> Value {
    match (value, keep) {
        (_, Whole) | (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {
            value.clone()
        }
        (Value::Object(fields), Fields(keep)) => {
            let kept = keep
                .iter()
                .filter_map(|(key, keep)| Some(((*key).to_owned(), cut(fields.get(*key)?, keep))));
            Value::Object(kept.collect())
        }
        (Value::Array(items), Items(keep)) => {
            Value::Array(items.iter().map(|item| cut(item, keep)).collect())
        }
        (Value::Object(_), Items(_)) => Value::Object(Map::new()),
        (Value::Array(_), Fields(_)) => Value::Array(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_is_not_asked_for_stays() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "annotations": {"token": "s3cret"}, "managedFields": []},
            "spec": {"containers": [{
                "image": "x", "args": ["--password=s3cret"], "env": [{"name": "A", "value": "s3cret"}],
                "ports": [{"name": "http", "containerPort": 80, "hostIP": "10.0.0.1"}],
            }], "volumes": [{"secret": {"secretName": "s3cret"}}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let kept = trim(&pod).unwrap();
        assert!(!kept.to_string().contains("s3cret"), "{kept}");
        let wanted = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        assert_eq!(kept, wanted);
        assert_eq!(trim(&json!({"apiVersion": "v1", "kind": "Secret"})), None);
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
            assert_eq!(trim(&policy), Some(wanted), "{kind}");
            let mut other = policy;
            other["apiVersion"] = json!("crd.antrea.io/v1beta1");
            assert_eq!(trim(&other), None, "{kind}");
        }
    }

    #[test]
    fn a_part_of_an_unexpected_shape_stays_recognisable() {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": {"env": "s3cret"}}});
        assert_eq!(trim(&pod).unwrap()["spec"], json!({"containers": {}}));
    }
}
