//! `kubectl whatif inspect`, `trace` and `verify` in the pods of real agents.

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;
use serde_json::Value;

use crate::whatif::{ask, command};
use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// The rules of a pod are shown, traced, and a member of a set that is removed by hand is named.
pub(crate) fn kernels_are_inspected_traced_and_verified(cluster: &Cluster) -> Result<()> {
    let namespace = "inspect";
    create_namespace(cluster, namespace)?;
    let pods = [("a", "n1"), ("b", "n2")].map(|(name, node)| server(namespace, name, name, node));
    let deny = default_deny(namespace).replace("[Ingress, Egress]", "[Ingress]");
    apply(cluster, &format!("{}{deny}", pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    ask(cluster, "status netpol/default-deny -n inspect --wait --timeout=2m")?;

    let shown = ask(cluster, "inspect b -n inspect")?;
    for word in ["inspect/b on node n2", "inspect/default-deny", "The kernel holds these rules"] {
        ensure!(shown.contains(word), "no {word:?}: {shown}");
    }
    let (code, traced) = answer(cluster, "trace inspect/a inspect/b 8080")?;
    ensure!(code == Some(1), "{code:?}: {traced}");
    for word in [
        "kernel of n1",
        "kernel of n2",
        "kernel: Denied by rule",
        "isolated by inspect/default-deny",
    ] {
        ensure!(traced.contains(word), "no {word:?}: {traced}");
    }
    let (code, traced) = answer(cluster, "trace inspect/b inspect/a 8080 --proto udp")?;
    ensure!(code == Some(1), "{code:?}: {traced}");
    let (code, verified) = answer(cluster, "verify")?;
    eprintln!("{verified}");
    ensure!(code == Some(0), "{code:?}: {verified}");
    let answered: Value = serde_json::from_str(&ask(cluster, "verify --node n1 -o json")?)?;
    ensure!(answered["nodes"][0]["result"] == "Agrees", "{answered}");

    // Not a rule: with iptables-nft the agent puts it back before anybody can ask.
    let set = set_with_a(cluster)?;
    let (set, member) = set.trim().split_once(' ').with_context(|| format!("no set: {set:?}"))?;
    cluster.node("n2")?.shell(&format!("ipset del {set} {member}"))?;
    let (code, verified) = answer(cluster, "verify --node n2")?;
    eprintln!("{verified}");
    ensure!(code == Some(1), "{code:?}: {verified}");
    for word in ["DIFFERS", set, "has other members in the kernel: 0 instead of 1"] {
        ensure!(verified.contains(word), "no {word:?}: {verified}");
    }
    delete_namespace(cluster, namespace)
}

/// Lets a connect to b; gives the set in the kernel of n2 that has the address of a, and the address.
fn set_with_a(cluster: &Cluster) -> Result<String> {
    let allow = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {name: from-a, namespace: inspect}\n\
                 spec:\n  podSelector: {}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: a}}}]\n";
    apply(cluster, allow)?;
    ask(cluster, "status netpol/from-a -n inspect --wait --timeout=2m")?;
    let address = ["get", "pod", "-n", "inspect", "a", "-o", "jsonpath={.status.podIPs[0].ip}"];
    let address = cluster.kubectl(&address)?;
    let find = "$1 == \"add\" && $2 ~ /^PORTCULLIS/ && $3 == address {print $2, $3; exit}";
    let address = address.trim();
    cluster.node("n2")?.shell(&format!("ipset save | awk -v address={address} '{find}'"))
}

/// The exit code and the output.
fn answer(cluster: &Cluster, line: &str) -> Result<(Option<i32>, String)> {
    let output = command(cluster, line)?.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}
