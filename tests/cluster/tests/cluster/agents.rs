//! `kubectl whatif inspect`, `trace` and `verify` in the pods of real agents.

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;
use serde_json::Value;

use crate::whatif::{ask, command};
use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// How often a rule is removed by hand: the agent may repair it before it is looked for.
const TRIES: usize = 3;

/// The rules of a pod are shown, traced, and a rule that is removed by hand is named.
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

    let mut verified = String::new();
    for _ in 0..TRIES {
        let (chain, number, variant) = decisive(cluster)?;
        let iptables = format!("iptables-{variant} -w -t mangle");
        cluster.node("n2")?.shell(&format!("{iptables} -D {chain} {number}"))?;
        let (code, said) = answer(cluster, "verify --node n2")?;
        verified = said;
        if code == Some(1) {
            break;
        }
    }
    eprintln!("{verified}");
    ensure!(verified.contains("lacks the rule") && verified.contains("inspect/b"), "{verified}");
    delete_namespace(cluster, namespace)
}

/// The rule in the kernel of n2 that denies a connection of IPv4: its chain, its number, and the
/// variant of iptables.
fn decisive(cluster: &Cluster) -> Result<(String, u64, String)> {
    let agents = "get pods -n portcullis-system -l app.kubernetes.io/component=node -o \
                  jsonpath={.items[?(@.spec.nodeName==\"n2\")].metadata.name}";
    let agent = cluster.kubectl(&agents.split_whitespace().collect::<Vec<_>>())?;
    let exec = ["exec", "-n", "portcullis-system", agent.trim(), "-c", "node", "--"];
    let program = ["portcullis", "inspect", "pod", "inspect/b", "-o", "json"];
    let shown = cluster.kubectl(&[exec.as_slice(), program.as_slice()].concat())?;
    let shown: Value = serde_json::from_str(&shown)?;
    let variant = shown["variant"].as_str().context("no variant")?.to_owned();
    for (_, chains) in shown["chains"].as_object().context("no chains")? {
        for chain in chains.as_array().into_iter().flatten() {
            for rule in chain["rules"].as_array().into_iter().flatten() {
                let is_denial =
                    rule["words"].as_str().is_some_and(|w| w.starts_with("deny: Ingress"));
                if let (true, Some(number)) = (is_denial, rule["number"].as_u64()) {
                    let name = chain["name"].as_str().context("no name")?;
                    return Ok((name.to_owned(), number, variant));
                }
            }
        }
    }
    anyhow::bail!("no rule denies ingress: {shown}")
}

/// The exit code and the output.
fn answer(cluster: &Cluster, line: &str) -> Result<(Option<i32>, String)> {
    let output = command(cluster, line)?.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}
