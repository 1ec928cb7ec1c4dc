//! The lab itself, on the real kernel: what every other kernel test takes for granted.
//!
//! Needs root, as the lab does.

use std::time::{Duration, Instant};

use anyhow::Result;
use portcullis_tests::lab::{
    DEFAULT_TIMEOUT, Endpoint, INTERNET_PORT, Lab, LabBuilder, Listener, NODE_PORT, Outcome,
    PodSpec, Probe, Protocol, Topology, Underlay, internet,
};

const PORT: u16 = 8080;

/// Three nodes and twelve pods that listen on TCP, UDP, SCTP; one of them on its node's network.
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

fn everywhere_to_everything(lab: &Lab) -> Result<Vec<(Probe, Outcome)>> {
    let mut sources: Vec<Endpoint> = lab.pods().map(|pod| Endpoint::pod(pod.key())).collect();
    sources.extend(lab.nodes().map(|node| Endpoint::node(node.name())));
    let mut targets = Vec::new();
    for pod in lab.pods() {
        for &address in pod.addresses() {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit, Protocol::Icmp] {
                let named = if pod.is_host_network() && protocol == Protocol::Icmp {
                    format!("node/{}", pod.node())
                } else {
                    pod.key()
                };
                if protocol != Protocol::SctpInit || !pod.is_host_network() {
                    targets.push((address, protocol, PORT, named));
                }
            }
        }
    }
    for node in lab.nodes() {
        for &address in node.addresses() {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit, Protocol::Icmp] {
                targets.push((address, protocol, NODE_PORT, format!("node/{}", node.name())));
            }
        }
    }
    for &family in lab.families().each() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit, Protocol::Icmp] {
            targets.push((internet(family), protocol, INTERNET_PORT, "internet".into()));
        }
    }
    let mut all = Vec::new();
    for source in sources {
        for (to, protocol, port, named) in &targets {
            let port = if *protocol == Protocol::Icmp { 0 } else { *port };
            let probe = Probe::new(source.clone(), *to, *protocol, port);
            all.push((probe, Outcome::Open(named.clone())));
        }
    }
    Ok(all)
}

fn assert_all(lab: &Lab, wanted: &[(Probe, Outcome)], timeout: Duration) -> Result<()> {
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

fn check_topology(topology: Topology, underlay: Underlay) -> Result<()> {
    let start = Instant::now();
    let lab = cluster().topology(topology).underlay(underlay).build()?;
    println!("{topology:?} over {underlay:?}: built in {:?}", start.elapsed());
    let wanted = everywhere_to_everything(&lab)?;
    let start = Instant::now();
    assert_all(&lab, &wanted, DEFAULT_TIMEOUT)?;
    println!("{} probes in {:?}", wanted.len(), start.elapsed());
    let start = Instant::now();
    drop(lab);
    println!("gone in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn everything_reaches_everything_on_bridges_and_host_routes() -> Result<()> {
    check_topology(Topology::Bridge, Underlay::HostGw)
}

#[test]
fn everything_reaches_everything_on_bridges_and_vxlan() -> Result<()> {
    check_topology(Topology::Bridge, Underlay::Vxlan)
}

#[test]
fn everything_reaches_everything_on_routes_and_host_routes() -> Result<()> {
    check_topology(Topology::Routed, Underlay::HostGw)
}

#[test]
fn everything_reaches_everything_on_routes_and_vxlan() -> Result<()> {
    check_topology(Topology::Routed, Underlay::Vxlan)
}
