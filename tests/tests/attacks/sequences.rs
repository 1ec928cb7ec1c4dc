//! Attacks that need a change of the cluster: a policy that is gone, an address that is given to
//! another pod, a rule of another program, a node that starts again.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Expected, Family, Listener, PodSpec, Probe, Settled,
};
use portcullis_tests::cluster::AgentSetup;
use serde_json::json;

use crate::attack::{Verdict, WEB};
use crate::forgotten::forgotten;
use crate::world::{NAMESPACE, PATIENCE, World, pod_manifest, policy};

/// An attack that has to be dropped.
pub(crate) struct Sequence {
    pub(crate) name: &'static str,
    pub(crate) attack: fn(&mut World) -> Result<Verdict>,
    /// What it waits for; empty when it is closed.
    pub(crate) open_until: &'static str,
}

/// All of them, in an order in which one does not disturb the next.
pub(crate) const SEQUENCES: [Sequence; 5] = [
    Sequence {
        name: "an INIT of SCTP from the port of an association that was allowed",
        attack: association,
        open_until: "",
    },
    Sequence {
        name: "a flow of UDP to an address that another pod has now",
        attack: reused_address,
        open_until: "",
    },
    Sequence {
        name: "a connection of TCP that conntrack has forgotten",
        attack: forgotten,
        open_until: "",
    },
    Sequence {
        name: "an ACCEPT of another program in front of the rules",
        attack: accept_in_front,
        open_until: "",
    },
    Sequence {
        name: "a node that has started again, before its agent knows the cluster",
        attack: first_view,
        open_until: "",
    },
];

fn mallory() -> Endpoint {
    Endpoint::pod(format!("{NAMESPACE}/mallory"))
}

/// The addresses of a pod.
fn addresses(world: &World, name: &str) -> Result<Vec<IpAddr>> {
    Ok(world.cluster.lab.pod(&format!("{NAMESPACE}/{name}"))?.addresses().to_vec())
}

/// Fails if any probe is answered: the policy is there, and forbids what the attack tries.
fn forbidden(world: &World, probes: &[Probe]) -> Result<()> {
    for (probe, outcome) in probes.iter().zip(world.cluster.lab.probe_all(probes, DEFAULT_TIMEOUT)?)
    {
        ensure!(!outcome.is_open(), "{probe} must be forbidden, and is {outcome}");
    }
    Ok(())
}

/// The same probes from any port, as new flows.
fn anew(probes: &[Probe]) -> Vec<Probe> {
    probes.iter().map(|probe| Probe { source_port: None, ..probe.clone() }).collect()
}

/// Fails unless each probe is answered: what follows could show nothing else.
fn control(world: &World, probes: &[Probe]) -> Result<()> {
    let limit = Duration::from_secs(10);
    for (probe, state) in probes.iter().zip(until(world, probes, &Expected::Open, limit)?) {
        ensure!(state.agrees, "{probe} must be open before, and is {}", state.outcome);
    }
    Ok(())
}

fn until(
    world: &World,
    probes: &[Probe],
    expected: &Expected,
    limit: Duration,
) -> Result<Vec<Settled>> {
    let all: Vec<_> = probes.iter().map(|probe| (probe.clone(), expected.clone())).collect();
    world.cluster.lab.probe_until(&all, DEFAULT_TIMEOUT, limit)
}

/// Sends each probe once.
fn once(world: &World, probes: &[Probe]) -> Result<Verdict> {
    let outcomes = world.cluster.lab.probe_all(probes, DEFAULT_TIMEOUT)?;
    let any = outcomes.iter().any(portcullis_lab::Outcome::is_open);
    Ok(if any { Verdict::Passes } else { Verdict::Dropped })
}

fn association(world: &mut World) -> Result<Verdict> {
    let probe = |to| Probe::sctp_init(mallory(), to, WEB).from_port(41_001);
    let probes: Vec<Probe> = addresses(world, "victim")?.into_iter().map(probe).collect();
    let peer = json!({"podSelector": {"matchLabels": {"app": "mallory"}}});
    let mut allow = policy("victim", "Ingress", &json!({"ingress": [{"from": [peer]}]}));
    allow["metadata"]["name"] = json!("for-a-while");
    world.cluster.write("for-a-while.json", &allow.to_string())?;
    world.cluster.settle(PATIENCE)?;
    control(world, &probes)?;
    world.cluster.remove("for-a-while.json")?;
    world.cluster.settle(PATIENCE)?;
    forbidden(world, &anew(&probes))?;
    once(world, &probes)
}

