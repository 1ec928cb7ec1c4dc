//! Worlds and cases played on a cluster: pods and services in the lab, manifests for the agents,
//! expectations as probes.
//!
//! ```text
//! World ── pods, services ──► Lab          Stage ── manifests ──► agents
//!                              ▲                 └─ expectations ─┐
//!                              └──────── probes, once agents are done ◄┘
//! ```
//!
//! Manifests are files of a directory, or objects of a real API server; there the kubelet brings
//! the pods into the lab.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use policy_engine::object::ObjectRef;
use policy_engine::port::Protocol;

use crate::cases::{self, Expectation, Manifest, Place, Port, Verdict, World};
use crate::cluster::Cluster;
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Expected, LabBuilder, Listener, PodSpec, Probe, ServiceSpec,
    Transport,
};

/// How long agents may take to follow a change, on a machine that is busy with other tests.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may be late before it counts as none.
const LATE_LIMIT: Duration = Duration::from_secs(3);

/// The cluster with the world that it shows at the moment.
pub struct Player {
    /// The cluster.
    pub cluster: Cluster,
    world: World,
    ports: Vec<Port>,
    by_api_server: bool,
}

impl Player {
    /// Puts a world on a lab, and real agents that enforce it by a directory. Pods and nodes serve
    /// `ports`.
    ///
    /// # Errors
    /// When lab or agents cannot be built.
    pub fn start(lab: LabBuilder, world: World, ports: &[Port], flags: &[&str]) -> Result<Self> {
        let lab = serving(lab, &world, ports).pods(pods(&world, ports));
        let cluster = Cluster::new(lab.build()?, flags)?;
        Self { cluster, world, ports: ports.to_vec(), by_api_server: false }.begin()
    }

    /// As [`Player::start`], by a real API server.
    ///
    /// # Errors
    /// When lab, API server or agents cannot be built.
    pub fn start_with_api_server(
        lab: LabBuilder,
        world: World,
        ports: &[Port],
        flags: &[&str],
    ) -> Result<Self> {
        let lab = serving(lab, &world, ports).build()?;
        let cluster = Cluster::with_api_server(lab, flags, listeners(ports))?;
        cluster.server()?.install_cluster_network_policy()?;
        Self { cluster, world, ports: ports.to_vec(), by_api_server: true }.begin()
    }

    fn begin(mut self) -> Result<Self> {
        self.manifests(&[], &self.world.manifests())?;
        self.services(&BTreeMap::new(), &services(&self.world)?)?;
        self.cluster.start_agents()?;
        Ok(self)
    }

    /// The world as it is now.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes `next` the world: pods and services first, then what agents read of it.
    ///
    /// # Errors
    /// When lab or directory cannot follow.
    pub fn become_world(
        &mut self,
        next: World,
        deleted: &[ObjectRef],
        applied: &[Manifest],
    ) -> Result<()> {
        if !self.by_api_server {
            self.lab_pods(&next)?;
        }
        self.services(&services(&self.world)?, &services(&next)?)?;
        self.manifests(deleted, applied)?;
        self.world = next;
        Ok(())
    }

    /// Changes the pods of the lab, as a kubelet would.
    fn lab_pods(&mut self, next: &World) -> Result<()> {
        let (old, new) = (pods(&self.world, &self.ports), pods(next, &self.ports));
        let (old, new) = (by_key(old), by_key(new));
        for (key, _) in old.iter().filter(|(key, pod)| new.get(*key) != Some(*pod)) {
            self.cluster.lab.remove_pod(key)?;
        }
        let added = new.iter().filter(|(key, pod)| old.get(*key) != Some(*pod));
        self.cluster.lab.add_pods(added.map(|(_, pod)| pod.clone()))
    }

    /// Changes what the agents watch.
    fn manifests(&mut self, deleted: &[ObjectRef], applied: &[Manifest]) -> Result<()> {
        if self.by_api_server {
            return self.cluster.change(deleted, applied);
        }
        deleted.iter().try_for_each(|object| self.cluster.remove(&file(object)))?;
        let write =
            |manifest: &Manifest| self.cluster.write(&file(&manifest.object), &manifest.text());
        applied.iter().try_for_each(write)
    }

    /// Goes back to `base` after a case.
    ///
    /// # Errors
    /// When lab or directory cannot follow.
    pub fn reset(&mut self, base: &World) -> Result<()> {
        let before: BTreeMap<String, Manifest> = by_file(&self.world);
        let after = by_file(base);
        let gone = before.iter().filter(|(file, _)| !after.contains_key(*file));
        let gone: Vec<ObjectRef> = gone.map(|(_, manifest)| manifest.object.clone()).collect();
        let back = after.into_iter().filter(|(file, manifest)| before.get(file) != Some(manifest));
        let back: Vec<Manifest> = back.map(|(_, manifest)| manifest).collect();
        self.become_world(base.clone(), &gone, &back)
    }

