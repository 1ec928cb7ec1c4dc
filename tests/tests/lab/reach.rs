//! Without rules of anybody's, everything reaches everything, in every shape of a lab.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Expected, Families, Family, ForwardPolicy, INTERNET_PORT,
    IptablesVariant, Lab, LabBuilder, NODE_PORT, Outcome, Probe, Protocol, ServiceSpec, Topology,
    Transport, Underlay, internet, pod_network,
};

use super::{PORT, PROTOCOLS, check, cluster, every_source, open, small};

const SERVICE_PORT: u16 = 80;
const NODE_SERVICE_PORT: u16 = 30080;

#[test]
fn everything_is_reached_on_bridges_over_host_routes() -> Result<()> {
    check_shape(cluster().topology(Topology::Bridge).underlay(Underlay::HostGw))
}

#[test]
fn everything_is_reached_on_bridges_over_vxlan() -> Result<()> {
    let legacy = IptablesVariant::Legacy;
    check_shape(cluster().topology(Topology::Bridge).underlay(Underlay::Vxlan).iptables(legacy))
}

#[test]
fn everything_is_reached_on_routes_over_host_routes() -> Result<()> {
    let legacy = IptablesVariant::Legacy;
    check_shape(cluster().topology(Topology::Routed).underlay(Underlay::HostGw).iptables(legacy))
}

#[test]
fn everything_is_reached_on_routes_over_vxlan() -> Result<()> {
    check_shape(cluster().topology(Topology::Routed).underlay(Underlay::Vxlan))
}

#[test]
fn everything_is_reached_when_nodes_drop_what_no_rule_accepts() -> Result<()> {
    check_shape(cluster().forward_policy(ForwardPolicy::DropButPods))?;
    let routed = cluster().topology(Topology::Routed).iptables(IptablesVariant::Legacy);
    check_shape(routed.forward_policy(ForwardPolicy::DropButPods))
}

#[test]
fn everything_is_reached_in_a_single_family() -> Result<()> {
    for families in [Families::V4, Families::V6] {
        for (topology, underlay) in
            [(Topology::Bridge, Underlay::Vxlan), (Topology::Routed, Underlay::HostGw)]
        {
            check_shape(cluster().families(families).topology(topology).underlay(underlay))?;
        }
    }
    Ok(())
}

#[test]
fn the_internet_sees_nodes_and_pods_see_pods() -> Result<()> {
    for underlay in [Underlay::HostGw, Underlay::Vxlan] {
        let lab = small().underlay(underlay).build()?;
        for &family in lab.families().each() {
            let (one, far) = (lab.pod("a/one")?, lab.pod("a/far")?);
            let from = Endpoint::pod("a/one");
            let seen = |to, protocol, port| -> Result<IpAddr> {
                let probe = Probe::new(from.clone(), to, protocol, port);
                let seen = lab.observe_all(&[probe], DEFAULT_TIMEOUT)?;
                Ok(seen.first().and_then(|seen| seen.seen_from).context("not open")?.ip())
            };
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit] {
                let node = lab.node("n1")?.address(family)?;
                assert_eq!(seen(internet(family), protocol, INTERNET_PORT)?, node);
                assert_eq!(seen(far.address(family)?, protocol, PORT)?, one.address(family)?);
                let other = lab.node("n2")?.address(family)?;
                assert_eq!(seen(other, protocol, NODE_PORT)?, one.address(family)?);
            }
        }
    }
    Ok(())
}

#[test]
fn the_internet_reaches_pods_only_where_it_has_routes() -> Result<()> {
    for direct in [false, true] {
        let lab = small().direct_internet(direct).build()?;
        for &family in lab.families().each() {
            let far = lab.pod("a/far")?.address(family)?;
            let probe = Probe::tcp(Endpoint::Internet, far, PORT);
            let seen = lab.observe_all(&[probe], DEFAULT_TIMEOUT)?;
            let first = seen.first().context("no observation")?;
            if direct {
                assert_eq!(first.outcome, open("a/far"));
                assert_eq!(first.seen_from.map(|seen| seen.ip()), Some(internet(family)));
            } else {
                assert!(matches!(first.outcome, Outcome::Unreachable(_)), "{}", first.outcome);
            }
        }
    }
    Ok(())
}

