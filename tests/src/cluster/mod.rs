//! A lab with one real agent per node, all watching one directory of manifests or one API server.
//!
//! ```text
//! test ── write, or kubectl ──► directory or API server ──► agent on each node ──► its iptables
//!   └──── probes ────────► lab: real packets between pods                          and ipsets
//! ```

mod agent;
mod binary;
mod cni;
mod control_plane;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_engine::object::ObjectRef;
use tempfile::TempDir;

pub use self::agent::Agent;
pub use self::binary::{kubectl_whatif, portcullis};
pub use self::control_plane::ControlPlane;
pub(crate) use self::control_plane::MARKERS;
use self::control_plane::Markers;
use crate::cases::Manifest;
use crate::kube::{ApiServer, Kubelet};
use portcullis_lab::{Lab, Listener};

/// Has a program see a read-only `/proc/sys`, then becomes it.
const READ_ONLY_SYSCTLS: &str =
    "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec \"$@\"";

/// How long an agent may take to start on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A lab, its manifests and its agents. Dropping it ends the agents, then the lab.
pub struct Cluster {
    agents: BTreeMap<String, Agent>,
    flags: Vec<String>,
    markers: AtomicUsize,
    manifests: TempDir,
    locks: TempDir,
    cni_results: Option<TempDir>,
    control_plane: Option<ControlPlane>,
    /// The network below; for probes, pods and services.
    pub lab: Lab,
}

