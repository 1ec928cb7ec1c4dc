//! What operators do, while clients go on: allowed requests are answered, denied ones never are.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{Probe, expect_closed, expect_open};
use serde_json::Value;

use crate::world::{
    apply, create_namespace, default_deny, delete_namespace, deploy,
    install_cluster_network_policies, next_image, server,
};

pub(crate) const SYSTEM: &str = "portcullis-system";
/// How often a probe asks.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long an agent, a controller or a node may take to do its work again.
const RECOVERS_WITHIN: Duration = Duration::from_secs(90);

/// A server on n2, a client that a policy allows and one that it denies, both on n1, and requests
/// of both that go on.
pub(crate) struct Traffic {
    namespace: &'static str,
    probes: Vec<Probe>,
    denied: Vec<Probe>,
}

impl Traffic {
    pub(crate) fn start(cluster: &Cluster, namespace: &'static str) -> Result<Self> {
        create_namespace(cluster, namespace)?;
        let pods = [
            server(namespace, "server", "server", "n2"),
            server(namespace, "client", "client", "n1"),
            server(namespace, "other", "other", "n1"),
        ];
        let policies = format!(
            "{}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: server, namespace: {namespace}}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  ingress: [{{from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: clients, namespace: {namespace}}}
spec:
  podSelector: {{matchExpressions: [{{key: app, operator: In, values: [client, other]}}]}}
  policyTypes: [Egress]
  egress: [{{to: [{{podSelector: {{}}}}]}}]
",
            default_deny(namespace)
        );
        apply(cluster, &format!("{policies}{}", pods.concat()))?;
        cluster.wait_until_pods_are_ready(namespace)?;
        let client = cluster.pod_netns(namespace, "client")?;
        let other = cluster.pod_netns(namespace, "other")?;
        let addresses = cluster.pod_addresses(namespace, "server")?;
        expect_open("client", &client, &addresses, 8080)?;
        expect_closed("other", &other, &addresses, 8080)?;
        let mut traffic = Self { namespace, probes: Vec::new(), denied: Vec::new() };
        for address in addresses {
            let to = SocketAddr::new(address, 8080);
            let (client, other) = (client.try_clone()?, other.try_clone()?);
            traffic.probes.push(Probe::start(&format!("client to {to}"), client, to, INTERVAL)?);
            traffic.denied.push(Probe::start(&format!("other to {to}"), other, to, INTERVAL)?);
        }
        Ok(traffic)
    }

    /// Every allowed request was answered, and no denied one.
    pub(crate) fn stop(self, cluster: &Cluster, during: &str) -> Result<()> {
        let (mut allowed, mut denied) = (0, 0);
        for probe in self.probes {
            allowed += probe.stop_all_answered().with_context(|| during.to_owned())?;
        }
        for probe in self.denied {
            denied += probe.stop_none_answered().with_context(|| during.to_owned())?;
        }
        eprintln!("  {during}: {allowed} allowed requests answered, {denied} denied ones dropped");
        delete_namespace(cluster, self.namespace)
    }
}

/// A Deployment under policy is rolled out behind its Service, as one does it without downtime:
/// with readiness probes, and with pods that serve for a while after they began to end.
pub(crate) fn rollout_loses_no_request(cluster: &mut Cluster) -> Result<()> {
    let namespace = "rollout";
    create_namespace(cluster, namespace)?;
    let world = "
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: rollout}
spec:
  replicas: 3
  selector: {matchLabels: {app: server}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: server
          image: IMAGE
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 4}}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: rollout}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: rollout}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]
";
    let client = server(namespace, "client", "client", "n1");
    apply(cluster, &format!("{world}{client}"))?;
    let status = ["-n", namespace, "rollout", "status", "deployment/server", "--timeout=90s"];
    cluster.kubectl(&status)?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let addresses = cluster.service_addresses(namespace, "server")?;
    expect_open("client to Service", &client, &addresses, 80)?;
    let probes = addresses.iter().map(|address| {
        let to = SocketAddr::new(*address, 80);
        Probe::start(&format!("client to {to}"), client.try_clone()?, to, INTERVAL)
    });
    let probes = probes.collect::<Result<Vec<Probe>>>()?;
    cluster.kubectl(&["-n", namespace, "rollout", "restart", "deployment/server"])?;
    cluster.kubectl(&status)?;
    for probe in probes {
        let requests = probe.stop_all_answered().context("during the rollout")?;
        eprintln!("  {requests} requests answered during the rollout");
    }
    delete_namespace(cluster, namespace)
}

