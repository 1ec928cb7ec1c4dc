//! Where rows happen: the shop with one agent on n2, an API server that can lie, and tools that can
//! misbehave.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::{DEFAULT_TIMEOUT, IptablesVariant, Lab, Listener, PodSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::api::Api;
use super::traffic::Route;
use crate::cluster::{Agent, AgentSetup, Cluster};
use crate::shop::{ECHO, PATIENCE, WEB, lab, node_object, probes};
use crate::tool::wrap_all;

const HEALTH: u16 = 7001;

/// What is open at the beginning of a row, and closed by it.
pub(super) const CLOSES: &[Route] = &[("near", "other", WEB), ("web", "other", WEB)];
/// What is closed at the beginning of a row, and opened by it.
pub(super) const OPENS: &[Route] = &[("stranger", "api", WEB)];

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) api: Api,
    /// The agent of n2; none while it is not running.
    agent: Mutex<Option<Agent>>,
    /// One more agent of n2, of some rows.
    pub(super) other: Mutex<Option<Agent>>,
    pub(super) tools: TempDir,
}

impl Stage {
    pub(super) fn new(variant: IptablesVariant) -> Result<Self> {
        // One that is only there to lose its network.
        let spare = PodSpec::new("shop", "spare", "n2");
        let third = PodSpec::new("shop", "third", "n2").listen(Listener::tcp(WEB));
        let lab = lab(variant).pods([spare, third]).build()?;
        let address = lab.fabric_addresses().into_iter().next().context("the fabric's address")?;
        let api = Api::start(lab.fabric(), address)?;
        let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        api.put(lab.nodes().map(node_object).chain([shop]));
        for pod in lab.pods() {
            api.put([pod_object(pod.name(), pod.node(), pod.addresses(), pod.name())]);
        }
        let (cluster, tools) = (Cluster::new(lab, &[])?, tempfile::tempdir()?);
        wrap_all(tools.path(), ". \"$0.broken\"")?;
        let (agent, other) = (Mutex::default(), Mutex::default());
        let stage = Self { cluster, api, agent, other, tools };
        stage.reset();
        stage.restart(AgentSetup::default())?;
        Ok(stage)
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    pub(super) fn variant(&self) -> &'static str {
        self.cluster.lab.iptables().name()
    }

    /// The policies as they are at the beginning of a row.
    pub(super) fn reset(&self) {
        self.api.put([
            policy("api", &["web", "near"], &[WEB, ECHO]),
            policy("other", &["web", "near"], &[WEB]),
            policy("third", &["web", "near"], &[WEB]),
        ]);
    }

    /// Closes [`CLOSES`].
    pub(super) fn close(&self) {
        self.api.put([policy("other", &[], &[])]);
    }

    /// Opens [`OPENS`], which needs an ipset that is not there yet.
    pub(super) fn open(&self) {
        self.api.put([policy("api", &["web", "near", "stranger"], &[WEB, ECHO])]);
    }

    /// A change that needs other chains and another ipset each time, and matters to nothing that is sent.
    pub(super) fn churn(&self, turn: u64) {
        let apps: &[&str] =
            if turn.is_multiple_of(2) { &["web", "near", "lurker"] } else { &["web", "near"] };
        self.api.put([policy("third", apps, &[WEB])]);
    }

    /// Starts the agent again, and waits until policies are enforced.
    pub(super) fn restart(&self, setup: AgentSetup) -> Result<()> {
        self.start(setup)?;
        self.wait_ready()
    }

    pub(super) fn start(&self, setup: AgentSetup) -> Result<()> {
        self.kill()?;
        *lock(&self.agent) = Some(self.spawn(setup)?);
        Ok(())
    }

    /// Kills the agent, whatever it is doing.
    pub(super) fn kill(&self) -> Result<()> {
        lock(&self.agent).take().map_or(Ok(()), Agent::kill)
    }

    /// Does something with the agent.
    pub(super) fn with_agent<T>(&self, action: impl FnOnce(&Agent) -> Result<T>) -> Result<T> {
        action(lock(&self.agent).as_ref().context("no agent runs")?)
    }

