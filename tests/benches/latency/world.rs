//! Three nodes with agents, the pods of all measurements, and the calls that change the world.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use portcullis_lab::{Endpoint, Family, Lab, PodSpec};
use portcullis_tests::kube::{ApiServer, Options};
use portcullis_tests::stream::Path;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const NODES: usize = 3;
const NAMESPACE: &str = "bench";
/// Roles of pods, one of each on each node. The API server is told of the last two, and forgets
/// them, again and again.
const ROLES: [&str; 6] = ["open", "isolated", "peered", "client", "peer", "fresh"];
const TOLD_LATER: usize = 2;
/// Calls of the API server at once, when many are made.
const AT_ONCE: usize = 16;
/// Where servers listen.
const PORT: u16 = 7000;

/// What receives.
pub(crate) struct Server {
    name: String,
    key: String,
    address: IpAddr,
    /// Where it listens.
    pub(crate) port: u16,
}

/// The world of all measurements.
pub(crate) struct World {
    runtime: Runtime,
    client: Client,
    agents: Vec<Child>,
    _files: TempDir,
    _api: ApiServer,
    /// The network.
    pub(crate) lab: Lab,
}

impl World {
    /// Starts all of it.
    pub(crate) fn start() -> Result<Self> {
        let pods = (0..NODES).flat_map(|node| {
            ROLES.map(|role| PodSpec::new(NAMESPACE, name(role, node), format!("n{}", node + 1)))
        });
        let lab = Lab::builder().pods(pods).build()?;
        let api = ApiServer::start(Options::beside(&lab)?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let client = runtime.block_on(api.client())?;
        let files = tempfile::tempdir()?;
        api.kubectl(&["apply", "-f", "-"], Some(&objects(&lab)?))?;
        let kubeconfig = api.kubeconfig_for_service_account(NAMESPACE, "agent")?;
        let mut agents = Vec::new();
        for node in lab.nodes() {
            let mut command = Command::new(binary()?);
            command.args(["node", "--node-name", node.name(), "--kubeconfig"]).arg(&kubeconfig);
            command.arg("--lock-dir").arg(files.path()).stdin(Stdio::null());
            let log = std::fs::File::create(files.path().join(format!("{}.log", node.name())))?;
            agents.push(node.netns().spawn(command.stderr(log))?);
        }
        let world = Self { runtime, client, agents, _files: files, _api: api, lab };
        for round in 0..NODES {
            for role in &ROLES[..ROLES.len() - TOLD_LATER] {
                world.publish(&name(role, round))?;
            }
            world.create(&isolate(&world.server("isolated", round)))?;
            let peered = world.server("peered", round);
            world.create(&allow(&peered, "app", "peer", PORT))?;
            world.create(&isolate(&world.server("fresh", round)))?;
        }
        Ok(world)
    }

    /// From a client on another node to `server`.
    pub(crate) fn path(&self, server: &Server, role: &str, round: usize) -> Result<Path<'_>> {
        let client = name(role, round + usize::from(role == "client"));
        let netns = |pod: &str| self.lab.netns(&Endpoint::pod(pod));
        Ok(Path {
            client: netns(&format!("{NAMESPACE}/{client}"))?,
            server: netns(&server.key)?,
            address: server.address,
            port: server.port,
        })
    }

    /// The server of a round.
    pub(crate) fn server(&self, role: &str, round: usize) -> Server {
        let name = name(role, round);
        let key = format!("{NAMESPACE}/{name}");
        let pod = self.lab.pod(&key).and_then(|pod| pod.address(Family::V4));
        Server { address: pod.expect("the lab has all pods"), name, key, port: PORT }
    }

