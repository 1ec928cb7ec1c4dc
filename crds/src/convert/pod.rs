//! The fields of pods, namespaces and nodes that policies depend on.
//!
//! Parts that cannot be understood are reported and left out one by one. The object is kept, so
//! that policies still apply to it.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAddress, PodIP};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use policy_engine::labels::Str;
use policy_engine::model::{Life, NamedPort, Namespace, Node, Pod, PodKey};

use super::labels::{NAMESPACE_NAME_LABEL, labels};
use super::port::named_ports;
use super::source_ranges;
use crate::cidr;
use crate::decode::{Field, wanted};
use crate::path::Path;
use crate::report::Report;

const NO_ADDRESS: &str = "the address is left out";

/// The pod `key` as written at `root`.
pub(super) fn pod(key: PodKey, root: &Field<'_>, report: &mut Report<'_>) -> Pod {
    let labels = labels(root, report);
    let spec = mapping(root, "spec", "the pod counts as on no node and without ports", report);
    let status = mapping(root, "status", "the pod counts as without addresses", report);
    let (node, host_network, ports) = match &spec {
        None => (None, false, Arc::default()),
        Some(spec) => (node_name(spec, report), host_network(spec, report), ports(spec, report)),
    };
    let addresses = status.as_ref().map(|status| pod_addresses(status, report)).unwrap_or_default();
    let life = life(root, status.as_ref(), report);
    let created = created(root, report);
    let extra_source_ranges = source_ranges::annotated(root, report).into();
    let addresses = addresses.into();
    Pod { key, labels, node, addresses, ports, host_network, life, created, extra_source_ranges }
}

/// The namespace `name` as written at `root`, with the label that the API server adds.
pub(super) fn namespace(name: &str, root: &Field<'_>, report: &mut Report<'_>) -> Namespace {
    let labels = labels(root, report);
    if labels.get(NAMESPACE_NAME_LABEL).is_some_and(|value| value.as_ref() != name) {
        let path = Path::ROOT.key("metadata");
        let path = path.key("labels");
        let message = format!("must be the namespace's name; `{name}` is enforced");
        report.error(&path.key(NAMESPACE_NAME_LABEL), message);
    }
    Namespace { labels: labels.with(NAMESPACE_NAME_LABEL, name) }
}

/// The namespace `name` if only its name is known.
#[must_use]
pub fn assumed_namespace(name: &str) -> Namespace {
    Namespace { labels: [(NAMESPACE_NAME_LABEL, name)].into_iter().collect() }
}

/// The node as written at `root`.
pub(super) fn node(root: &Field<'_>, report: &mut Report<'_>) -> Node {
    let labels = labels(root, report);
    let effect = "the node counts as without addresses";
    let status = mapping(root, "status", effect, report);
    let field = status.as_ref().and_then(|status| status.get("addresses"));
    let Some(field) = field else { return Node { labels, addresses: Vec::new() } };
    let mut addresses = Vec::new();
    for (at, value) in field.list(report, effect).into_iter().flatten().enumerate() {
        let item = Field { path: field.path.index(at), value };
        let decoded = item.decode::<NodeAddress>(report, NO_ADDRESS);
        let Some(entry) = decoded else { continue };
        // Host names and DNS names are not looked up.
        if ["InternalIP", "ExternalIP"].contains(&entry.type_.as_str()) {
            push_address(&entry.address, &item.path.key("address"), report, &mut addresses);
        }
    }
    Node { labels, addresses }
}

fn mapping<'a>(
    root: &'a Field<'a>,
    name: &'a str,
    effect: &str,
    report: &mut Report<'_>,
) -> Option<Field<'a>> {
    let field = root.get(name)?;
    if field.value.is_object() {
        return Some(field);
    }
    report.error(&field.path, format!("{}; {effect}", wanted("a mapping", field.value)));
    None
}

fn node_name(spec: &Field<'_>, report: &mut Report<'_>) -> Option<Str> {
    let text = spec.get("nodeName")?.text(report, "the pod counts as on no node")?;
    (!text.is_empty()).then(|| text.into())
}

/// Policies apply to a pod unless `hostNetwork` is clearly true.
fn host_network(spec: &Field<'_>, report: &mut Report<'_>) -> bool {
    let Some(field) = spec.get("hostNetwork") else { return false };
    let effect = "the pod counts as one with its own network";
    field.decode::<bool>(report, effect).unwrap_or(false)
}

/// NetworkPolicy v1: named ports of containers, and of init containers that keep running.
fn ports(spec: &Field<'_>, report: &mut Report<'_>) -> Arc<[NamedPort]> {
    let effect = "policies cannot name their ports";
    let mut named = Vec::new();
    for list in ["containers", "initContainers"] {
        let Some(field) = spec.get(list) else { continue };
        for (at, value) in field.list(report, effect).into_iter().flatten().enumerate() {
            let container = Field { path: field.path.index(at), value };
            let restarts = value.get("restartPolicy").and_then(|policy| policy.as_str());
            if list == "containers" || restarts == Some("Always") {
                named_ports(&container, report, &mut named);
            }
        }
    }
    named.sort();
    named.dedup();
    named.into()
}

fn pod_addresses(status: &Field<'_>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    if let Some(field) = status.get("podIPs") {
        for (at, value) in field.list(report, NO_ADDRESS).into_iter().flatten().enumerate() {
            let item = Field { path: field.path.index(at), value };
            if let Some(entry) = item.decode::<PodIP>(report, NO_ADDRESS) {
                push_address(&entry.ip, &item.path.key("ip"), report, &mut addresses);
            }
        }
    }
    // Objects from before Kubernetes 1.16, and objects that are written by hand.
    if addresses.is_empty()
        && let Some(field) = status.get("podIP")
        && let Some(text) = field.text(report, NO_ADDRESS)
        && !text.is_empty()
    {
        push_address(text, &field.path, report, &mut addresses);
    }
    addresses
}

fn push_address(text: &str, path: &Path<'_>, report: &mut Report<'_>, addresses: &mut Vec<IpAddr>) {
    let Some(read) = cidr::address(text).filter(|read| !read.value.is_unspecified()) else {
        report.error(path, format!("`{text}` is no address of a pod or node; {NO_ADDRESS}"));
        return;
    };
    if !read.canonical {
        let address = read.value;
        report.warning(path, format!("`{text}` is read as {address}; write `{address}`"));
    }
    if !addresses.contains(&read.value) {
        addresses.push(read.value);
    }
}

fn life(root: &Field<'_>, status: Option<&Field<'_>>, report: &mut Report<'_>) -> Life {
    let phase = status.and_then(|status| {
        status.get("phase")?.text(report, "the pod counts as running").map(str::to_owned)
    });
    let metadata = root.get("metadata");
    match phase.as_deref() {
        Some("Succeeded" | "Failed") => Life::Finished,
        _ if metadata.is_some_and(|field| field.get("deletionTimestamp").is_some()) => {
            Life::Terminating
        }
        _ => Life::Active,
    }
}

fn created(root: &Field<'_>, report: &mut Report<'_>) -> i64 {
    let Some(metadata) = root.get("metadata") else { return 0 };
    let Some(field) = metadata.get("creationTimestamp") else { return 0 };
    let effect = "the object counts as older than any other";
    field.decode::<Time>(report, effect).map_or(0, |time| time.0.as_second())
}
