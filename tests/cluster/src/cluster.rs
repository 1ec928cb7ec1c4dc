//! A running cluster: [`Cluster`].

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use portcullis_lab::{Lab, Node as LabNode, Topology, Underlay};
use portcullis_tests::kube::{ApiServer, Options as ApiServerOptions};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::node::Node;
use crate::options::Options;
use crate::state::{self, State};

/// How long nodes may take until they are ready: far longer than the 10 s on an idle machine.
const NODES_READY_WITHIN: Duration = Duration::from_mins(2);
/// How long a rollout may take.
const ROLLOUT_WITHIN: &str = "120s";

/// A cluster. Dropping it ends every process and removes every file, namespace and cgroup of it.
pub struct Cluster {
    // Dropped in this order.
    nodes: Vec<Node>,
    _control_plane: ControlPlane,
    server: ApiServer,
    /// The network between the nodes, and the host outside of the cluster.
    pub lab: Lab,
    options: Options,
    binaries: PathBuf,
    _state: State,
}

impl Cluster {
    /// Starts a cluster whose nodes have `images`, docker-archives, and waits until its nodes are
    /// ready. `binaries` is where [`binaries::kubernetes`](crate::binaries::kubernetes) says.
    ///
    /// # Errors
    /// When something does not start: with the end of its log. Nothing stays behind then.
    pub fn start(options: Options, binaries: &Path, images: &[PathBuf]) -> Result<Self> {
        state::sweep_stale()?;
        let lab = Lab::builder()
            .nodes(options.nodes)
            .topology(Topology::Routed)
            .underlay(options.underlay().unwrap_or(Underlay::HostGw))
            .families(options.lab_families())
            .iptables(options.lab_iptables())
            // The API server's replies to pods go this way.
            .direct_internet(true)
            .bare_nodes()
            .build()?;
        let state = State::create(lab.prefix())?;
        let server =
            ApiServer::start(ApiServerOptions::beside(&lab)?.whole_cluster().binaries(binaries))?;
        let control_plane = ControlPlane::start(&lab, &server, binaries, state.directory())?;
        let mut nodes = Vec::new();
        for node in lab.nodes() {
            prepare_network(node, &lab, &options)?;
            server.kubectl(&["create", "-f", "-"], Some(&node_object(node).to_string()))?;
            nodes.push(Node::create(&state, &options, node, &server, binaries, images)?);
        }
        let binaries = binaries.to_owned();
        let mut cluster = Self {
            nodes,
            _control_plane: control_plane,
            server,
            lab,
            options,
            binaries,
            _state: state,
        };
        cluster.nodes.iter_mut().try_for_each(Node::start)?;
        cluster.wait_until_nodes_are_ready()?;
        Ok(cluster)
    }

    /// Installs the product as docs/install.md says, with the image `portcullis:TAG`, which the
    /// nodes must have, and waits until its pods are ready.
    ///
    /// # Errors
    /// When the API server refuses it, or when it is not ready in time: with its pods and logs.
    pub fn install(&self, directory: &Path) -> Result<()> {
        self.kubectl(&["apply", "-k", &directory.display().to_string()])?;
        self.wait_for_rollout("daemonset/portcullis-node")?;
        self.wait_for_rollout("deployment/portcullis-controller")
    }

    /// Waits until a rollout in the product's namespace is complete.
    ///
    /// # Errors
    /// When it takes too long: with its pods and their logs.
    pub fn wait_for_rollout(&self, workload: &str) -> Result<()> {
        let timeout = format!("--timeout={ROLLOUT_WITHIN}");
        let status = ["-n", "portcullis-system", "rollout", "status", workload, &timeout];
        self.kubectl(&status).map(drop).with_context(|| {
            let pods = self.kubectl(&["-n", "portcullis-system", "get", "pods", "-o", "wide"]);
            let logs = ["-n", "portcullis-system", "logs", workload, "--tail=15"];
            let logs = self.kubectl(&logs);
            format!("{}\n{}", pods.unwrap_or_default(), logs.unwrap_or_default())
        })
    }

    /// Runs kubectl as administrator; what it printed on standard output.
    ///
    /// # Errors
    /// When it fails: with its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.server.kubectl(arguments, None)
    }

    /// Runs `kubectl apply -f -` with this text.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, text: &str) -> Result<()> {
        self.server.kubectl(&["apply", "-f", "-"], Some(text)).map(drop)
    }

    /// What `kubectl get ARGUMENTS -o json` prints.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// The API server, for a restart of it and for kubeconfigs.
    pub fn server(&mut self) -> &mut ApiServer {
        &mut self.server
    }

    /// The kubeconfig of the administrator, for programs on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.admin_kubeconfig()
    }

    /// The directory of kubectl and the other programs.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The nodes, `n1` first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.with_context(|| format!("the cluster has no node {name}"))
    }

    /// The node of this name, to restart it.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.with_context(|| format!("the cluster has no node {name}"))
    }

    /// Waits until every node reports that it is ready.
    ///
    /// # Errors
    /// When one does not in time: with the ends of its logs.
    pub fn wait_until_nodes_are_ready(&self) -> Result<()> {
        let deadline = Instant::now() + NODES_READY_WITHIN;
        loop {
            // A server that is busy may answer late or with an error.
            let nodes = self.get(&["nodes"]);
            let failure = match &nodes {
                Ok(nodes) => match nodes["items"].as_array() {
                    Some(nodes) if !nodes.is_empty() && nodes.iter().all(is_ready) => return Ok(()),
                    _ => "nodes are not ready".to_owned(),
                },
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                let logs: String = self.nodes.iter().map(Node::last_log_lines).collect();
                bail!("after {NODES_READY_WITHIN:?}: {failure}\n{logs}");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

/// Bridged packets pass iptables, as docs/install.md asks for; flanneld makes the routes itself.
fn prepare_network(node: &LabNode, lab: &Lab, options: &Options) -> Result<()> {
    node.shell(
        "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
         echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables
         echo 1 > /proc/sys/net/bridge/bridge-nf-filter-vlan-tagged",
    )?;
    if options.cni.is_flannel() {
        for peer in lab.nodes().filter(|peer| peer.name() != node.name()) {
            for cidr in peer.pod_cidrs() {
                node.shell(&format!("ip route del {cidr}"))?;
            }
        }
    }
    Ok(())
}

/// The Node object, with the addresses of pods that the CNI configuration has; the kubelet adds
/// the rest.
fn node_object(node: &LabNode) -> Value {
    let cidrs: Vec<String> = node.pod_cidrs().iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name()}},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
    })
}
