//! Rules that a test inserts are seen as what they do: DROP, REJECT, and its ICMP errors.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Expected, Family, IptablesVariant, Lab, Outcome, Probe, Protocol,
    Topology,
};

use super::{PORT, PROTOCOLS, between, check_between, open, small};

const SHAPES: [(Topology, IptablesVariant); 4] = [
    (Topology::Bridge, IptablesVariant::Legacy),
    (Topology::Bridge, IptablesVariant::Nft),
    (Topology::Routed, IptablesVariant::Legacy),
    (Topology::Routed, IptablesVariant::Nft),
];

/// Runs `iptables -w ARGUMENTS` in both families of a node.
fn iptables(lab: &Lab, node: &str, arguments: &str) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let program = lab.iptables().program(family);
        lab.node(node)?.shell(&format!("{program} -w {arguments}"))?;
    }
    Ok(())
}

#[test]
fn a_drop_is_seen_as_dropped_on_one_node_and_between_nodes() -> Result<()> {
    for (topology, variant) in SHAPES {
        let lab = small().topology(topology).iptables(variant).build()?;
        iptables(&lab, "n1", "-I FORWARD -p tcp -j DROP")?;
        iptables(&lab, "n1", "-I FORWARD -p sctp -j DROP")?;
        for to in ["a/two", "a/far"] {
            check_between(&lab, "a/one", to, Protocol::Tcp, &Outcome::Dropped)?;
            check_between(&lab, "a/one", to, Protocol::SctpInit, &Outcome::Dropped)?;
            check_between(&lab, "a/one", to, Protocol::Udp, &open(to))?;
            check_between(&lab, "a/one", to, Protocol::Icmp, &open(to))?;
        }
    }
    Ok(())
}

#[test]
fn a_reject_is_seen_as_refused_in_every_protocol() -> Result<()> {
    for (topology, variant) in SHAPES {
        let lab = small().topology(topology).iptables(variant).build()?;
        // Not ICMPv6 as a whole: that would cut the bridge's neighbour discovery.
        for protocol in ["tcp", "udp", "sctp"] {
            iptables(&lab, "n1", &format!("-I FORWARD -p {protocol} -j REJECT"))?;
        }
        for protocol in PROTOCOLS {
            let expected = match protocol {
                Protocol::Icmp => open("a/far"),
                _ => Outcome::Refused,
            };
            check_between(&lab, "a/one", "a/far", protocol, &expected)?;
        }
    }
    Ok(())
}

#[test]
fn a_prohibited_destination_is_unreachable() -> Result<()> {
    let lab = small().build()?;
    lab.node("n1")?.shell(
        "iptables-nft -I FORWARD -p tcp -j REJECT --reject-with icmp-admin-prohibited
         ip6tables-nft -I FORWARD -p tcp -j REJECT --reject-with icmp6-adm-prohibited",
    )?;
    let outcomes =
        lab.probe_all(&between(&lab, "a/one", "a/far", Protocol::Tcp)?, DEFAULT_TIMEOUT)?;
    let (v4, v6) = (Errno::EHOSTUNREACH, Errno::EACCES);
    assert_eq!(outcomes, [Outcome::Unreachable(v4), Outcome::Unreachable(v6)]);
    Ok(())
}

#[test]
fn probes_are_repeated_until_they_agree() -> Result<()> {
    let lab = small().build()?;
    iptables(&lab, "n1", "-I FORWARD -p tcp -j DROP")?;
    let wanted: Vec<_> = between(&lab, "a/one", "a/far", Protocol::Tcp)?
        .into_iter()
        .map(|probe| (probe, Expected::OpenAt("a/far".into())))
        .collect();
    let timeout = Duration::from_millis(50);
    let early = lab.probe_until(&wanted, timeout, Duration::from_millis(100))?;
    assert!(early.iter().all(|probe| !probe.agrees && probe.attempts > 1), "{early:?}");
    let settled = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            iptables(&lab, "n1", "-D FORWARD -p tcp -j DROP")
        });
        let settled = lab.probe_until(&wanted, timeout, Duration::from_secs(5));
        opening.join().map(|deleted| deleted.and(settled))
    });
    let settled = settled.expect("the thread does not panic")?;
    assert!(settled.iter().all(|probe| probe.agrees && probe.attempts > 1), "{settled:?}");
    Ok(())
}

#[test]
fn closed_ports_are_refused() -> Result<()> {
    let lab = small().build()?;
    let mut wanted = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::SctpInit] {
        for mut probe in between(&lab, "a/one", "a/far", protocol)? {
            probe.port = 9;
            wanted.push((probe, Outcome::Refused));
        }
    }
    super::check(&lab, &wanted)
}

/// Why a dataplane must let neighbour discovery pass: on a bridge it is forwarded IPv6.
#[test]
fn neighbour_discovery_on_a_bridge_passes_the_forward_chain() -> Result<()> {
    for variant in [IptablesVariant::Legacy, IptablesVariant::Nft] {
        let lab = small().iptables(variant).build()?;
        let program = variant.program(Family::V6);
        let node = lab.node("n1")?;
        node.shell(&format!("{program} -w -I FORWARD -p icmpv6 -j DROP"))?;
        let to = lab.pod("a/two")?.address(Family::V6)?;
        let probe = Probe::tcp(Endpoint::pod("a/one"), to, PORT);
        assert_eq!(lab.probe(&probe, DEFAULT_TIMEOUT)?, Outcome::Dropped);
        node.shell(&format!("{program} -w -D FORWARD -p icmpv6 -j DROP"))?;
        let wanted = [(probe, Expected::Open)];
        let settled = lab.probe_until(&wanted, DEFAULT_TIMEOUT, Duration::from_secs(5))?;
        assert!(settled.iter().all(|probe| probe.agrees), "{settled:?}");
    }
    Ok(())
}