    /// Waits until all agents have the world enforced, and then probes everything once. Gives a
    /// line for each probe that did not end as expected.
    ///
    /// # Errors
    /// When agents do not get there, or probes cannot be sent.
    pub fn disagreements(&self, expectations: &[Expectation]) -> Result<Vec<String>> {
        self.cluster.settle(SETTLE_LIMIT)?;
        // A probe is to open a flow, and a datagram from a port that was used before would go on
        // with an old one: that one was there before the policy.
        for node in self.cluster.lab.nodes() {
            node.shell("conntrack -F 2>/dev/null")?;
        }
        let (closed, open): (Vec<&Expectation>, Vec<&Expectation>) =
            expectations.iter().partition(|asked| expected(asked) == Expected::Closed);
        // Many probes share two cores with other tests: an answer may come late. A packet that
        // policy forbids never becomes an answer, so only what should be open is asked again.
        let asked: Vec<_> =
            open.iter().map(|asked| (probe(&asked.probe), expected(asked))).collect();
        let answers = self.cluster.lab.probe_until(&asked, DEFAULT_TIMEOUT * 2, LATE_LIMIT)?;
        // Apart from those, so that what is answered by mistake is answered in time.
        let asked: Vec<Probe> = closed.iter().map(|asked| probe(&asked.probe)).collect();
        let silence = self.cluster.lab.probe_silent(&asked, DEFAULT_TIMEOUT)?;
        let outcomes = answers.into_iter().map(|answer| answer.outcome).chain(silence);
        let mut wrong = Vec::new();
        for (expectation, outcome) in open.into_iter().chain(closed).zip(outcomes) {
            let expected = expected(expectation);
            if expected.agrees(&outcome) {
                continue;
            }
            let mut text = format!("{}: expected {expected:?}, got {outcome}", expectation.probe);
            if let Some(line) = expectation.line {
                let _ = write!(text, " (line {line} of tests)");
            }
            wrong.push(text);
        }
        Ok(wrong)
    }

    /// Plays all steps of a case and goes back to `base`; what `wanted` leaves out is not tried.
    /// Gives how many connections were tried. An error lists what disagrees.
    ///
    /// # Errors
    /// When a step cannot be played, or ends otherwise than its author says.
    pub fn play(
        &mut self,
        case: &cases::Case,
        base: &World,
        wanted: impl Fn(&Expectation) -> bool,
    ) -> Result<usize> {
        let mut checked = 0;
        // An agent reports a denial once a minute, however often its packets come again.
        let mut reported = BTreeSet::new();
        for stage in case.run(base.clone())? {
            let step = format!("case {}, step {}", case.name, stage.number);
            let logged: Vec<usize> =
                self.cluster.agents().map(super::cluster::Agent::logged).collect();
            self.become_world(stage.world, &stage.deleted, &stage.applied)
                .with_context(|| step.clone())?;
            for (agent, logged) in self.cluster.agents().zip(&logged) {
                for text in &stage.diagnostics {
                    let text = serde_json::to_string(text)?;
                    agent.wait_for_after(*logged, text.trim_matches('"'), SETTLE_LIMIT)?;
                }
            }
            let mut expectations = stage.expectations;
            expectations.retain(&wanted);
            let wrong = self.disagreements(&expectations).with_context(|| step.clone())?;
            if !wrong.is_empty() {
                let count = wrong.len();
                bail!("{step}: {count} wrong:\n  {}", wrong[..count.min(40)].join("\n  "));
            }
            let denials = expectations.iter().filter(|expectation| expectation.would_be_denied());
            let denials = denials.map(|denial| {
                (denial.probe.source_address, denial.probe.target, denial.probe.port)
            });
            let known = reported.len();
            reported.extend(denials);
            if reported.len() > known {
                self.wait_for_would_be_denials(&logged).with_context(|| step.clone())?;
            }
            checked += expectations.len();
        }
        self.reset(base)?;
        Ok(checked)
    }

    /// Waits until some agent tells of what policies in audit would deny.
    fn wait_for_would_be_denials(&self, logged: &[usize]) -> Result<()> {
        const GLANCE: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + SETTLE_LIMIT;
        let tells = |line: &str| line.contains("\"message\":\"would be denied");
        while Instant::now() < deadline {
            let mut agents = self.cluster.agents().zip(logged);
            if agents.any(|(agent, logged)| agent.find_after(*logged, GLANCE, tells).is_ok()) {
                return Ok(());
            }
        }
        bail!("no agent told of what policies in audit would deny")
    }