impl Cluster {
    /// A cluster without agents and manifests. `flags` are added to each agent's own.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new(lab: Lab, flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (manifests, locks) = (tempfile::tempdir()?, tempfile::tempdir()?);
        Ok(Self {
            agents: BTreeMap::new(),
            flags,
            markers: AtomicUsize::new(0),
            manifests,
            locks,
            cni_results: None,
            control_plane: None,
            lab,
        })
    }

    /// As [`Cluster::new`], with an API server beside the lab that agents watch in place of the
    /// directory. Pods serve `listeners`.
    ///
    /// # Errors
    /// When the API server does not start.
    pub fn with_api_server(lab: Lab, flags: &[&str], listeners: Vec<Listener>) -> Result<Self> {
        let mut cluster = Self::new(lab, flags)?;
        cluster.control_plane = Some(ControlPlane::start(&cluster.lab, listeners)?);
        Ok(cluster)
    }

    /// Writes the results of CNI plugins for the pods that the lab has now. Agents that start later
    /// read them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_cni_results(&mut self) -> Result<()> {
        let directory = tempfile::tempdir()?;
        for node in self.lab.nodes() {
            cni::write_results(&self.lab, node.name(), &directory.path().join(node.name()))?;
        }
        self.cni_results = Some(directory);
        Ok(())
    }

    /// Removes the result for a pod, as a container runtime does after the pod has ended.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_cni_result(&self, node: &str, pod: &str) -> Result<()> {
        let results = self.cni_results.as_ref().context("there are no results")?;
        let result = cni::file(&results.path().join(node), pod);
        fs::remove_file(&result).with_context(|| result.display().to_string())
    }

    /// The API server and its kubelet.
    ///
    /// # Errors
    /// When the agents watch a directory.
    pub fn control_plane(&mut self) -> Result<&mut ControlPlane> {
        self.control_plane.as_mut().context("this cluster has no API server")
    }

    /// The API server alone, for what works on it beside the lab.
    ///
    /// # Errors
    /// When the agents watch a directory.
    pub fn server(&self) -> Result<&ApiServer> {
        let control_plane = self.control_plane.as_ref();
        Ok(&control_plane.context("this cluster has no API server")?.server)
    }

    /// Has the kubelet do its work until `done`; see [`Kubelet::until`].
    ///
    /// # Errors
    /// As [`Kubelet::until`], and when the cluster has no API server.
    pub fn run_pods(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Kubelet) -> bool,
    ) -> Result<()> {
        let control_plane =
            self.control_plane.as_mut().context("this cluster has no API server")?;
        control_plane.kubelet.until(what, &mut self.lab, limit, done)
    }

    /// Takes objects away, brings others in, and has pods run as they say: in the lab and in their
    /// status. Nodes are those of the lab; agents need not have heard of it.
    ///
    /// # Errors
    /// When the cluster has no API server, it refuses, or pods do not start or end.
    pub fn change(&mut self, deleted: &[ObjectRef], applied: &[Manifest]) -> Result<()> {
        let control_plane =
            self.control_plane.as_mut().context("this cluster has no API server")?;
        control_plane.change(&mut self.lab, deleted, applied)
    }

    /// The directory that the agents watch.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.manifests.path()
    }

    /// Puts a manifest in place, as an editor or `kubectl` would: whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.directory().join(format!(".{name}.new"));
        fs::write(&hidden, text).with_context(|| format!("failed to write {name}"))?;
        fs::rename(&hidden, self.directory().join(name))
            .with_context(|| format!("failed to put {name} in place"))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.directory().join(name))
            .with_context(|| format!("failed to remove {name}"))
    }

    /// Waits until every agent has enforced what the directory or the API server holds now.
    ///
    /// Agents take files in the order in which they were written. The last one here is a marker:
    /// a namespace of its own, and a document that cannot be read, for that is logged by name. An
    /// API server gets a marker of each kind, for kinds come by streams of their own.
    ///
    /// # Errors
    /// When an agent does not get there within `limit`; its log is in the error.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        self.settle_on(self.agents(), limit)
    }

    /// As [`Cluster::settle`], for these agents.
    ///
    /// # Errors
    /// As [`Cluster::settle`].
    pub fn settle_on<'a>(
        &self,
        agents: impl IntoIterator<Item = &'a Agent>,
        limit: Duration,
    ) -> Result<()> {
        let logged: Vec<_> = agents.into_iter().map(|agent| (agent, agent.logged())).collect();
        let done = "all that the source said so far is enforced";
        let number = self.markers.fetch_add(1, Ordering::Relaxed) + 1;
        let markers = match &self.control_plane {
            Some(control_plane) => control_plane.mark(number)?,
            None => Markers::of_all(vec![self.mark(number)?]),
        };
        for (agent, logged) in logged {
            let mut last = logged;
            for marker in markers.of(agent.node()) {
                last = last.max(agent.find_after(logged, limit, |line| line.contains(marker))?);
            }
            agent.find_after(last, limit, |line| line.contains(done))?;
        }
        if self.control_plane.is_none() && number > 1 {
            self.remove(&format!("marker-{}.yaml", number - 1))?;
        }
        Ok(())
    }

    /// Writes a marker, and tells what an agent logs when it comes to it.
    fn mark(&self, number: usize) -> Result<String> {
        let file = format!("marker-{number}.yaml");
        let namespace =
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: m{number}}}}}");
        self.write(&file, &format!("{namespace}\n---\n[\n"))?;
        Ok(file)
    }

    /// Starts an agent on every node and waits until each says that policies are enforced.
    ///
    /// # Errors
    /// When one does not within a minute; its log is in the error.
    pub fn start_agents(&mut self) -> Result<()> {
        let nodes: Vec<String> = self.lab.nodes().map(|node| node.name().to_owned()).collect();
        for node in &nodes {
            let agent = self.spawn_agent(node)?;
            self.agents.insert(node.clone(), agent);
        }
        for agent in self.agents.values() {
            agent.wait_for("policies are enforced", START_LIMIT)?;
        }
        Ok(())
    }

    /// Starts one more agent on a node, besides those that the cluster knows.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn spawn_agent(&self, node: &str) -> Result<Agent> {
        self.spawn_agent_as(node, &AgentSetup::default())
    }

    /// As [`Cluster::spawn_agent`], with surroundings of its own.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn spawn_agent_as(&self, node: &str, setup: &AgentSetup) -> Result<Agent> {
        let binary = setup.binary.clone().map_or_else(portcullis, Ok)?;
        let mut command = if setup.read_only_sysctls {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-ec", READ_ONLY_SYSCTLS, "sh"]).arg(binary);
            command
        } else {
            Command::new(binary)
        };
        command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
        let node_name = setup.node_name.as_deref().unwrap_or(node);
        command.args(["node", "--log-format=json", "--node-name", node_name]);
        let kubeconfig = match (&setup.kubeconfig, &self.control_plane) {
            (Some(kubeconfig), _) => Some(kubeconfig.clone()),
            (None, Some(control_plane)) => Some(control_plane.agent_kubeconfig(node)?),
            (None, None) => None,
        };
        if let Some(kubeconfig) = kubeconfig {
            // With each change that the agent hears of: some are markers.
            command.arg("--log=debug,portcullis_controller::node::agent=trace");
            command.arg("--source=kube").arg("--kubeconfig").arg(kubeconfig);
        } else {
            let source = setup.directory.as_deref().unwrap_or(self.directory());
            command.arg(format!("--source=dir:{}", source.display())).arg("--log=debug");
        }
        // Nothing of a test may stay on the machine. A flag of a test can say otherwise.
        let mut flags = setup.flags.iter().chain(&self.flags);
        if !flags.any(|flag| flag.starts_with("--state-dir")) {
            command.arg("--state-dir=off");
        }
        if let Some(results) = &self.cni_results {
            command.arg("--cni-results-dir").arg(results.path().join(node));
        }
        command.args(&setup.flags);
        command.arg("--lock-dir").arg(setup.lock_dir.as_deref().unwrap_or(self.locks.path()));
        command.arg(format!("--iptables={}", self.lab.iptables().name())).args(&self.flags);
        if let Some(tools) = &setup.tools {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let others = std::env::split_paths(&path).filter(|_| !setup.only_these_tools);
            let all = std::iter::once(tools.clone()).chain(others);
            command.env("PATH", std::env::join_paths(all)?);
        }
        let stderr = match &setup.stderr {
            Some(stderr) => stderr.try_clone()?.into(),
            None => Stdio::piped(),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // A terminal's Ctrl-C is for the one who started the cluster: it ends the agents itself.
        command.process_group(0);
        let mut child = self.lab.node(node)?.netns().spawn(&mut command)?;
        let stderr = child.stderr.take();
        Ok(Agent::new(node, child, stderr))
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// When none was started there.
    pub fn agent(&self, node: &str) -> Result<&Agent> {
        self.agents.get(node).with_context(|| format!("no agent on {node}"))
    }

    /// Takes the agent of a node out, to be ended by the caller.
    ///
    /// # Errors
    /// When none was started there.
    pub fn take_agent(&mut self, node: &str) -> Result<Agent> {
        self.agents.remove(node).with_context(|| format!("no agent on {node}"))
    }

    /// Makes an agent the one of its node.
    pub fn put_agent(&mut self, agent: Agent) {
        self.agents.insert(agent.node().to_owned(), agent);
    }

    /// All agents.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// Runs a program of the binary that asks the agent of a node.
    ///
    /// # Errors
    /// When it does not start.
    pub fn ask(&self, node: &str, arguments: &[&str]) -> Result<Asked> {
        let mut command = Command::new(portcullis()?);
        command.args(arguments).arg("--lock-dir").arg(self.locks.path());
        let output = self.lab.node(node)?.netns().output(&mut command)?;
        Ok(Asked {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the binary on a node to its end; what it printed on standard output.
    ///
    /// # Errors
    /// When it fails: with what it said on standard error.
    pub fn portcullis(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let output =
            self.lab.node(node)?.netns().output(Command::new(portcullis()?).args(arguments))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "portcullis {arguments:?}: {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What a program answered.
#[derive(Debug)]
pub struct Asked {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said on standard error.
    pub said: String,
}

/// What an agent has of its own instead of what the others of its cluster have.
#[derive(Default, Debug)]
pub struct AgentSetup {
    /// The binary that runs; that of this build if there is none.
    pub binary: Option<PathBuf>,
    /// Variables of its environment besides those of the test.
    pub environment: Vec<(String, String)>,
    /// What it takes for the name of its node.
    pub node_name: Option<String>,
    /// The directory that it watches.
    pub directory: Option<PathBuf>,
    /// Where its lock is.
    pub lock_dir: Option<PathBuf>,
    /// Where it looks for tools first.
    pub tools: Option<PathBuf>,
    /// Whether it finds no other tools.
    pub only_these_tools: bool,
    /// The API server that it watches in place of a directory.
    pub kubeconfig: Option<PathBuf>,
    /// Flags besides those of its cluster.
    pub flags: Vec<String>,
    /// Whether `/proc/sys` is read-only, as it is in a container.
    pub read_only_sysctls: bool,
    /// Where it writes its log. The test reads it, and [`Agent::wait_for`] finds nothing.
    pub stderr: Option<OwnedFd>,
}