    /// One more agent on n2.
    pub(super) fn spawn(&self, setup: AgentSetup) -> Result<Agent> {
        let mut flags = setup.flags.clone();
        if !flags.iter().any(|flag| flag.starts_with("--health-address")) {
            flags.push(format!("--health-address=127.0.0.1:{HEALTH}"));
        }
        flags.extend(
            [
                // The faults are those of its tools.
                "--backend=iptables",
                "--metrics-address=off",
                "--unready-after=2",
                "--verify-period=5",
                "--conflict-period=1",
            ]
            .map(str::to_owned),
        );
        self.cluster.spawn_agent_as(
            "n2",
            &AgentSetup {
                flags,
                tools: Some(self.tools.path().into()),
                only_these_tools: true,
                kubeconfig: Some(self.api.kubeconfig().into()),
                ..setup
            },
        )
    }

    /// What `/readyz` answers, without the text behind the state.
    pub(super) fn readyz(&self) -> String {
        let answer = self.ask().unwrap_or_default();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        match head.split(' ').nth(1) {
            None => "no answer".to_owned(),
            Some("200") => "200".to_owned(),
            Some(status) => {
                let state = body.split(':').next().unwrap_or_default();
                format!("{status} {state}")
            }
        }
    }

    /// What `/readyz` answers, with the reason.
    pub(super) fn why(&self) -> String {
        self.ask().unwrap_or_else(|error| format!("{error:#}"))
    }

    fn ask(&self) -> Result<String> {
        self.lab().node("n2")?.netns().run(|| -> Result<String> {
            let limit = Duration::from_millis(500);
            let address = (Ipv4Addr::LOCALHOST, HEALTH).into();
            let mut stream = TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?
    }

    pub(super) fn wait_ready(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.readyz() != "200" {
            ensure!(Instant::now() < end, "the agent does not become ready: {}", self.why());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether each of these is open, or each is closed.
    pub(super) fn all(&self, routes: &[Route], open: bool) -> Result<bool> {
        let timeout = if open { DEFAULT_TIMEOUT } else { Duration::from_millis(20) };
        self.all_within(routes, open, timeout)
    }

    fn all_within(&self, routes: &[Route], open: bool, timeout: Duration) -> Result<bool> {
        let outcomes = self.lab().probe_all(&probes(self.lab(), routes)?, timeout)?;
        Ok(outcomes.iter().all(|outcome| outcome.is_open() == open))
    }

    /// Waits until each of these is open or closed; how long that took, none if it did not happen.
    pub(super) fn until(
        &self,
        routes: &[Route],
        open: bool,
        limit: Duration,
    ) -> Result<Option<Duration>> {
        let began = Instant::now();
        loop {
            if self.all(routes, open)? {
                let took = began.elapsed();
                // On a busy machine, an open one may take longer than a closed one is waited for.
                if open || self.all_within(routes, open, DEFAULT_TIMEOUT)? {
                    return Ok(Some(took));
                }
            }
            if began.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The tools misbehave: `fault` is shell that their wrappers run first.
    pub(super) fn break_tools(&self, tools: &[String], fault: &str) -> Result<()> {
        for tool in tools {
            let path = self.tools.path().join(tool);
            if fault == super::tools::MISSING {
                fs::rename(&path, path.with_extension("gone"))?;
            } else {
                fs::write(self.tools.path().join(format!("{tool}.broken")), fault)?;
            }
        }
        // A restore tool stays between changes: the one that works ends, so that the next is broken.
        self.with_agent(Agent::kill_tools)
    }

    pub(super) fn fix_tools(&self, tools: &[String]) -> Result<()> {
        for tool in tools {
            let path = self.tools.path().join(tool);
            let gone = path.with_extension("gone");
            if gone.exists() {
                fs::rename(gone, path)?;
            } else {
                fs::remove_file(self.tools.path().join(format!("{tool}.broken")))?;
            }
        }
        Ok(())
    }
}

/// The Pod object of a pod.
pub(super) fn pod_object(
    name: &str,
    node: &str,
    addresses: &[std::net::IpAddr],
    app: &str,
) -> Value {
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": node}, "status": {"phase": "Running", "podIPs": ips}})
}

/// The policy of a pod for ingress: from pods with one of these `app`s, to these ports.
fn policy(target: &str, apps: &[&str], ports: &[u16]) -> Value {
    let ports: Vec<_> = ports.iter().map(|port| json!({"port": port})).collect();
    let from = json!([{"podSelector": {"matchExpressions":
        [{"key": "app", "operator": "In", "values": apps}]}}]);
    let rules = if apps.is_empty() { json!([]) } else { json!([{"from": from, "ports": ports}]) };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": target},
        "spec": {"podSelector": {"matchLabels": {"app": target}}, "policyTypes": ["Ingress"],
            "ingress": rules}})
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
