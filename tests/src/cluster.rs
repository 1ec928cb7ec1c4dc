//! A lab with one real agent per node, all watching one directory of manifests.
//!
//! ```text
//! test ── write/remove ──► directory ──► agent on each node ──► that node's iptables and ipsets
//!   └──── probes ────────► lab: real packets between pods
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::Lab;

/// How many lines of an agent's log are kept.
const LOG_LINES: usize = 2_000;

/// A lab, its manifests and its agents. Dropping it ends the agents, then the lab.
pub struct Cluster {
    agents: BTreeMap<String, Agent>,
    flags: Vec<String>,
    markers: AtomicUsize,
    manifests: TempDir,
    locks: TempDir,
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
            lab,
        })
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

    /// Waits until every agent has in force what the directory holds now.
    ///
    /// Agents take files in the order in which they were written. The last one here is a marker:
    /// a namespace of its own, and a document that cannot be read, for that is logged by name.
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
        let old = self.markers.fetch_add(1, Ordering::Relaxed);
        let (number, old) = (old + 1, format!("marker-{old}.yaml"));
        let file = format!("marker-{number}.yaml");
        let namespace =
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: m{number}}}}}");
        self.write(&file, &format!("{namespace}\n---\n[\n"))?;
        for (agent, logged) in logged {
            let marker = agent.find_after(logged, limit, |line| line.contains(&file))?;
            let done = "all that the source said so far is in force";
            agent.find_after(marker, limit, |line| line.contains(done))?;
        }
        if number > 1 {
            self.remove(&old)?;
        }
        Ok(())
    }

    /// Starts an agent on every node and waits until each says that policies are in force.
    ///
    /// # Errors
    /// When one does not within ten seconds; its log is in the error.
    pub fn start_agents(&mut self) -> Result<()> {
        let nodes: Vec<String> = self.lab.nodes().map(|node| node.name().to_owned()).collect();
        for node in &nodes {
            let agent = self.spawn_agent(node)?;
            self.agents.insert(node.clone(), agent);
        }
        for agent in self.agents.values() {
            agent.wait_for("policies are in force", Duration::from_secs(10))?;
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
        let source = setup.directory.as_deref().unwrap_or(self.directory());
        let mut command = Command::new(portcullis()?);
        command.args(["node", "--log-format=json", "--log=debug", "--node-name", node]);
        match &setup.kubeconfig {
            Some(file) => command.arg("--source=kube").arg("--kubeconfig").arg(file),
            None => command.arg(format!("--source=dir:{}", source.display())),
        };
        command.args(&setup.flags);
        command.arg("--lock-dir").arg(setup.lock_dir.as_deref().unwrap_or(self.locks.path()));
        command.arg(format!("--iptables={}", self.lab.iptables().name())).args(&self.flags);
        if let Some(tools) = &setup.tools {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(tools.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all)?);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is for the one who started the cluster: it ends the agents itself.
        command.process_group(0);
        let mut child = self.lab.node(node)?.netns().spawn(&mut command)?;
        let stderr = child.stderr.take().context("the agent's log is piped")?;
        let log = Arc::new(Log::default());
        let copy = log.clone();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| copy.push(line));
        });
        Ok(Agent { node: node.to_owned(), child, log })
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
        self.agents.insert(agent.node.clone(), agent);
    }

    /// All agents.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
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

/// What an agent has of its own instead of what the others of its cluster have.
#[derive(Default, Debug)]
pub struct AgentSetup {
    /// The directory that it watches.
    pub directory: Option<PathBuf>,
    /// Where its lock is.
    pub lock_dir: Option<PathBuf>,
    /// Where it looks for tools first.
    pub tools: Option<PathBuf>,
    /// The API server that it watches in place of a directory.
    pub kubeconfig: Option<PathBuf>,
    /// Flags besides those of its cluster.
    pub flags: Vec<String>,
}

/// A running agent.
pub struct Agent {
    node: String,
    child: Child,
    log: Arc<Log>,
}