#[test]
fn services_are_replaced_spread_over_backends_and_removed() -> Result<()> {
    let mut lab = small().build()?;
    let mut service = web(&lab, &["a/one", "a/far"])?;
    lab.add_service(service.clone())?;
    let to = service.cluster_ips.clone();
    let probes: Vec<Probe> = (0..64)
        .map(|i| Probe::tcp(Endpoint::pod("a/two"), to[i % to.len()], SERVICE_PORT))
        .collect();
    let outcomes = lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
    assert!(outcomes.iter().all(Outcome::is_open), "{outcomes:?}");
    for backend in ["a/one", "a/far"] {
        assert!(outcomes.contains(&open(backend)), "{backend} was never chosen of two");
    }
    service.backends = lab.pod("a/far")?.addresses().to_vec();
    lab.add_service(service.clone())?;
    check(&lab, &probes.iter().map(|p| (p.clone(), open("a/far"))).collect::<Vec<_>>())?;
    service.backends.clear();
    lab.add_service(service.clone())?;
    check(&lab, &probes.iter().map(|p| (p.clone(), Outcome::Refused)).collect::<Vec<_>>())?;
    lab.remove_service(&service.name)?;
    let rules = lab.node("n1")?.shell("iptables-nft-save")?;
    assert!(!rules.contains("KUBE-SVC-") && !rules.contains("KUBE-SEP-"), "{rules}");
    Ok(())
}

fn web(lab: &Lab, backends: &[&str]) -> Result<ServiceSpec> {
    let mut addresses = Vec::new();
    for backend in backends {
        addresses.extend_from_slice(lab.pod(backend)?.addresses());
    }
    Ok(ServiceSpec {
        name: "web".into(),
        cluster_ips: vec!["10.96.0.10".parse()?, "fd96::10".parse()?],
        port: SERVICE_PORT,
        target_port: PORT,
        protocol: Transport::Tcp,
        node_port: Some(NODE_SERVICE_PORT),
        backends: addresses,
    })
}

/// Every pod and node probes every pod, node, the internet and services, in every protocol.
fn check_shape(shape: LabBuilder) -> Result<()> {
    let start = Instant::now();
    let mut lab = shape.build()?;
    let built = start.elapsed();
    let mut wanted = direct(&lab);
    wanted.extend(through_services(&mut lab)?);
    let start = Instant::now();
    check(&lab, &wanted)?;
    println!("built in {built:?}; {} probes in {:?}", wanted.len(), start.elapsed());
    Ok(())
}

fn direct(lab: &Lab) -> Vec<(Probe, Outcome)> {
    let mut targets: Vec<(IpAddr, u16, String)> = Vec::new();
    for pod in lab.pods().filter(|pod| !pod.is_host_network()) {
        targets.extend(pod.addresses().iter().map(|&to| (to, PORT, pod.key())));
    }
    for node in lab.nodes() {
        let who = format!("node/{}", node.name());
        targets.extend(node.addresses().iter().map(|&to| (to, NODE_PORT, who.clone())));
    }
    for &family in lab.families().each() {
        targets.push((internet(family), INTERNET_PORT, "internet".into()));
    }
    let mut wanted = Vec::new();
    for source in every_source(lab) {
        for (to, port, who) in &targets {
            for protocol in PROTOCOLS {
                let probe = Probe::new(source.clone(), *to, protocol, *port);
                wanted.push((probe, open(who)));
            }
        }
        for pod in lab.pods().filter(|pod| pod.is_host_network()) {
            for &to in pod.addresses() {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    wanted.push((Probe::new(source.clone(), to, protocol, PORT), open(pod.key())));
                }
            }
        }
    }
    wanted
}

/// One service a protocol; the backend is also a client of its own (hairpin).
fn through_services(lab: &mut Lab) -> Result<Vec<(Probe, Outcome)>> {
    let protocols = [
        (Protocol::Tcp, Transport::Tcp),
        (Protocol::Udp, Transport::Udp),
        (Protocol::SctpInit, Transport::Sctp),
    ];
    for (_, protocol) in protocols {
        let service =
            ServiceSpec { name: protocol.name().into(), protocol, ..web(lab, &["shop/p1"])? };
        lab.add_service(service)?;
    }
    let mut sources = every_source(lab);
    sources.push(Endpoint::Internet);
    let mut wanted = Vec::new();
    for source in sources {
        for &family in lab.families().each() {
            let virtual_ip: IpAddr = match family {
                Family::V4 => "10.96.0.10".parse()?,
                Family::V6 => "fd96::10".parse()?,
            };
            for (protocol, _) in protocols {
                if source != Endpoint::Internet {
                    let probe = Probe::new(source.clone(), virtual_ip, protocol, SERVICE_PORT);
                    wanted.push((probe, open("shop/p1")));
                }
                for node in lab.nodes() {
                    let to = node.address(family)?;
                    let probe = Probe::new(source.clone(), to, protocol, NODE_SERVICE_PORT);
                    wanted.push((probe, open("shop/p1")));
                }
            }
        }
    }
    Ok(wanted)
}

#[test]
fn the_networks_that_rules_name_hold_the_pods() -> Result<()> {
    let lab = small().build()?;
    for pod in lab.pods() {
        for &family in lab.families().each() {
            let address = pod.address(family)?;
            assert!(pod_network(family).contains(&address), "{address}");
            assert!(Expected::OpenAt(pod.key()).agrees(
                &lab.probe(&Probe::tcp(Endpoint::pod(pod.key()), address, PORT), DEFAULT_TIMEOUT)?
            ));
        }
    }
    Ok(())
}
