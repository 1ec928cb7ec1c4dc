//! The small cluster that most faults are tried on, and the manifests that describe it.
//!
//! ```text
//! n1: web, stranger        n2: api (the server), near, lurker, other
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use crate::cluster::{Agent, Cluster};
use anyhow::{Context, Result, bail};
use portcullis_lab::{
    Behaviour, DEFAULT_TIMEOUT, Endpoint, Expected, IptablesVariant, Lab, LabBuilder, Listener,
    Node, Pod, PodSpec, Probe,
};
use serde_json::{Value, json};

/// How long anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The port that the policies of these tests are about.
pub const WEB: u16 = 80;
/// A second one, which they rarely allow.
pub const ADMIN: u16 = 81;
/// Sends back what it gets.
pub const ECHO: u16 = 7;
/// Resets each connection once it is open.
pub const RESET: u16 = 1001;
/// Resets when it is asked something.
pub const RESET_ON_DATA: u16 = 1002;
/// Ends the connection when it is asked something.
pub const CLOSE_ON_DATA: u16 = 1003;
/// Ends its own direction only.
pub const HALF_CLOSE: u16 = 1004;
/// Never answers and never ends.
pub const HOLD_OPEN: u16 = 1005;

/// The lab without agents.
#[must_use]
pub fn lab(variant: IptablesVariant) -> LabBuilder {
    let behaviours = [
        (ECHO, Behaviour::Echo),
        (RESET, Behaviour::ResetAfterAccept),
        (RESET_ON_DATA, Behaviour::ResetOnData),
        (CLOSE_ON_DATA, Behaviour::CloseOnData),
        (HALF_CLOSE, Behaviour::HalfClose),
        (HOLD_OPEN, Behaviour::HoldOpen),
    ];
    let server = |name| {
        let pod = PodSpec::new("shop", name, "n2");
        pod.listen(Listener::tcp(WEB)).listen(Listener::tcp(ADMIN))
    };
    let api = behaviours.iter().fold(server("api"), |pod, (port, behaviour)| {
        pod.listen(Listener::behaving(*port, *behaviour))
    });
    let client = |name, node| PodSpec::new("shop", name, node);
    let clients = [("web", "n1"), ("stranger", "n1"), ("near", "n2"), ("lurker", "n2")]
        .map(|(name, node)| client(name, node));
    Lab::builder().nodes(2).iptables(variant).pods(clients).pods([api, server("other")])
}

/// A node of a lab as the object that an API server has.
#[must_use]
pub fn node_object(node: &Node) -> Value {
    let address = |address| json!({"type": "InternalIP", "address": address});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
        "status": {"addresses": node.addresses().iter().map(address).collect::<Vec<_>>()}})
}

/// The cluster with its pods and nodes as manifests, without agents and policies. `flags` are those of
/// each agent.
///
/// # Errors
/// When the lab cannot be built.
pub fn shop(lab: LabBuilder, flags: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::new(lab.build()?, flags)?;
    let nodes = cluster.lab.nodes().map(node_object);
    cluster.write(
        "nodes.json",
        &json!({"apiVersion": "v1", "kind": "List", "items": nodes.collect::<Vec<_>>()})
            .to_string(),
    )?;
    for pod in cluster.lab.pods() {
        write_pod(&cluster, pod, pod.name())?;
    }
    Ok(cluster)
}

/// Writes the manifest of a pod, with the label `app`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_pod(cluster: &Cluster, pod: &Pod, app: &str) -> Result<()> {
    let ips: Vec<_> = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": pod.namespace(), "name": pod.name(), "labels": {"app": app}},
        "spec": {"nodeName": pod.node()}, "status": {"phase": "Running", "podIPs": ips}});
    cluster.write(&format!("pod-{}-{}.json", pod.namespace(), pod.name()), &manifest.to_string())
}

/// A policy for the ingress of `shop/{target}`: from pods with one of these `app`s, to these ports.
#[must_use]
pub fn allow(target: &str, apps: &[&str], ports: &[u16]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: shop, name: {target}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {target}}}}}\n  policyTypes: [Ingress]\n"
    );
    if !apps.is_empty() {
        let ports: Vec<String> = ports.iter().map(|port| format!("{{port: {port}}}")).collect();
        let _ = write!(
            text,
            "  ingress:\n  - from: [{{podSelector: {{matchExpressions: \
             [{{key: app, operator: In, values: [{}]}}]}}}}]\n    ports: [{}]\n",
            apps.join(", "),
            ports.join(", ")
        );
    }
    text
}

/// Does `change` and waits until each of these agents has it enforced.
///
/// # Errors
/// When the change fails, or an agent does not enforce it in time.
pub fn enforced<'a>(
    cluster: &Cluster,
    agents: impl IntoIterator<Item = &'a Agent>,
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    change()?;
    cluster.settle_on(agents, PATIENCE)
}

/// Probes of TCP connections from pods of the shop to pods of the shop, in each family.
///
/// # Errors
/// When there is no such pod.
pub fn probes(lab: &Lab, routes: &[(&str, &str, u16)]) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for (from, to, port) in routes {
        for address in lab.pod(&format!("shop/{to}"))?.addresses() {
            probes.push(Probe::tcp(Endpoint::pod(format!("shop/{from}")), *address, *port));
        }
    }
    Ok(probes)
}

/// Fails unless these routes become open and those closed, and stay so for one more round.
///
/// # Errors
/// When they do not, or probes cannot be sent.
pub fn check(
    lab: &Lab,
    when: &str,
    open: &[(&str, &str, u16)],
    closed: &[(&str, &str, u16)],
) -> Result<()> {
    let open = probes(lab, open)?.into_iter().map(|probe| (probe, Expected::Open));
    let closed = probes(lab, closed)?.into_iter().map(|probe| (probe, Expected::Closed));
    let all: Vec<_> = open.chain(closed).collect();
    for _ in 0..2 {
        let settled = lab.probe_until(&all, DEFAULT_TIMEOUT, Duration::from_secs(10))?;
        for ((probe, expected), state) in all.iter().zip(settled) {
            if !state.agrees {
                bail!("{when}: {probe} must be {expected:?}, and is {}", state.outcome);
            }
        }
    }
    let forbidden: Vec<Probe> =
        all.iter().filter(|(_, e)| *e == Expected::Closed).map(|(p, _)| p.clone()).collect();
    for (probe, outcome) in forbidden.iter().zip(lab.probe_all(&forbidden, DEFAULT_TIMEOUT)?) {
        if outcome.is_open() {
            bail!("{when}: {probe} must stay closed, and is {outcome}");
        }
    }
    Ok(())
}

/// Starts an agent and waits until it says that policies are enforced.
///
/// # Errors
/// When it does not.
pub fn start(cluster: &Cluster, node: &str) -> Result<Agent> {
    let agent = cluster.spawn_agent(node)?;
    agent.wait_for("policies are enforced", PATIENCE).context("start")?;
    Ok(agent)
}
