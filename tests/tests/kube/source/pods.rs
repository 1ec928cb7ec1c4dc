//! An agent gets all pods of its own node, and of other nodes those that have an address.

use anyhow::{Result, ensure};
use portcullis_tests::kube::{ApiServer, Options};

use super::proxy::Proxy;
use super::seen::Seen;
use super::{apply, namespace, seen_pod, set_status, unbent};

fn pod(name: &str, node: &str) -> String {
    let node = if node.is_empty() { String::new() } else { format!("nodeName: {node}, ") };
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{{node}containers: [{{name: a, image: a}}]}}}}\n---\n"
    )
}

fn run(server: &ApiServer, name: &str, address: &str) -> Result<()> {
    let status = format!(
        r#"{{"phase": "Running", "podIP": "{address}", "podIPs": [{{"ip": "{address}"}}]}}"#
    );
    set_status(server, &format!("pod/{name}"), &status)
}

fn delete(server: &ApiServer, name: &str) -> Result<()> {
    let at_once = ["delete", "pod", "-n", "shop", name, "--grace-period=0", "--force"];
    server.kubectl(&at_once, None).map(drop)
}

#[test]
fn pods_of_other_nodes_are_sent_while_they_have_an_address_and_run() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    let pods = [pod("own", "n1"), pod("other", "n2"), pod("pending", ""), pod("runs", "n2")];
    apply(&server, &[&namespace("shop"), &pods.concat()])?;
    run(&server, "runs", "10.0.0.9")?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    let names = |seen: &Seen| -> Vec<String> {
        seen.objects.keys().filter(|name| name.starts_with("Pod ")).cloned().collect()
    };
    assert_eq!(names(&seen), ["Pod shop/own", "Pod shop/runs"]);
    let requests = proxy.count(&["/pods?"]);
    let without = proxy.count(&["/pods?", "spec.nodeName%21%3Dn1", "status.podIP%21%3D"]);
    assert_eq!((requests, without), (2, 1), "one watch for each of the two");

    run(&server, "other", "10.0.0.2")?;
    seen.until_change("+Pod shop/other")?;
    assert_eq!(seen_pod(&seen, "other")?.addresses.len(), 1);
    let from = seen.batches.len();
    set_status(&server, "pod/other", r#"{"phase": "Failed"}"#)?;
    seen.until_change("-Pod shop/other")?;
    delete(&server, "other")?;
    run(&server, "own", "10.0.0.1")?;
    seen.until_change("+Pod shop/own")?;
    assert_eq!(seen.batches[from..].concat(), ["-Pod shop/other", "+Pod shop/own"]);
    Ok(())
}

#[test]
fn a_pod_that_is_created_again_on_another_node_is_not_lost() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop"), &pod("a", "n2")])?;
    run(&server, "a", "10.0.0.2")?;
    let mut seen = Seen::start(&server.admin_kubeconfig())?;
    seen.until_synced()?;
    for (number, node) in ["n1", "n2", "n1", "n3", "n2"].into_iter().enumerate() {
        delete(&server, "a")?;
        apply(&server, &[&pod("a", node)])?;
        run(&server, "a", &format!("10.0.1.{number}"))?;
        let is_there = |seen: &Seen| {
            seen_pod(seen, "a").is_ok_and(|pod| {
                let address = pod.addresses.first().map(ToString::to_string);
                pod.node.as_deref() == Some(node) && address == Some(format!("10.0.1.{number}"))
            })
        };
        seen.until("the pod on its new node", is_there)?;
        // Whatever the other watch still sends does not remove it.
        apply(&server, &[&namespace(&format!("after-{number}"))])?;
        seen.until_change(&format!("+Namespace after-{number}"))?;
        ensure!(is_there(&seen), "{:?}", seen.batches);
    }
    Ok(())
}