impl Agent {
    /// Waits until a line of the log holds `text`; gives the line.
    ///
    /// # Errors
    /// When none does within `limit`, or the agent ends.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for_after(0, text, limit)
    }

    /// How many lines were logged so far.
    #[must_use]
    pub fn logged(&self) -> usize {
        let lines = self.log.lines();
        lines.first + lines.kept.len()
    }

    /// The first line that holds `text` and is none of the first `after`, if it was logged yet.
    #[must_use]
    pub fn said_after(&self, after: usize, text: &str) -> Option<String> {
        let lines = self.log.lines();
        let skip = after.saturating_sub(lines.first);
        lines.kept.iter().skip(skip).find(|line| line.contains(text)).cloned()
    }

    /// As [`Agent::wait_for`], leaving out the first `after` lines.
    ///
    /// # Errors
    /// As [`Agent::wait_for`].
    pub fn wait_for_after(&self, after: usize, text: &str, limit: Duration) -> Result<String> {
        self.find_after(after, limit, |line| line.contains(text))
            .with_context(|| format!("{text:?} was not logged"))?;
        self.said_after(after, text).context("the line was let go of meanwhile")
    }

    /// Waits for a line behind the first `after` ones; gives how many lines there are up to it.
    ///
    /// # Errors
    /// When none is logged within `limit`; the log is in the error.
    pub fn find_after(
        &self,
        after: usize,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lines();
        loop {
            let skip = after.saturating_sub(lines.first);
            if let Some(at) = lines.kept.iter().skip(skip).position(|line| wanted(line)) {
                return Ok(lines.first + skip + at + 1);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all: Vec<&str> = lines.kept.iter().map(String::as_str).collect();
                let all = all.join("\n");
                bail!("the agent of {} did not say so within {limit:?}:\n{all}", self.node);
            }
            let woken = self.log.changed.wait_timeout(lines, left);
            lines = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends it as a kubelet does, and waits.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn terminate(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM).context("failed to signal the agent")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent of {} ended with {status}", self.node);
        Ok(())
    }

    /// Ends the tools that it keeps running, as an out-of-memory killer would.
    ///
    /// # Errors
    /// When they cannot be found.
    pub fn kill_tools(&self) -> Result<()> {
        let process = format!("/proc/{}/task", self.child.id());
        for task in fs::read_dir(&process).with_context(|| process.clone())? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            for child in children.split_whitespace() {
                match kill(Pid::from_raw(child.parse()?), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).context("failed to kill a tool"),
                }
            }
        }
        Ok(())
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself; its exit code, none when a signal ended it.
    ///
    /// # Errors
    /// When its state cannot be told.
    pub fn wait(mut self) -> Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When its state cannot be told.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    /// How many lines were let go.
    first: usize,
    kept: VecDeque<String>,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        lines.kept.push_back(line);
        if lines.kept.len() > LOG_LINES {
            lines.kept.pop_front();
            lines.first += 1;
        }
        self.changed.notify_all();
    }
}

/// The binary, built from the sources as they are when cargo runs us.
///
/// # Errors
/// When it is not there or does not build.
pub fn portcullis() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || build("portcullis-controller", "portcullis");
    let built = BUILT.get_or_init(|| build().map_err(|failure| format!("{failure:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// The binary of `kubectl whatif`, as [`portcullis`].
///
/// # Errors
/// When it is not there or does not build.
pub fn kubectl_whatif() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || build("portcullis-whatif", "kubectl-whatif");
    let built = BUILT.get_or_init(|| build().map_err(|failure| format!("{failure:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build(package: &str, name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/PROFILE/demo, or target/PROFILE/deps/test-HASH.
    let profile = own
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"))
        .context("a test binary lies in a target directory")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", package, "--bin", name]);
        if profile.ends_with("release") {
            command.arg("--release");
        }
        let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
        ensure!(status.success(), "{name} does not build");
    }
    let binary = profile.join(name);
    ensure!(binary.is_file(), "{} is not there: `cargo build` makes it", binary.display());
    Ok(binary)
}