/// Agents are replaced by those of another image, then restarted.
pub(crate) fn agents_are_updated_under_traffic(cluster: &mut Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "update")?;
    let image = format!("*={}", next_image(cluster));
    for workload in ["daemonset/portcullis-node", "deployment/portcullis-controller"] {
        cluster.kubectl(&["-n", SYSTEM, "set", "image", workload, &image])?;
        cluster.wait_for_rollout(workload)?;
    }
    cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "daemonset/portcullis-node"])?;
    cluster.wait_for_rollout("daemonset/portcullis-node")?;
    traffic.stop(cluster, "while agents are updated")
}

/// CRDs are replaced by those of another channel, and ours applied again, while a policy of the
/// cluster denies: it does so all the time.
pub(crate) fn crds_are_upgraded_under_traffic(cluster: &mut Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "crds")?;
    let deny = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: crds}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: crds}}, podSelector: {matchLabels: {app: server}}}}
  ingress:
    - action: Deny
      from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: denied}}}}]
";
    // NetworkPolicy alone would let it connect.
    let denied = server("crds", "denied", "client", "n1")
        .replace("labels: {app: client}", "labels: {app: client, role: denied}");
    apply(cluster, &format!("{deny}{denied}"))?;
    cluster.wait_until_pods_are_ready("crds")?;
    let denied = cluster.pod_netns("crds", "denied")?;
    let addresses = cluster.pod_addresses("crds", "server")?;
    expect_closed("denied by the cluster's policy", &denied, &addresses, 8080)?;
    let probe = SocketAddr::new(addresses[0], 8080);
    let probe = Probe::start("denied by the cluster's policy", denied, probe, INTERVAL)?;
    for channel in ["standard", "experimental"] {
        install_cluster_network_policies(cluster, channel)?;
        let crds = deploy().join("crds").display().to_string();
        cluster.kubectl(&["apply", "-k", &crds])?;
        thread::sleep(Duration::from_secs(3));
    }
    probe.stop_none_answered()?;
    cluster.kubectl(&["delete", "clusternetworkpolicy", "crds"])?;
    traffic.stop(cluster, "while CRDs are replaced")
}

/// A namespace goes with its policies and pods, and the others never notice.
pub(crate) fn a_namespace_is_deleted(cluster: &mut Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "stays")?;
    let namespace = "goes";
    create_namespace(cluster, namespace)?;
    let pods = [server(namespace, "a", "a", "n1"), server(namespace, "b", "b", "n2")];
    apply(cluster, &format!("{}{}", default_deny(namespace), pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "a")?;
    let addresses = cluster.pod_addresses(namespace, "b")?;
    expect_closed("in the namespace", &client, &addresses, 8080)?;
    cluster.kubectl(&["delete", "namespace", namespace, "--timeout=90s"])?;
    let gone = |report: &Value| !report.to_string().contains("goes/default-deny");
    until(cluster, "reports without the policies of the namespace", |cluster| {
        let reports = cluster.get(&["nodepolicyreports"])?;
        Ok(reports["items"].as_array().is_some_and(|reports| reports.iter().all(gone)))
    })?;
    traffic.stop(cluster, "while a namespace is deleted")
}

/// The leader of the controllers is killed; another one leads.
pub(crate) fn controller_failover(cluster: &mut Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "failover")?;
    let leader = leader(cluster)?;
    let pod = leader.split(['_', '/']).next().unwrap_or_default().to_owned();
    let delete = ["-n", SYSTEM, "delete", "pod", &pod, "--grace-period=0", "--force"];
    cluster.kubectl(&delete).with_context(|| format!("the leader is {leader}"))?;
    until(cluster, "another leader", |cluster| {
        Ok(self::leader(cluster).is_ok_and(|new| !new.is_empty() && new != leader))
    })?;
    cluster.wait_for_rollout("deployment/portcullis-controller")?;
    traffic.stop(cluster, "while controllers change")
}

