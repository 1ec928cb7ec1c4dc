//! `kubectl whatif status`: what nodes apply, by the reports of real agents.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Asked, ask};
use crate::report::{agent, shop};

#[test]
fn status_tells_which_nodes_apply_a_policy_and_waits_for_them() -> Result<()> {
    let (cluster, server, kubeconfig) = shop()?;
    let admin = server.admin_kubeconfig();
    let expect = |line: &str, code: i32, words: &[&str]| -> Result<Asked> {
        let asked = ask(&admin, line)?;
        let all = format!("{}{}", asked.out, asked.said);
        ensure!(asked.code == Some(code), "{line}: {:?}\n{all}", asked.code);
        for word in words {
            ensure!(all.contains(word), "{line}: no {word:?} in\n{all}");
        }
        Ok(asked)
    };
    let one = "status netpol/deny -n shop";
    let no_agent =
        "n1     1      Unknown   the node has no report; see whether an agent runs there";
    expect(one, 3, &["networkpolicy/shop/deny, generation 1: applied on 0 of 1 nodes", no_agent])?;

    let running = agent(&cluster, &kubeconfig)?;
    expect(&format!("{one} --wait"), 0, &["applied on 1 of 1 nodes", "Applied"])?;
    let all = ["networkpolicy/shop/deny   1            1/1", "n1     Enforcing"];
    expect("status", 0, &all)?;

    // While the agent is stopped, nothing new is applied.
    running.signal(Signal::SIGSTOP)?;
    let spec = json!({"spec": {"policyTypes": ["Ingress", "Egress"]}}).to_string();
    server.kubectl(&["patch", "netpol", "deny", "-nshop", "--type=merge", "-p", &spec], None)?;
    expect(one, 1, &["generation 2: applied on 0 of 1", "the node has generation 1"])?;
    let late = ["timed out after 1 s: not applied on n1", "the node has generation 1"];
    expect(&format!("{one} --wait --timeout=1s"), 1, &late)?;
    let answer: Value = serde_json::from_str(&expect(&format!("{one} -o json"), 1, &[])?.out)?;
    let node = json!({"node": "n1", "pods": 1, "status": "Waiting", "message": "the node has generation 1"});
    assert_eq!(answer["policies"][0]["nodes"], json!([node]));

    // A policy of the same name and generation is another object.
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "shop"}, "spec": {"podSelector": {}}});
    server.kubectl(&["delete", "netpol", "deny", "-nshop"], None)?;
    server.kubectl(&["apply", "-f", "-"], Some(&policy.to_string()))?;
    expect(one, 1, &["the node has an earlier object of this name, generation 1"])?;
    running.signal(Signal::SIGCONT)?;
    expect(&format!("{one} --wait"), 0, &["generation 1: applied on 1 of 1 nodes"])?;

    server.kubectl(&["delete", "netpol", "deny", "-nshop"], None)?;
    let gone = "networkpolicy/shop/deny is deleted, and no node reports it";
    expect(&format!("{one} --wait=deleted"), 0, &[gone])?;
    expect(one, 2, &["the cluster has no networkpolicy/shop/deny"])?;
    expect("status cdnp/none --wait", 2, &["the cluster has no clusterdefaultnetworkpolicy/none"])?;
    expect("status pod/shop/db", 2, &["is no policy: name netpol/NAME"])?;
    expect("status -f .", 2, &["-f reads manifests"])?;
    Ok(())
}
