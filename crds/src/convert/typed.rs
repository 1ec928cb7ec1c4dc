//! Objects of an API server, already typed.
//!
//! They take the same road as documents. Of pods and nodes only the fields that policies can see
//! go along, so the detour costs a few microseconds an object.

use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Converted, Kind, known};
use crate::diagnostic::Diagnostic;
use crate::report::Report;

/// Converts a NetworkPolicy of an API server.
#[must_use]
pub fn network_policy(policy: &NetworkPolicy) -> (Converted, Vec<Diagnostic>) {
    let spec = policy.spec.as_ref().map_or(Value::Null, value);
    convert(Kind::NetworkPolicy, &json!({ "metadata": metadata(&policy.metadata), "spec": spec }))
}

/// Converts a Pod of an API server.
#[must_use]
pub fn pod(pod: &Pod) -> (Converted, Vec<Diagnostic>) {
    let mut object = Map::new();
    object.insert("metadata".to_owned(), metadata(&pod.metadata));
    if let Some(spec) = &pod.spec {
        let spec = json!({
            "nodeName": spec.node_name,
            "hostNetwork": spec.host_network,
            "containers": spec.containers.iter().map(container).collect::<Vec<_>>(),
            "initContainers":
                spec.init_containers.iter().flatten().map(container).collect::<Vec<_>>(),
        });
        object.insert("spec".to_owned(), spec);
    }
    if let Some(status) = &pod.status {
        let status = json!({
            "phase": status.phase,
            "podIP": status.pod_ip,
            "podIPs": value(&status.pod_ips),
        });
        object.insert("status".to_owned(), status);
    }
    convert(Kind::Pod, &Value::Object(object))
}

/// Converts a Namespace of an API server.
#[must_use]
pub fn namespace(namespace: &Namespace) -> (Converted, Vec<Diagnostic>) {
    convert(Kind::Namespace, &json!({ "metadata": metadata(&namespace.metadata) }))
}

/// Converts a Node of an API server.
#[must_use]
pub fn node(node: &Node) -> (Converted, Vec<Diagnostic>) {
    let addresses = node.status.as_ref().map(|status| value(&status.addresses));
    let metadata = metadata(&node.metadata);
    convert(Kind::Node, &json!({ "metadata": metadata, "status": { "addresses": addresses } }))
}

fn convert(kind: Kind, value: &Value) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(String::new(), None);
    let converted = known(kind, value, true, super::DEFAULT_NAMESPACE, &mut report);
    (converted, report.finish())
}

fn metadata(metadata: &ObjectMeta) -> Value {
    json!({
        "name": metadata.name,
        "namespace": metadata.namespace,
        "labels": metadata.labels,
        "creationTimestamp": value(&metadata.creation_timestamp),
        "deletionTimestamp": value(&metadata.deletion_timestamp),
    })
}

fn container(container: &Container) -> Value {
    json!({ "restartPolicy": container.restart_policy, "ports": value(&container.ports) })
}

/// `part` as JSON. API types always have one; if one did not, text stands for it, which no part of
/// an object accepts: it fails closed.
fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_else(|error| Value::String(error.to_string()))
}
