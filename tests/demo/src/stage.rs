//! The lab, the agents and the directory that they watch: what the demo does to the world.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use policy_engine::port::Protocol;

use super::Backend;
use super::interrupt::{Interrupt, PATIENCE};
use super::scene::{Party, PolicyFile, Scene};
use super::table::{Cell, Measured, Reading, Table};
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Families, IptablesVariant, Lab, Listener, Outcome, PodSpec, Probe,
    Topology,
};
use portcullis_tests::cases::{Place, Port};
use portcullis_tests::cluster::{Agent, Cluster};
use portcullis_tests::play::file;

/// How long a change may take to be enforced before the demo gives up.
const LIMIT: Duration = Duration::from_secs(10);

/// What an agent logs after every change, whether or not it means something to its node.
const DONE: &str = "all that the source said so far is enforced";

/// The running cluster. Dropping it ends everything.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) backend: Backend,
}

/// How long each node took from the file to the kernel.
pub(super) type Applied = Vec<(String, Duration)>;

impl Stage {
    /// Builds the lab, starts the agents and waits until they enforce.
    pub(super) fn build(
        scene: &Scene,
        (topology, iptables): (Topology, IptablesVariant),
        backend: Backend,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let lab = Lab::builder().topology(topology).iptables(iptables).families(Families::Dual);
        // The pods see the address of the host outside, as the engine is told.
        let lab = lab.direct_internet(true).pods(scene.parties.iter().filter_map(pod)).build()?;
        interrupt.check()?;
        let mut cluster = Cluster::new(lab, &[backend.flag()])?;
        for manifest in &scene.manifests {
            cluster.write(&file(&manifest.object), &manifest.text())?;
        }
        cluster.start_agents()?;
        Ok(Self { cluster, backend })
    }

    /// Puts a policy file into the watched directory and waits for every agent.
    ///
    /// Gives the time from before the file is written until the agent's log says that the kernel
    /// has it, or that nothing of it concerns the node.
    pub(super) fn put(&self, policy: &PolicyFile, interrupt: &Interrupt) -> Result<Applied> {
        let agents: Vec<(&Agent, usize)> =
            self.cluster.agents().map(|agent| (agent, agent.logged())).collect();
        let nodes = self.cluster.lab.nodes().map(|node| node.name().to_owned());
        thread::scope(|scope| {
            let started = Instant::now();
            self.cluster.write(&policy.name, &policy.text)?;
            let waiting: Vec<_> = agents
                .iter()
                .map(|(agent, logged)| {
                    scope.spawn(move || wait(agent, *logged, started, interrupt))
                })
                .collect();
            let took = waiting.into_iter().map(|thread| match thread.join() {
                Ok(took) => took,
                Err(_) => bail!("waiting for an agent panicked"),
            });
            nodes.zip(took).map(|(node, took)| Ok((node, took?))).collect()
        })
    }

    /// Tries every connection of the scene.
    ///
    /// Where no answer came it is tried a second time, whatever was predicted: a busy machine can
    /// delay an answer beyond the time-out.
    pub(super) fn measure(&self, scene: &Scene) -> Result<Table> {
        let cells = scene.cells();
        let probes: Vec<Probe> =
            cells.iter().map(|cell| probe(scene, *cell)).collect::<Result<_>>()?;
        let mut outcomes = self.cluster.lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
        let (mut silent, mut again) = (Vec::new(), Vec::new());
        for (outcome, probe) in outcomes.iter_mut().zip(&probes) {
            if !outcome.is_open() {
                silent.push(outcome);
                again.push(probe.clone());
            }
        }
        for (outcome, new) in
            silent.into_iter().zip(self.cluster.lab.probe_all(&again, DEFAULT_TIMEOUT)?)
        {
            *outcome = new;
        }
        cells
            .into_iter()
            .zip(outcomes)
            .map(|(cell, outcome)| {
                let measured = measured(scene.party(cell.destination)?, outcome);
                Ok((cell, Reading { predicted: scene.predict(cell)?, measured }))
            })
            .collect()
    }
}

fn wait(agent: &Agent, logged: usize, started: Instant, interrupt: &Interrupt) -> Result<Duration> {
    loop {
        match agent.wait_for_after(logged, DONE, PATIENCE) {
            Ok(_) => return Ok(started.elapsed()),
            Err(failure) if started.elapsed() > LIMIT => return Err(failure),
            Err(_) => interrupt.check()?,
        }
    }
}

/// The pod of a party, listening where it says; none for the host outside.
fn pod(party: &Party) -> Option<PodSpec> {
    let Place::Pod(key) = &party.place else { return None };
    let pod = PodSpec::new(&*key.namespace, &*key.name, party.node.as_deref()?);
    let pod = party.addresses.iter().fold(pod, |pod, address| pod.address(*address));
    let listeners = party.ports.iter().filter_map(|port| match *port {
        Port::Number(Protocol::Tcp, port) => Some(Listener::tcp(port)),
        Port::Number(Protocol::Udp, port) => Some(Listener::udp(port)),
        Port::Number(Protocol::Sctp, port) => Some(Listener::sctp(port)),
        Port::Icmp => None,
    });
    Some(listeners.fold(pod, PodSpec::listen))
}

/// The packet that a cell stands for.
pub(super) fn probe(scene: &Scene, cell: Cell) -> Result<Probe> {
    let from = match &scene.party(cell.source)?.place {
        Place::Pod(key) => Endpoint::pod(key.to_string()),
        Place::Node(name) => Endpoint::node(name),
        Place::External => Endpoint::Internet,
    };
    let to = scene.party(cell.destination)?;
    let to = to.address(cell.family).with_context(|| format!("cannot connect to {to}"))?;
    Ok(match cell.port {
        Port::Icmp => Probe::icmp(from, to),
        Port::Number(Protocol::Tcp, port) => Probe::tcp(from, to, port),
        Port::Number(Protocol::Udp, port) => Probe::udp(from, to, port),
        Port::Number(Protocol::Sctp, port) => Probe::sctp_init(from, to, port),
    })
}

fn measured(destination: &Party, outcome: Outcome) -> Measured {
    match outcome {
        Outcome::Open(who) if who == destination.to_string() => Measured::Open,
        Outcome::Open(who) => Measured::Stranger(who),
        Outcome::Refused | Outcome::Reset | Outcome::Dropped | Outcome::Unreachable(_) => {
            Measured::Closed
        }
    }
}
