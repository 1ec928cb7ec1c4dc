//! What needs a real kubelet: probes, the node and its pods, containers of every kind.

use anyhow::{Context as _, Result};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{expect_closed, expect_open};

use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// Kubelets ask from the pod's own node, which always reaches its pods.
pub(crate) fn kubelet_probes_pass_under_default_deny(cluster: &Cluster) -> Result<()> {
    let namespace = "probes";
    create_namespace(cluster, namespace)?;
    apply(cluster, &default_deny(namespace))?;
    let pods = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probed, namespace: probes}
spec:
  selector: {matchLabels: {app: probed}}
  template:
    metadata: {labels: {app: probed}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: server
          image: IMAGE
          args: [netexec, --http-port=8080]
          startupProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1, failureThreshold: 1}
";
    apply(cluster, &format!("{pods}{}", server(namespace, "other", "other", "n1")))?;
    cluster
        .kubectl(&["-n", namespace, "rollout", "status", "ds/probed", "--timeout=60s"])
        .context("pods with probes are not ready under a default deny")?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let other = cluster.pod_netns(namespace, "other")?;
    let probed = cluster.get(&["pods", "-n", namespace, "-l", "app=probed"])?;
    for pod in probed["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let addresses = cluster.pod_addresses(namespace, name)?;
        expect_closed("other pod to pod with probes", &other, &addresses, 8080)?;
    }
    delete_namespace(cluster, namespace)
}

/// A node reaches its own pods whatever policy says, and is reached by them by policy; other nodes
/// are plain addresses.
pub(crate) fn nodes_reach_their_own_pods(cluster: &Cluster) -> Result<()> {
    let namespace = "own-node";
    create_namespace(cluster, namespace)?;
    let on_node = "
apiVersion: v1
kind: Pod
metadata: {name: on-node, namespace: own-node}
spec:
  nodeName: n1
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
    - {name: server, image: IMAGE, args: [netexec, --http-port=18080, --udp-port=-1]}
";
    apply(cluster, &format!("{on_node}{}", server(namespace, "a", "a", "n1")))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let (pod, addresses) =
        (cluster.pod_netns(namespace, "a")?, cluster.pod_addresses(namespace, "a")?);
    let own = cluster.lab.node("n1")?;
    let other = cluster.lab.node("n2")?;
    expect_open("pod to its node", &pod, own.addresses(), 18080)?;
    expect_open("other node to pod", other.netns(), &addresses, 8080)?;
    apply(cluster, &default_deny(namespace))?;
    expect_closed("isolated pod to its node", &pod, own.addresses(), 18080)?;
    expect_closed("other node to isolated pod", other.netns(), &addresses, 8080)?;
    expect_open("own node to isolated pod", own.netns(), &addresses, 8080)?;
    delete_namespace(cluster, namespace)
}

/// NetworkPolicies do not apply to pods with the network of their node, and no selector matches
/// them.
pub(crate) fn host_network_pods_are_their_node(cluster: &Cluster) -> Result<()> {
    let namespace = "host-network";
    create_namespace(cluster, namespace)?;
    let on_node = "
apiVersion: v1
kind: Pod
metadata: {name: on-node, namespace: host-network, labels: {app: on-node}}
spec:
  nodeName: n2
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
    - {name: server, image: IMAGE, args: [netexec, --http-port=18081, --udp-port=-1]}
";
    let policies = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: on-node, namespace: host-network}
spec: {podSelector: {matchLabels: {app: on-node}}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-on-node, namespace: host-network}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: on-node}}}]}]
";
    let servers =
        [server(namespace, "server", "server", "n1"), server(namespace, "client", "client", "n1")];
    apply(cluster, &format!("{on_node}{policies}{}", servers.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let node = cluster.lab.node("n2")?;
    let server = cluster.pod_addresses(namespace, "server")?;
    expect_closed("client to server", &client, &server, 8080)?;
    expect_closed("hostNetwork pod that a selector names, to server", node.netns(), &server, 8080)?;
    expect_open(
        "client to hostNetwork pod that a policy selects",
        &client,
        node.addresses(),
        18081,
    )?;
    delete_namespace(cluster, namespace)
}

/// One name, two numbers: a policy with a named port opens each pod's own.
pub(crate) fn named_ports_are_those_of_each_pod(cluster: &Cluster) -> Result<()> {
    let namespace = "named-ports";
    create_namespace(cluster, namespace)?;
    let pod = |name: &str, port: u16| {
        let text = server(namespace, name, "server", "n1");
        text.replace("--http-port=8080]", "--http-port=8080, --udp-port=-1]")
            .replace("containerPort: 8080", &format!("containerPort: {port}"))
            .replace("8080", &port.to_string())
    };
    let policies = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: by-name, namespace: named-ports}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: egress-by-name, namespace: named-ports}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: http}]}]
";
    let pods = [pod("a", 8080), pod("b", 9090), server(namespace, "client", "client", "n2")];
    let other = server(namespace, "other", "other", "n2");
    apply(cluster, &format!("{policies}{}{other}", pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let other = cluster.pod_netns(namespace, "other")?;
    for (name, port) in [("a", 8080), ("b", 9090)] {
        let addresses = cluster.pod_addresses(namespace, name)?;
        expect_open(&format!("client to {name} by named port"), &client, &addresses, port)?;
        expect_closed(&format!("other to {name}"), &other, &addresses, port)?;
    }
    // The number that the name has elsewhere.
    let a = cluster.pod_addresses(namespace, "a")?;
    expect_closed("client to a by b's number", &client, &a, 9090)?;
    delete_namespace(cluster, namespace)
}

/// A sidecar is an init container that stays: its named port counts. A plain init container
/// connects under policy before the pod's main container starts.
pub(crate) fn init_and_sidecar_containers(cluster: &Cluster) -> Result<()> {
    let namespace = "sidecars";
    create_namespace(cluster, namespace)?;
    let world = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: sidecar, namespace: sidecars}
spec:
  podSelector: {matchLabels: {app: pod}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: side}, {port: early}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: sidecars}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: sidecars, labels: {app: pod}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 0
  enableServiceLinks: true
  initContainers:
    - name: early
      image: IMAGE
      args: [connect, '[$(SERVER_SERVICE_HOST)]:80', --timeout=10s]
      ports: [{name: early, containerPort: 8080}]
    - name: side
      image: IMAGE
      restartPolicy: Always
      args: [netexec, --http-port=8081, --udp-port=-1]
      ports: [{name: side, containerPort: 8081}]
  containers:
    - name: main
      image: IMAGE
      args: [netexec, --http-port=8080, --udp-port=-1]
";
    apply(cluster, &server(namespace, "server", "server", "n2"))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    apply(cluster, world)?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "server")?;
    let pod = cluster.pod_addresses(namespace, "pod")?;
    expect_open("named port of a sidecar", &client, &pod, 8081)?;
    expect_closed("named port of an init container", &client, &pod, 8080)?;
    delete_namespace(cluster, namespace)
}
