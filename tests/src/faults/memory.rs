//! The memory of an agent of a large cluster: at first, with hostile objects, and during faults.
//!
//! ```text
//! 100,000 pods, 10,000 policies ─► 110 pods of the node ─► hostile policies and objects ─► faults
//!            └──────────── the peak of the agent's process after each step ────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_lab::IptablesVariant;
use serde_json::{Value, json};

use super::api::Mode;
use super::stage::{CLOSES, Stage, pod_object};
use crate::cluster::AgentSetup;

const PODS: u32 = 100_000;
const PODS_OF_A_NAMESPACE: u32 = 100;
const POLICIES: u32 = 10_000;
const LOCAL_PODS: u32 = 110;
/// What the agent's process may use at most, in megabytes (10⁶ bytes).
const LIMIT_MB: u64 = 150;
/// Memory that stays the same for so long is that after all that was sent.
const SETTLES: Duration = Duration::from_secs(4);
/// A large cluster takes longer than the small one of the other faults.
const LARGE: Duration = Duration::from_mins(5);

/// Prints the memory of an agent after each step.
///
/// # Errors
/// When it used more than `LIMIT_MB`, or does not become ready.
pub fn run() -> Result<()> {
    let stage = Stage::new(IptablesVariant::Nft)?;
    stage.api.put((0..PODS / PODS_OF_A_NAMESPACE).map(namespace));
    stage.api.put((0..PODS).map(pod));
    stage.api.put((0..POLICIES).map(policy));
    stage.start(AgentSetup::default())?;
    println!("| after | resident, MB | peak, MB |\n|---|---|---|");
    let mut highest = print(&stage, "the start")?;
    for (name, objects) in hostile() {
        stage.api.put(objects);
        highest = print(&stage, name)?;
    }
    for (name, mode) in [
        ("3 s of an API server that is gone", Mode::Gone),
        ("3 s of watches that end with 410", Mode::Expire),
        ("3 s of answers that are cut off", Mode::CutOff),
    ] {
        stage.api.set(mode);
        thread::sleep(Duration::from_secs(3));
        stage.api.compact();
        stage.api.set(Mode::Serve);
        highest = print(&stage, name)?;
    }
    for (name, tools, fault) in [
        ("3 s of an `ipset` that fails", vec!["ipset".to_owned()], "exit 1"),
        ("3 s of an `iptables-restore` that fails", restore(&stage), "exit 1"),
        ("3 s of an `iptables-restore` that hangs", restore(&stage), "sleep 3"),
    ] {
        stage.break_tools(&tools, fault)?;
        (0..8).for_each(|turn| stage.churn(turn));
        thread::sleep(Duration::from_secs(3));
        stage.fix_tools(&tools)?;
        highest = print(&stage, name)?;
    }
    ensure!(highest <= LIMIT_MB, "the agent used {highest} MB, and may use {LIMIT_MB}");
    Ok(())
}

fn restore(stage: &Stage) -> Vec<String> {
    ["iptables", "ip6tables"].map(|tool| format!("{tool}-{}-restore", stage.variant())).into()
}

/// Waits until changes that follow all others reach packets; gives the agent's peak in megabytes.
fn print(stage: &Stage, name: &str) -> Result<u64> {
    for is_open in [false, true] {
        if is_open {
            stage.reset();
        } else {
            stage.close();
        }
        let took = stage.until(CLOSES, is_open, LARGE)?;
        ensure!(took.is_some(), "{name}: a change is not applied: {}", stage.why());
    }
    // The same for a pod, whose events come behind those of all others.
    let near = stage.lab().pod("shop/near")?;
    for (app, is_open) in [("moved", false), ("near", true)] {
        stage.api.put([pod_object(near.name(), near.node(), near.addresses(), app)]);
        let took = stage.until(&CLOSES[..1], is_open, LARGE)?;
        ensure!(took.is_some(), "{name}: a pod's label is not applied: {}", stage.why());
    }
    let megabytes = |name| stage.with_agent(|agent| Ok(agent.memory_bytes(name)? / 1_000_000));
    let mut before = 0;
    while megabytes("VmRSS:")? != before {
        before = megabytes("VmRSS:")?;
        thread::sleep(SETTLES);
    }
    let (resident, peak) = (megabytes("VmRSS:")?, megabytes("VmHWM:")?);
    println!("| {name} | {resident} | {peak} |");
    Ok(peak)
}

