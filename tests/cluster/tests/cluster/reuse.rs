//! Addresses that go from one pod to another: what applied to the old one does not apply to the
//! new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{expect_closed, expect_open};

use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// An isolated pod, then an open one, then an isolated one again, all with the same address.
pub(crate) fn address_of_a_deleted_pod(cluster: &Cluster) -> Result<()> {
    let namespace = "reuse-deleted";
    create_namespace(cluster, namespace)?;
    apply(cluster, &isolate(namespace, "isolated"))?;
    apply(cluster, &server(namespace, "client", "client", "n1"))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let mut addresses = None;
    for (name, app, open) in
        [("first", "isolated", false), ("second", "open", true), ("third", "isolated", false)]
    {
        let new = start(cluster, namespace, &server(namespace, name, app, "n2"), name)?;
        expect(open, name, &client, &new)?;
        ensure!(addresses.is_none_or(|old| old == new), "{name} has another address");
        cluster.kubectl(&["delete", "pod", name, "-n", namespace])?;
        give_next(cluster, &new)?;
        addresses = Some(new);
    }
    delete_namespace(cluster, namespace)
}

/// A finished Job's pod still lists the address, which is another pod's by then.
pub(crate) fn address_of_a_finished_job(cluster: &Cluster) -> Result<()> {
    let namespace = "reuse-job";
    create_namespace(cluster, namespace)?;
    let job = "
apiVersion: batch/v1
kind: Job
metadata: {name: job, namespace: reuse-job}
spec:
  template:
    metadata: {labels: {app: isolated}}
    spec:
      nodeName: n2
      restartPolicy: Never
      containers: [{name: job, image: IMAGE, args: [help]}]
";
    apply(cluster, &isolate(namespace, "isolated"))?;
    apply(cluster, &server(namespace, "client", "client", "n1"))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    apply(cluster, job)?;
    let complete =
        ["wait", "-n", namespace, "job/job", "--for=condition=Complete", "--timeout=60s"];
    cluster.kubectl(&complete)?;
    let pods = cluster.get(&["pods", "-n", namespace, "-l", "job-name=job"])?;
    let name = pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let finished = cluster.pod_addresses(namespace, &name)?;
    give_next(cluster, &finished)?;
    let new = start(cluster, namespace, &server(namespace, "open", "open", "n2"), "open")?;
    ensure!(new == finished, "{new:?} is not the address of the finished pod, {finished:?}");
    expect(true, "pod with the address of a finished pod", &client, &new)?;
    delete_namespace(cluster, namespace)
}

/// A StatefulSet's pod comes back under its name, here also with its address: what is allowed stays
/// allowed, what is denied stays denied.
pub(crate) fn stateful_set(cluster: &Cluster) -> Result<()> {
    let namespace = "reuse-set";
    create_namespace(cluster, namespace)?;
    let set = "
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: reuse-set}
spec:
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeName: n2
      terminationGracePeriodSeconds: 1
      containers:
        - {name: server, image: IMAGE, args: [netexec, --http-port=8080]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: reuse-set}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";
    let pods =
        [server(namespace, "client", "client", "n1"), server(namespace, "other", "other", "n1")];
    apply(cluster, &format!("{set}{}", pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let other = cluster.pod_netns(namespace, "other")?;
    for _ in 0..3 {
        let addresses = addresses(cluster, namespace, "web-0")?;
        expect_open("client to web-0", &client, &addresses, 8080)?;
        expect_closed("other to web-0", &other, &addresses, 8080)?;
        give_next(cluster, &addresses)?;
        cluster.kubectl(&["delete", "pod", "web-0", "-n", namespace])?;
        let again = ["wait", "-n", namespace, "pod/web-0", "--for=create", "--timeout=30s"];
        cluster.kubectl(&again)?;
        cluster.wait_until_pods_are_ready(namespace)?;
        let new = cluster.pod_addresses(namespace, "web-0")?;
        ensure!(new == addresses, "web-0 came back with {new:?}, not {addresses:?}");
    }
    delete_namespace(cluster, namespace)
}

/// Starts a pod on n2; its addresses.
fn start(cluster: &Cluster, namespace: &str, pod: &str, name: &str) -> Result<Vec<IpAddr>> {
    apply(cluster, pod)?;
    cluster.wait_until_pods_are_ready(namespace)?;
    addresses(cluster, namespace, name)
}

/// The addresses of a new pod on n2, whose node may still have the MAC address of an old one: the
/// bridge plugin of Debian 12 does not announce new ones, and the node would notice in 40 s.
fn addresses(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
    let addresses = cluster.pod_addresses(namespace, name)?;
    for address in &addresses {
        cluster.node("n2")?.shell(&format!("ip neigh flush to {address}"))?;
    }
    Ok(addresses)
}

/// Has n2 give these addresses to its next pod: host-local starts after the address that it gave
/// last, of each range.
fn give_next(cluster: &Cluster, addresses: &[IpAddr]) -> Result<()> {
    for (range, address) in addresses.iter().enumerate() {
        let before = match address {
            IpAddr::V4(ip) => IpAddr::from(Ipv4Addr::from_bits(ip.to_bits() - 1)),
            IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() - 1)),
        };
        let file = format!("/var/lib/cni/networks/pods/last_reserved_ip.{range}");
        cluster.node("n2")?.shell(&format!("printf %s {before} > {file}"))?;
    }
    Ok(())
}

fn expect(
    open: bool,
    what: &str,
    client: &portcullis_lab::Namespace,
    addresses: &[IpAddr],
) -> Result<()> {
    let expect = if open { expect_open } else { expect_closed };
    expect(what, client, addresses, 8080)
}

/// A policy that isolates pods with this label alone.
fn isolate(namespace: &str, app: &str) -> String {
    default_deny(namespace)
        .replace("podSelector: {}", &format!("podSelector: {{matchLabels: {{app: {app}}}}}"))
}
