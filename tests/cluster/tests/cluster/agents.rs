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

    // The kernel announces changes of nftables, and the agent puts back what it announces before anybody can ask.
    if is_nftables(cluster)? {
        let (set, member) = set_with_a(cluster, true)?;
        let set = format!("{} portcullis {set}", table(&member));
        cluster.node("n2")?.shell(&format!("nft delete element {set} '{{ {member} }}'"))?;
        let (code, verified) = answer(cluster, "verify --node n2")?;
        ensure!(code == Some(0), "{code:?}: {verified}");
        return delete_namespace(cluster, namespace);
    }
    // Not a rule: with iptables-nft the agent puts that back, too.
    let (set, member) = set_with_a(cluster, false)?;
    cluster.node("n2")?.shell(&format!("ipset del {set} {member}"))?;
    let (code, verified) = answer(cluster, "verify --node n2")?;
    eprintln!("{verified}");
    ensure!(code == Some(1), "{code:?}: {verified}");
    for word in ["DIFFERS", &set, "has other members in the kernel: 0 instead of 1"] {
        ensure!(verified.contains(word), "no {word:?}: {verified}");
    }
    delete_namespace(cluster, namespace)
}

/// Whether the agent of n2 enforces with nftables.
fn is_nftables(cluster: &Cluster) -> Result<bool> {
    let name = ["get", "npr", "n2", "-o", "jsonpath={.status.backend.name}"];
    Ok(cluster.kubectl(&name)?.trim() == "nftables")
}

/// Lets a connect to b; gives the set in the kernel of n2 that has the address of a, and the address.
fn set_with_a(cluster: &Cluster, is_nftables: bool) -> Result<(String, String)> {
    let allow = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {name: from-a, namespace: inspect}\n\
                 spec:\n  podSelector: {}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: a}}}]\n";
    apply(cluster, allow)?;
    ask(cluster, "status netpol/from-a -n inspect --wait --timeout=2m")?;
    let address = ["get", "pod", "-n", "inspect", "a", "-o", "jsonpath={.status.podIPs[0].ip}"];
    let address = cluster.kubectl(&address)?.trim().to_owned();
    let node = cluster.node("n2")?;
    if is_nftables {
        let listed = node.shell(&format!("nft -j list table {} portcullis", table(&address)))?;
        let listed: Value = serde_json::from_str(&listed)?;
        let sets = listed["nftables"].as_array().into_iter().flatten().map(|object| &object["set"]);
        let has_a = |set: &&Value| {
            let members = set["elem"].as_array();
            members.is_some_and(|members| members.iter().any(|member| *member == *address))
        };
        let set = sets.filter(has_a).find_map(|set| set["name"].as_str());
        return Ok((set.with_context(|| format!("no set: {listed}"))?.to_owned(), address));
    }
    let find = "$1 == \"add\" && $2 ~ /^PORTCULLIS/ && $3 == address {print $2; exit}";
    let set = node.shell(&format!("ipset save | awk -v address={address} '{find}'"))?;
    ensure!(!set.is_empty(), "no set");
    Ok((set.trim().to_owned(), address))
}

/// The family of the table of nftables for packets of an address.
fn table(address: &str) -> &'static str {
    if address.contains(':') { "ip6" } else { "ip" }
}

/// The exit code and the output.
fn answer(cluster: &Cluster, line: &str) -> Result<(Option<i32>, String)> {
    let output = command(cluster, line)?.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}