    /// Creates a policy; gives when the API server had answered.
    pub(crate) fn create(&self, policy: &NetworkPolicy) -> Result<Instant> {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), NAMESPACE);
        self.runtime.block_on(api.create(&PostParams::default(), policy))?;
        Ok(Instant::now())
    }

    /// Creates many policies that select `server`, the last of which allows the clients.
    pub(crate) fn create_many(&self, server: &Server, count: usize) -> Result<Instant> {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), NAMESPACE);
        let create = |number: usize| {
            let (api, port) = (api.clone(), 8000 + u16::try_from(number).unwrap_or_default());
            let policy = allow(server, "app", "peer", port);
            async move { api.create(&PostParams::default(), &policy).await.map(drop) }
        };
        self.runtime.block_on(async {
            let many = stream::iter((1..count).map(create));
            many.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
            let last = allow(server, "app", "client", server.port);
            api.create(&PostParams::default(), &last).await
        })?;
        Ok(Instant::now())
    }

    /// Deletes a policy.
    pub(crate) fn delete(&self, policy: &NetworkPolicy) -> Result<()> {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), NAMESPACE);
        self.runtime.block_on(api.delete(&policy.name_any(), &DeleteParams::default()))?;
        Ok(())
    }

    /// Creates a Pod without an address; gives its name.
    pub(crate) fn announce(&self, role: &str, round: usize) -> Result<String> {
        let name = name(role, round);
        let pod: Pod = serde_json::from_value(pod(role, round % NODES))?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        self.runtime.block_on(api.create(&PostParams::default(), &pod))?;
        Ok(name)
    }

    /// Gives a Pod its addresses, as a kubelet does; gives when the API server had answered.
    pub(crate) fn publish(&self, name: &str) -> Result<Instant> {
        let addresses = self.lab.pod(&format!("{NAMESPACE}/{name}"))?.addresses();
        let all: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let status =
            json!({ "status": { "phase": "Running", "podIP": addresses.first(), "podIPs": all } });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = Patch::Merge(&status);
        self.runtime.block_on(api.patch_status(name, &PatchParams::default(), &patch))?;
        Ok(Instant::now())
    }

    /// Deletes a Pod at once.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let at_once = DeleteParams::default().grace_period(0);
        self.runtime.block_on(api.delete(name, &at_once))?;
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// A policy that denies all ingress of a server.
pub(crate) fn isolate(server: &Server) -> NetworkPolicy {
    policy(&format!("isolate-{}", server.name), &server.name, &json!([]))
}

/// A policy that allows pods with a label on one port.
pub(crate) fn allow(server: &Server, key: &str, value: &str, port: u16) -> NetworkPolicy {
    let rule = json!([{
        "from": [{ "podSelector": { "matchLabels": { key: value } } }],
        "ports": [{ "protocol": "UDP", "port": port }],
    }]);
    policy(&format!("allow-{}-{port}", server.name), &server.name, &rule)
}

fn name(role: &str, round: usize) -> String {
    format!("{role}-{}", round % NODES)
}

fn pod(role: &str, node: usize) -> Value {
    let name = name(role, node);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": { "app": role, "pod": name },
        },
        "spec": {
            "nodeName": format!("n{}", node + 1),
            "containers": [{ "name": "main", "image": "none" }],
        },
    })
}

fn policy(name: &str, pod: &str, ingress: &Value) -> NetworkPolicy {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "podSelector": { "matchLabels": { "pod": pod } },
            "policyTypes": ["Ingress"], "ingress": ingress,
        },
    });
    serde_json::from_value(policy).expect("a policy is a policy")
}

/// What is there from the beginning, for kubectl.
fn objects(lab: &Lab) -> Result<String> {
    let mut items = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "agent", "namespace": NAMESPACE },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "agent" },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": "agent", "namespace": NAMESPACE }],
        }),
    ];
    for (number, node) in lab.nodes().enumerate() {
        items.push(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
        }));
        items.extend(ROLES[..ROLES.len() - TOLD_LATER].iter().map(|role| pod(role, number)));
    }
    Ok(serde_json::to_string(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?)
}

/// The agent as it is released.
fn binary() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let target =
        own.parent().and_then(std::path::Path::parent).context("a benchmark has a place")?;
    let binary = target.join("portcullis");
    ensure!(binary.is_file(), "cargo build --release -p portcullis-controller comes first");
    Ok(binary)
}