pub(super) fn namespace(number: u32) -> Value {
    let labels = json!({"team": format!("team-{}", number % 50)});
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": format!("ns-{number}"), "labels": labels}})
}

/// The first ones are on the node of the agent.
pub(super) fn pod(number: u32) -> Value {
    let address = Ipv4Addr::from(0x0b00_0000 + number);
    let node = if number < LOCAL_PODS { "n2" } else { "n9" };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "namespace": format!("ns-{}", number / PODS_OF_A_NAMESPACE), "name": format!("pod-{number}"),
            "labels": {"app": app(number), "pod-template-hash": format!("{:08x}", number / 10 * 7919)},
            "annotations": {"about": "x".repeat(256)}},
        "spec": {"nodeName": node, "containers": [{"name": "c",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]}})
}

pub(super) fn app(number: u32) -> String {
    format!("app-{}", number % PODS_OF_A_NAMESPACE / 10)
}

fn policy(number: u32) -> Value {
    let from = json!([{"podSelector": {"matchLabels": {"app": app(number * 7)}}},
        {"namespaceSelector": {"matchLabels": {"team": format!("team-{}", number % 50)}}}]);
    network_policy(
        &format!("ns-{}", number / 10),
        &format!("policy-{number}"),
        &json!({"matchLabels": {"app": app(number * 10)}}),
        &json!([{"from": from, "ports": [{"port": 8080}, {"port": 9000 + number % 10}]}]),
    )
}

pub(super) fn network_policy(namespace: &str, name: &str, pods: &Value, ingress: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress}})
}

/// What tenants with pods on the node may create, each beside those before it.
fn hostile() -> Vec<(&'static str, Vec<Value>)> {
    let tenant = |number: u32| json!({"matchLabels": {"app": format!("app-{number}")}});
    let of = |number: u32, name: &str, rules: Vec<Value>| {
        network_policy("ns-0", name, &tenant(number), &json!(rules))
    };
    let block = |number: u32| json!({"ipBlock": {"cidr": format!("{}/32", address(number))}});
    let nested = (0..5_000_u32).map(|n| {
        json!({"from": [{"podSelector": {"matchLabels": {"app": format!("app-{n}")}}}],
            "ports": [{"port": 1 + n, "endPort": 60_000 - n}]})
    });
    let everybody = |n: u32| {
        json!({"namespaceSelector": {}, "podSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": [format!("none-{n}")]}]}})
    };
    let ranges = |n: u32| json!({"from": [everybody(n)], "ports": [{"port": n * 60 + 1, "endPort": n * 60 + 58}]});
    let blocks: Vec<Value> = (0..20_000).map(block).collect();
    let ports: Vec<Value> = (0..1_000).map(|n| json!({"port": 1 + n * 2})).collect();
    let except: Vec<String> = (0..30_000_u32)
        .map(|n| format!("{}/32", Ipv4Addr::from(n.wrapping_mul(0x0001_0003))))
        .collect();
    let selected = |n: u32| {
        json!({"namespaceSelector": {"matchExpressions": [
        {"key": "team", "operator": "NotIn", "values": [format!("team-{}", n % 50), format!("x{n}")]}]}})
    };
    let long = "annotation\n".repeat(20_000);
    let annotated = (0..100).map(|number| {
        let mut pod = pod(number);
        pod["metadata"]["annotations"] = json!({"long": long});
        pod
    });
    vec![
        ("5,000 nested port ranges", vec![of(0, "nested", nested.collect())]),
        (
            "250 port ranges, each for all pods",
            vec![of(1, "ranges", (0..250).map(ranges).collect())],
        ),
        (
            "20,000 ipBlocks, 1,000 ports",
            vec![of(2, "blocks", vec![json!({"from": blocks, "ports": ports})])],
        ),
        (
            "30,000 networks in `except`",
            vec![of(
                3,
                "except",
                vec![json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": except}}]})],
            )],
        ),
        (
            "4 sets of all pods for each of 5 pods' groups",
            (4..9)
                .map(|tenant| {
                    of(tenant, "sets", (0..4).map(|n| {
                json!({"from": [selected(tenant * 8 + n)], "ports": [{"port": 100 + n}]})
            }).collect())
                })
                .collect(),
        ),
        ("annotations of 220 kB on 100 pods", annotated.collect()),
    ]
}

/// Addresses that no two of which make one network.
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x1400_0000 + number * 2).into()
}
