//! Services of every type, by a real kube-proxy: policies see the pods behind them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{expect_closed, expect_open, of_family};
use portcullis_lab::{Endpoint, Family};

use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// A rule about the pod's port allows the Service's other port; the Service's port allows nothing.
pub(crate) fn cluster_ip(cluster: &Cluster) -> Result<()> {
    let namespace = "cluster-ip";
    create_namespace(cluster, namespace)?;
    let world = "
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: cluster-ip}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: cluster-ip}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
    - {from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}
    - {from: [{podSelector: {matchLabels: {app: other}}}], ports: [{port: 80}]}
";
    let pods = [
        server(namespace, "server", "server", "n1"),
        server(namespace, "client", "client", "n2"),
        server(namespace, "other", "other", "n1"),
    ];
    apply(cluster, &format!("{world}{}", pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let service = cluster.service_addresses(namespace, "server")?;
    let client = cluster.pod_netns(namespace, "client")?;
    expect_open("client to Service", &client, &service, 80)?;
    let other = cluster.pod_netns(namespace, "other")?;
    expect_closed("other to Service", &other, &service, 80)?;
    delete_namespace(cluster, namespace)
}

/// The node masquerades the pod's own packets to itself; no policy applies to them.
pub(crate) fn hairpin(cluster: &Cluster) -> Result<()> {
    let namespace = "hairpin";
    create_namespace(cluster, namespace)?;
    let service = "
---
apiVersion: v1
kind: Service
metadata: {name: self, namespace: hairpin}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: self}
  ports: [{port: 80, targetPort: 8080}]
";
    let pods = [server(namespace, "self", "self", "n1"), server(namespace, "other", "other", "n1")];
    apply(cluster, &format!("{service}{}{}", default_deny(namespace), pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let addresses = cluster.service_addresses(namespace, "self")?;
    let own = cluster.pod_netns(namespace, "self")?;
    expect_open("a pod to itself through its Service", &own, &addresses, 80)?;
    let other = cluster.pod_netns(namespace, "other")?;
    expect_closed("another pod to the Service", &other, &addresses, 80)?;
    delete_namespace(cluster, namespace)
}

/// A port of the node that leads to the pod: the policy sees the client's own address.
pub(crate) fn host_port(cluster: &Cluster) -> Result<()> {
    let namespace = "host-port";
    create_namespace(cluster, namespace)?;
    let pod = server(namespace, "server", "server", "n1")
        .replace("containerPort: 8080", "containerPort: 8080, hostPort: 18082");
    apply(cluster, &format!("{pod}{}", default_deny(namespace)))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let outside = cluster.lab.netns(&Endpoint::Internet)?;
    let node = cluster.lab.node("n1")?.addresses();
    expect_closed("outside to hostPort", outside, node, 18082)?;
    apply(cluster, &from_outside(cluster, namespace))?;
    expect_open("allowed outside to hostPort", outside, node, 18082)?;
    delete_namespace(cluster, namespace)
}

/// With externalTrafficPolicy Local, and on the pod's own node, the pod sees the client; from
/// another node it sees that node.
pub(crate) fn node_port(cluster: &Cluster) -> Result<()> {
    let namespace = "node-port";
    create_namespace(cluster, namespace)?;
    let service = |name: &str, policy: &str| {
        format!(
            "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  type: NodePort
  externalTrafficPolicy: {policy}
  ipFamilyPolicy: PreferDualStack
  selector: {{app: server}}
  ports: [{{port: 80, targetPort: 8080}}]
"
        )
    };
    let world = [
        service("local", "Local"),
        service("cluster", "Cluster"),
        server(namespace, "server", "server", "n1"),
        from_outside(cluster, namespace),
    ];
    apply(cluster, &world.concat())?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let port = |name: &str| {
        let service = cluster.get(&["service", name, "-n", namespace])?;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64();
        Ok::<_, anyhow::Error>(u16::try_from(port.context("a Service has a node port")?)?)
    };
    let outside = cluster.lab.netns(&Endpoint::Internet)?;
    let (own, other) = (cluster.lab.node("n1")?.addresses(), cluster.lab.node("n2")?.addresses());
    expect_open("Local on the pod's node", outside, own, port("local")?)?;
    expect_open("Cluster on the pod's node", outside, own, port("cluster")?)?;
    expect_closed("Cluster on another node", outside, other, port("cluster")?)?;
    // By masquerading: with vxlan it is the address of flannel's interface, not the node's own.
    let addresses = cluster.node("n2")?.shell("hostname --all-ip-addresses")?;
    let addresses: Vec<IpAddr> =
        addresses.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    apply(cluster, &from_blocks(namespace, "from-nodes", &blocks(&addresses)))?;
    expect_open("Cluster on another node that is allowed", outside, other, port("cluster")?)?;
    delete_namespace(cluster, namespace)
}

/// A policy that lets every pod be reached from the host outside of the cluster.
fn from_outside(cluster: &Cluster, namespace: &str) -> String {
    let families = cluster.lab.families();
    let outside: Vec<IpAddr> =
        families.each().iter().map(|family| portcullis_lab::internet(*family)).collect();
    from_blocks(namespace, "from-outside", &blocks(&outside))
}

fn blocks(addresses: &[IpAddr]) -> Vec<String> {
    let v4 = of_family(addresses, Family::V4).into_iter().map(|ip| format!("{ip}/32"));
    let v6 = of_family(addresses, Family::V6).into_iter().map(|ip| format!("{ip}/128"));
    v4.chain(v6).collect()
}

fn from_blocks(namespace: &str, name: &str, blocks: &[String]) -> String {
    let from: Vec<String> =
        blocks.iter().map(|block| format!("{{ipBlock: {{cidr: \"{block}\"}}}}")).collect();
    format!(
        "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{podSelector: {{}}, ingress: [{{from: [{}]}}]}}
",
        from.join(", ")
    )
}