    fn services(
        &mut self,
        old: &BTreeMap<String, ServiceSpec>,
        new: &BTreeMap<String, ServiceSpec>,
    ) -> Result<()> {
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.cluster.lab.remove_service(name)?;
        }
        for (_, service) in new.iter().filter(|(name, service)| old.get(*name) != Some(*service)) {
            self.cluster.lab.add_service(service.clone())?;
        }
        Ok(())
    }
}

/// What pods and nodes have to serve: each port that one of the cases asks for.
///
/// # Errors
/// When a case cannot be run.
pub fn served(played: &[&cases::Case], base: &World) -> Result<Vec<Port>> {
    let mut ports = BTreeSet::from(cases::PORTS);
    for case in played {
        for stage in case.run(base.clone())? {
            let asked = stage.expectations.iter().filter(|asked| asked.probe.via.is_none());
            ports.extend(asked.map(|asked| asked.probe.port));
        }
    }
    Ok(ports.into_iter().collect())
}

/// A probe of a case in terms of the lab.
#[must_use]
pub fn probe(probe: &cases::Probe) -> Probe {
    let from = match &probe.source.place {
        Place::Pod(key) => Endpoint::pod(key.to_string()),
        Place::Node(name) => Endpoint::node(name),
        Place::External => Endpoint::Internet,
    };
    match probe.port {
        Port::Icmp => Probe::icmp(from, probe.target),
        Port::Number(Protocol::Tcp, port) => Probe::tcp(from, probe.target, port),
        Port::Number(Protocol::Udp, port) => Probe::udp(from, probe.target, port),
        Port::Number(Protocol::Sctp, port) => Probe::sctp_init(from, probe.target, port),
    }
}

fn expected(expectation: &Expectation) -> Expected {
    match (expectation.verdict, &expectation.probe.destination.place) {
        (Verdict::Denied, _) => Expected::Closed,
        (Verdict::Allowed, Place::Pod(key)) if !expectation.probe.destination.on_host => {
            Expected::OpenAt(key.to_string())
        }
        (Verdict::Allowed, _) => Expected::Open,
    }
}

/// The running pods of a world, for the lab.
fn pods(world: &World, ports: &[Port]) -> Vec<PodSpec> {
    let endpoints = world.pods().into_iter().filter(|pod| !pod.addresses.is_empty());
    endpoints
        .filter_map(|pod| {
            let Place::Pod(key) = &pod.place else { return None };
            let mut spec = PodSpec::new(&*key.namespace, &*key.name, pod.node.as_deref()?);
            if pod.on_host {
                // Its node serves the same ports in the same network namespace.
                return Some(spec.host_network());
            }
            for address in &pod.addresses {
                spec = spec.address(*address);
            }
            Some(listeners(ports).into_iter().fold(spec, PodSpec::listen))
        })
        .collect()
}

fn serving(lab: LabBuilder, world: &World, ports: &[Port]) -> LabBuilder {
    let lab = lab.families(world.families());
    listeners(ports)
        .into_iter()
        .fold(lab, |lab, listener| lab.node_listener(listener).internet_listener(listener))
}

fn listeners(ports: &[Port]) -> Vec<Listener> {
    let listener = |port: &Port| match port {
        Port::Number(Protocol::Tcp, port) => Some(Listener::tcp(*port)),
        Port::Number(Protocol::Udp, port) => Some(Listener::udp(*port)),
        Port::Number(Protocol::Sctp, port) => Some(Listener::sctp(*port)),
        Port::Icmp => None,
    };
    ports.iter().filter_map(listener).collect()
}

fn services(world: &World) -> Result<BTreeMap<String, ServiceSpec>> {
    let mut all = BTreeMap::new();
    for service in world.services()? {
        for port in &service.ports {
            let name = format!("{}/{}:{}", service.namespace, service.name, port.port);
            let protocol = match port.protocol {
                Protocol::Tcp => Transport::Tcp,
                Protocol::Udp => Transport::Udp,
                Protocol::Sctp => Transport::Sctp,
            };
            let spec = ServiceSpec {
                name: format!("{name}/{}", protocol.name()),
                cluster_ips: service.cluster_ips.clone(),
                port: port.port,
                target_port: port.target,
                protocol,
                node_port: port.node_port,
                backends: service.backend.addresses.clone(),
            };
            all.insert(spec.name.clone(), spec);
        }
    }
    Ok(all)
}

fn by_key(pods: Vec<PodSpec>) -> BTreeMap<String, PodSpec> {
    pods.into_iter().map(|pod| (pod.key(), pod)).collect()
}

fn by_file(world: &World) -> BTreeMap<String, Manifest> {
    world.manifests().into_iter().map(|manifest| (file(&manifest.object), manifest)).collect()
}

/// The file that holds an object.
#[must_use]
pub fn file(object: &ObjectRef) -> String {
    format!("{}.json", object.to_string().replace('/', "_"))
}