fn leader(cluster: &Cluster) -> Result<String> {
    let leases = cluster.get(&["leases", "-n", SYSTEM])?;
    let holder = leases["items"][0]["spec"]["holderIdentity"].as_str();
    holder.map(ToOwned::to_owned).context("nobody holds the lease")
}

/// An agent is killed, without time to end, on each node at once.
pub(crate) fn an_agent_restart_opens_nothing(cluster: &mut Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "restart")?;
    let before = restarts(cluster)?;
    for node in cluster.nodes() {
        node.shell("pkill -9 -f '[p]ortcullis node'")?;
    }
    until(cluster, "new containers of agents", |cluster| {
        Ok(restarts(cluster)? >= before + cluster.nodes().len())
    })?;
    cluster.wait_for_rollout("daemonset/portcullis-node")?;
    traffic.stop(cluster, "while agents restart")
}

/// How often containers of agents that are ready were started again, all together; those that are
/// not ready do not count.
fn restarts(cluster: &Cluster) -> Result<usize> {
    let agents = "app.kubernetes.io/component=node";
    let pods = cluster.get(&["pods", "-n", SYSTEM, "-l", agents])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let containers = pods.map(|pod| &pod["status"]["containerStatuses"][0]);
    let ready = containers.filter(|container| container["ready"] == true);
    let counts = ready.filter_map(|container| container["restartCount"].as_u64());
    Ok(usize::try_from(counts.sum::<u64>())?)
}

/// As docs/install.md says: agents first, then the rest, then what is left in kernels.
pub(crate) fn uninstall_leaves_nodes_clean(cluster: &mut Cluster) -> Result<()> {
    let namespace = "uninstall";
    create_namespace(cluster, namespace)?;
    let pods = [server(namespace, "a", "a", "n1"), server(namespace, "b", "b", "n2")];
    apply(cluster, &format!("{}{}", default_deny(namespace), pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "a")?;
    let addresses = cluster.pod_addresses(namespace, "b")?;
    expect_closed("isolated", &client, &addresses, 8080)?;
    remove(cluster)?;
    expect_closed("after the agents are gone", &client, &addresses, 8080)?;
    clean(cluster)?;
    expect_open("after the clean-up", &client, &addresses, 8080)?;
    delete_namespace(cluster, namespace)
}

/// Removes Portcullis from the cluster, and what it made from the nodes.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    remove(cluster)?;
    clean(cluster)
}

/// Removes the objects. The rules stay in the kernels of the nodes.
fn remove(cluster: &Cluster) -> Result<()> {
    let deploy = deploy().display().to_string();
    let agents = ["-n", SYSTEM, "delete", "daemonset", "portcullis-node", "--cascade=foreground"];
    cluster.kubectl(&agents)?;
    let rest = ["delete", "-k", &deploy, "--ignore-not-found", "--timeout=60s"];
    cluster.kubectl(&rest).map(drop)
}

/// Removes what is left in the kernels of the nodes.
fn clean(cluster: &Cluster) -> Result<()> {
    let cleanup = deploy().join("cleanup").display().to_string();
    cluster.kubectl(&["apply", "-k", &cleanup])?;
    let status = [
        "-n",
        "portcullis-cleanup",
        "rollout",
        "status",
        "daemonset/portcullis-cleanup",
        "--timeout=60s",
    ];
    cluster.kubectl(&status)?;
    cluster.kubectl(&["delete", "-k", &cleanup, "--timeout=60s"])?;
    for node in cluster.nodes() {
        let left = node.netns().shell(
            "for save in iptables-nft-save iptables-legacy-save ip6tables-nft-save ip6tables-legacy-save; do
                 $save 2>/dev/null | grep PORTCULLIS || true
             done
             ipset list -n | grep PORTCULLIS || true
             nft list tables | grep portcullis || true",
        )?;
        ensure!(left.is_empty(), "{} still has: {left}", node.name());
    }
    Ok(())
}

/// Waits for a condition of the cluster.
pub(crate) fn until(
    cluster: &Cluster,
    what: &str,
    holds: impl Fn(&Cluster) -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + RECOVERS_WITHIN;
    while !holds(cluster)? {
        ensure!(Instant::now() < deadline, "no {what} after {RECOVERS_WITHIN:?}");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