fn reused_address(world: &mut World) -> Result<Verdict> {
    let tenant = PodSpec::new(NAMESPACE, "tenant", "n1").listen(Listener::udp(WEB));
    let addresses = world.cluster.lab.add_pod(tenant)?.addresses().to_vec();
    let manifest = |name| pod_manifest(name, "n1", "2026-03-03", &addresses).to_string();
    world.cluster.write("tenant.json", &manifest("tenant"))?;
    world.cluster.settle(PATIENCE)?;
    let probe = |to: &IpAddr| Probe::udp(mallory(), *to, WEB).from_port(41_002);
    let probes: Vec<Probe> = addresses.iter().map(probe).collect();
    control(world, &probes)?;

    world.cluster.lab.remove_pod(&format!("{NAMESPACE}/tenant"))?;
    world.cluster.remove("tenant.json")?;
    world.cluster.write("heir-policy.json", &policy("heir", "Ingress", &json!({})).to_string())?;
    world.cluster.settle(PATIENCE)?;
    let heir = PodSpec::new(NAMESPACE, "heir", "n1").listen(Listener::udp(WEB));
    let heir = addresses.iter().fold(heir, |pod, address| pod.address(*address));
    world.cluster.lab.add_pod(heir)?;
    world.cluster.write("heir.json", &manifest("heir"))?;
    world.cluster.settle(PATIENCE)?;
    forbidden(world, &anew(&probes))?;
    // The agent looks for the flow in a thread of its own, and again after ten seconds where that
    // failed.
    let start = Instant::now();
    loop {
        let verdict = once(world, &probes)?;
        if verdict == Verdict::Dropped {
            return Ok(verdict);
        }
        if start.elapsed() > Duration::from_secs(15) {
            // If it passes, these show why.
            let entries = world.cluster.lab.node("n1")?.shell(
                "for family in ipv4 ipv6; do conntrack -L -f $family -p udp -o id 2>&1; done",
            )?;
            let agent = world.cluster.agent("n1")?;
            agent.wait_for("this fails with the whole log", Duration::ZERO).context(entries)?;
        }
    }
}

fn accept_in_front(world: &mut World) -> Result<Verdict> {
    let probe = |to| Probe::udp(mallory(), to, WEB);
    let probes: Vec<Probe> = addresses(world, "victim")?.into_iter().map(probe).collect();
    let each = |script: &str| {
        let all = world.cluster.lab.families().each().iter().map(|family: &Family| {
            script.replace("IPTABLES", world.cluster.lab.iptables().program(*family))
        });
        let script = all.collect::<Vec<String>>().join("\n");
        world.cluster.lab.node("n1")?.shell(&script)
    };
    forbidden(world, &probes)?;
    let mut verdict = Verdict::Dropped;
    // Again and again: an agent may repair it a few times only.
    for _ in 0..5 {
        each("IPTABLES -w -I FORWARD 1 -j ACCEPT")?;
        if once(world, &probes)? == Verdict::Passes {
            verdict = Verdict::Passes;
        }
    }
    each("while IPTABLES -w -D FORWARD -j ACCEPT 2>/dev/null; do :; done")?;
    Ok(verdict)
}

fn first_view(world: &mut World) -> Result<Verdict> {
    let probe = |to| Probe::udp(mallory(), to, WEB);
    let probes: Vec<Probe> = addresses(world, "victim")?.into_iter().map(probe).collect();
    forbidden(world, &probes)?;
    world.cluster.take_agent("n1")?.kill()?;
    for family in world.cluster.lab.families().each() {
        let iptables = world.cluster.lab.iptables().program(*family);
        world
            .cluster
            .lab
            .node("n1")?
            .shell(&format!("{iptables}-save | grep -v PORTCULLIS | {iptables}-restore -w 20"))?;
    }
    world.cluster.lab.node("n1")?.shell(
        "for set in $(ipset list -name | grep '^PORTCULLIS'); do ipset destroy $set; done
         nft list tables | grep portcullis | while read -r table; do nft delete $table; done",
    )?;
    control(world, &probes)?;
    // It looks for an API server where there is none, and so never has a first view.
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    let nowhere = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]});
    fs::write(&kubeconfig, nowhere.to_string())?;
    let setup = AgentSetup { kubeconfig: Some(kubeconfig), ..AgentSetup::default() };
    let agent = world.cluster.spawn_agent_as("n1", &setup)?;
    agent.wait_for("watching", PATIENCE)?;
    let closed = until(world, &probes, &Expected::Closed, Duration::from_secs(2))?;
    let verdict = once(world, &probes)?;
    ensure!(verdict == Verdict::Passes || closed.iter().all(|state| state.agrees), "it wavers");
    world.cluster.put_agent(agent);
    Ok(verdict)
}
