//! The lab itself, on the real kernel: what every other kernel test takes for granted.
//!
//! Needs root, as the lab does; without it every test fails and says so.

use std::time::Duration;

use anyhow::Result;
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Lab, LabBuilder, Listener, Outcome, PodSpec, Probe, Protocol,
};

mod connections;
mod life;
mod reach;
mod rules;

/// The port of every pod's TCP, UDP and SCTP listener.
const PORT: u16 = 8080;
const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit, Protocol::Icmp];

/// Three nodes and twelve pods: `shop/p0` on n1 to `monitoring/p11` on n3, which has hostNetwork.
fn cluster() -> LabBuilder {
    let pods = (0..12).map(|i| {
        let node = format!("n{}", i % 3 + 1);
        let namespace = ["shop", "jobs", "monitoring"][i / 4];
        let pod = PodSpec::new(namespace, format!("p{i}"), node)
            .listen(Listener::tcp(PORT))
            .listen(Listener::udp(PORT));
        if i == 11 { pod.host_network() } else { pod.listen(Listener::sctp(PORT)) }
    });
    Lab::builder().pods(pods)
}

/// Two nodes; `a/one` and `a/two` on n1, `a/far` on n2.
fn small() -> LabBuilder {
    let pods = [("one", "n1"), ("two", "n1"), ("far", "n2")].map(|(name, node)| {
        PodSpec::new("a", name, node)
            .listen(Listener::tcp(PORT))
            .listen(Listener::udp(PORT))
            .listen(Listener::sctp(PORT))
    });
    Lab::builder().nodes(2).pods(pods)
}

fn every_source(lab: &Lab) -> Vec<Endpoint> {
    let pods = lab.pods().map(|pod| Endpoint::pod(pod.key()));
    pods.chain(lab.nodes().map(|node| Endpoint::node(node.name()))).collect()
}

/// One probe per family from one pod to another.
fn between(lab: &Lab, from: &str, to: &str, protocol: Protocol) -> Result<Vec<Probe>> {
    let addresses = lab.pod(to)?.addresses();
    let probe = |&to| Probe::new(Endpoint::pod(from), to, protocol, PORT);
    Ok(addresses.iter().map(probe).collect())
}

/// Sends the probes once and compares each with what it should find.
fn check(lab: &Lab, wanted: &[(Probe, Outcome)]) -> Result<()> {
    check_within(lab, wanted, DEFAULT_TIMEOUT)
}

fn check_within(lab: &Lab, wanted: &[(Probe, Outcome)], timeout: Duration) -> Result<()> {
    let probes: Vec<Probe> = wanted.iter().map(|(probe, _)| probe.clone()).collect();
    let outcomes = lab.probe_all(&probes, timeout)?;
    let wrong: Vec<String> = wanted
        .iter()
        .zip(outcomes)
        .filter(|((_, expected), outcome)| expected != outcome)
        .map(|((probe, expected), outcome)| format!("{probe}: {outcome}, not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} probes:\n{}", wrong.len(), wanted.len(), wrong.join("\n"));
    Ok(())
}

/// Sends one probe per family and expects the same of each.
fn check_between(
    lab: &Lab,
    from: &str,
    to: &str,
    protocol: Protocol,
    expected: &Outcome,
) -> Result<()> {
    let probes = between(lab, from, to, protocol)?;
    check(lab, &probes.into_iter().map(|probe| (probe, expected.clone())).collect::<Vec<_>>())
}

fn open(identity: impl Into<String>) -> Outcome {
    Outcome::Open(identity.into())
}
