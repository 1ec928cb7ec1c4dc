//! What an API server sends to one agent of a cluster of 5,000 nodes and 150,000 pods: bytes and events,
//! with the watches of before and of now. Nothing is measured by a clock: the objects are as an API
//! server sends them, and each watch gets the states that its field selector matches.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

const NODES: f64 = 5_000.0;
const PODS: f64 = 150_000.0;
/// Pods that are created, and pods that are deleted, in a second.
const CHURN: f64 = 20.0;
/// A kubelet writes the status of its Node this often, if nothing changes there.
const NODE_STATUS_SECONDS: f64 = 300.0;
/// Images in the status of a Node: the most that a kubelet lists.
const IMAGES: usize = 50;

/// What the status of a pod lacks until it has an address, and what it lacks until its kubelet writes.
const ADDRESSES: [&str; 2] = ["podIP", "podIPs"];
const UNWRITTEN: [&str; 7] =
    ["podIP", "podIPs", "hostIP", "hostIPs", "conditions", "containerStatuses", "startTime"];

/// Which pods and Nodes the watches of an agent select.
struct Watches {
    name: &'static str,
    nodes: f64,
    /// Whether pods of other nodes are selected before they have an address.
    without_address: bool,
}

const BEFORE: Watches = Watches { name: "before", nodes: NODES, without_address: true };
const NOW: Watches = Watches { name: "now", nodes: 1.0, without_address: false };
const NAMING: Watches = Watches { name: "now, a policy names nodes", nodes: NODES, ..NOW };

/// Prints the table. `pod` is the event of a pod that runs.
pub(super) fn print(pod: &str) -> Result<()> {
    let event: Value = serde_json::from_str(pod)?;
    let life = life(&event["object"])?;
    let (pod_bytes, node_bytes) = (bytes(&event["object"]), bytes(&node()));
    println!(
        "\n{:>26} {:>8} {:>8} {:>9} {:>8} {:>9} {:>9} {:>9} {:>11}",
        "one agent, 150,000 pods",
        "list MB",
        "B/Pod",
        "B/Node",
        "ev/life",
        "KB/life",
        "events/s",
        "KB/s",
        "MB/s of all"
    );
    for watches in [BEFORE, NOW, NAMING] {
        let list = PODS * pod_bytes + watches.nodes * node_bytes;
        let (events, of_life) = watches.events(&life);
        let node_events = watches.nodes / NODE_STATUS_SECONDS;
        let kb = (CHURN * of_life + node_events * node_bytes) / 1e3;
        println!(
            "{:>26} {:>8.0} {pod_bytes:>8} {node_bytes:>9} {events:>8} {:>9.1} {:>9.1} {kb:>9.0} {:>11.0}",
            watches.name,
            list / 1e6,
            of_life / 1e3,
            CHURN * events + node_events,
            kb * NODES / 1e3,
        );
    }
    Ok(())
}

impl Watches {
    /// The events of the life of a pod on another node, and their bytes.
    fn events(&self, life: &[Value]) -> (f64, f64) {
        let selects = |state: &&Value| {
            let phase = &state["status"]["phase"];
            let has_address = state["status"]["podIP"].is_string();
            *phase != "Succeeded" && *phase != "Failed" && (self.without_address || has_address)
        };
        let (mut count, mut sum) = (0.0, 0.0);
        let mut before: Option<&Value> = None;
        for state in life.iter().map(Some).chain([None]) {
            let after = state.filter(selects);
            // A state that is selected is sent; of one that no longer is, the deletion.
            if let Some(sent) = after.or(before) {
                count += 1.0;
                sum += bytes(sent);
            }
            before = after;
        }
        (count, sum)
    }
}

/// The states of a pod from its creation to its deletion, as the scheduler, the kubelet and the API
/// server write them.
fn life(running: &Value) -> Result<Vec<Value>> {
    let with = |edit: &dyn Fn(&mut Value) -> Option<()>| {
        let mut state = running.clone();
        edit(&mut state).context("a pod without a part that pods have").map(|()| state)
    };
    let pending = |state: &mut Value, parts: &[&str]| {
        let status = state["status"].as_object_mut()?;
        parts.iter().for_each(|part| drop(status.remove(*part)));
        status.insert("phase".to_owned(), json!("Pending"));
        Some(())
    };
    let created = with(&|state| {
        state["spec"].as_object_mut()?.remove("nodeName")?;
        pending(state, &UNWRITTEN)
    })?;
    let scheduled = with(&|state| pending(state, &UNWRITTEN))?;
    let starting = with(&|state| pending(state, &ADDRESSES))?;
    let terminating = with(&|state| {
        state["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:30Z");
        state["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        Some(())
    })?;
    let mut ended = terminating.clone();
    ended["status"]["phase"] = json!("Succeeded");
    Ok(vec![created, scheduled, starting, running.clone(), terminating, ended])
}

fn bytes(object: &Value) -> f64 {
    f64::from(u32::try_from(object.to_string().len()).unwrap_or(u32::MAX))
}

/// A Node with what kubelets write into its status.
fn node() -> Value {
    let digest = "0123456789abcdef".repeat(4);
    let image = |number: usize| {
        let name = format!("registry.example.com/team/workload-{number}");
        json!({"names": [format!("{name}@sha256:{digest}"), format!("{name}:1.2.3")],
            "sizeBytes": 123_456_789})
    };
    let condition = |kind: &str| {
        json!({"type": kind, "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:05Z",
            "lastTransitionTime": "2026-01-01T00:00:05Z", "reason": format!("KubeletHasNo{kind}"),
            "message": format!("kubelet has no {kind}")})
    };
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(condition);
    let amounts =
        json!({"cpu": "8", "ephemeral-storage": "100Gi", "memory": "32Gi", "pods": "110"});
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "node-1", "uid": "00000000-0000-4000-8000-000000000001",
            "resourceVersion": "1234567", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": "node-1",
                "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "zone-a"},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
        "spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"},
                {"type": "Hostname", "address": "node-1"}],
            "capacity": amounts, "allocatable": amounts, "conditions": conditions,
            "images": (0..IMAGES).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"architecture": "amd64", "kubeletVersion": "v1.36.3",
                "kernelVersion": "6.18.0", "osImage": "Debian GNU/Linux 12 (bookworm)"}},
    })
}
