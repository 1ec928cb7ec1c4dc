//! The interpreter against the kernel: the same rules, the same packets, the same rules matched.
//!
//! Each test loads rules into a router, reads them back, sends packets through it one by one,
//! and holds what every rule counted against the way that the interpreter says the packet took.
//! Needs root, `iptables-legacy`, `iptables-nft`, `ipset` and `ip`.

mod bytes;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_interpreter::{
    ConntrackState, Family, Packet, Sets, Table, Tables, TcpFlags, Transport, Verdict,
};
use socket2::Socket;

use wire::Wire;

const RULES: &str = include_str!("rules.txt");
const SETS: &str = include_str!("sets.txt");
/// How long a packet may take until every counter shows it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The port that the raw table takes out of conntrack's sight.
const UNTRACKED_PORT: u16 = 7777;

/// The rules are written for IPv4; this makes IPv6 of them.
const TO_IPV6: [(&str, &str); 14] = [
    ("10.9.0.1/255.0.255.255", "fd00:9::1/ffff:0:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("10.1.0.0/16", "fd00:1::/32"),
    ("10.2.0.0/16", "fd00:2::/32"),
    ("10.2.0.0/24", "fd00:2::/120"),
    ("10.1.0.", "fd00:1::"),
    ("10.2.0.", "fd00:2::"),
    ("family inet", "family inet6"),
    ("-p icmp -m icmp", "-p ipv6-icmp -m icmp6"),
    ("--icmp-type 8", "--icmpv6-type 128"),
    ("--icmp-type 3/3", "--icmpv6-type 1/4"),
    ("--icmp-type 3", "--icmpv6-type 1"),
    ("! -p icmp ", "! -p ipv6-icmp "),
    ("icmp:", "icmpv6:"),
    ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
];

#[test]
fn legacy_rules_match_ipv4_packets_as_interpreted() -> Result<()> {
    check("legacy", Family::V4)
}

#[test]
fn legacy_rules_match_ipv6_packets_as_interpreted() -> Result<()> {
    check("legacy", Family::V6)
}

#[test]
fn nft_rules_match_ipv4_packets_as_interpreted() -> Result<()> {
    check("nft", Family::V4)
}

#[test]
fn nft_rules_match_ipv6_packets_as_interpreted() -> Result<()> {
    check("nft", Family::V6)
}

#[test]
fn nf_tables_refuses_the_depth_that_the_interpreter_refuses() -> Result<()> {
    let wire = Wire::new("depth")?;
    for command in ["-j", "-g"] {
        for depth in [15, 16] {
            let chains: Vec<_> = (0..depth).map(|step| format!(":C{step} - [0:0]")).collect();
            let steps: Vec<_> =
                (1..depth).map(|step| format!("-A C{} {command} C{step}", step - 1)).collect();
            let text = format!(
                "*filter\n:FORWARD ACCEPT [0:0]\n{}\n-A FORWARD {command} C0\n{}\nCOMMIT\n",
                chains.join("\n"),
                steps.join("\n")
            );
            let loads = wire.run("iptables-nft-restore", &text).is_ok();
            assert_eq!(Tables::parse(&text).is_ok(), loads, "{command} {depth}");
            assert_eq!(loads, depth == 15, "{command} {depth}");
        }
    }
    Ok(())
}

/// One packet to send, and the packet it is an error about.
struct Case {
    packet: Packet,
    about: Option<Packet>,
}

fn check(variant: &str, family: Family) -> Result<()> {
    let name = format!("{variant}-{family}").to_lowercase();
    let wire = Wire::new(&name)?;
    let tool = match family {
        Family::V4 => format!("iptables-{variant}"),
        Family::V6 => format!("ip6tables-{variant}"),
    };
    wire.run("ipset restore", &translate(SETS, family))?;
    wire.run(&format!("{tool}-restore"), &translate(RULES, family))?;
    let save = format!("{tool}-save -c");
    let tables = Tables::parse(&wire.run(&save, "")?)?;
    let sets = Sets::parse(&wire.run("ipset save", "")?)?;
    ensure!(tables.family() == Some(family), "the heading tells the family");
    let left = wire.socket("left", family)?;
    let right = wire.socket("right", family)?;
    let mut verdicts = BTreeMap::<Verdict, usize>::new();
    let mut matched: BTreeMap<_, _> =
        counts(&tables).into_iter().map(|(chain, n)| (chain, vec![0; n.len()])).collect();
    for case in cases(family) {
        let judgement = tables.judge(&sets, "FORWARD", &case.packet)?;
        let mut want = Counts::read(&wire, &save, &case.packet)?;
        for hit in judgement.path.clone() {
            let chain = (hit.table, hit.chain);
            let rules = want.rules.get_mut(&chain).context("a chain that matched")?;
            rules[hit.rule - 1] += 1;
            let seen = matched.get_mut(&chain).context("a chain that matched")?;
            seen[hit.rule - 1] += 1;
        }
        want.forwarded += u64::from(judgement.verdict == Verdict::Accept);
        *verdicts.entry(judgement.verdict).or_default() += 1;
        let from_left = case.packet.in_interface.as_deref() == Some("in0");
        send(&case, if from_left { &left } else { &right })?;
        let start = Instant::now();
        let mut got = Counts::read(&wire, &save, &case.packet)?;
        while got != want && start.elapsed() < PATIENCE {
            got = Counts::read(&wire, &save, &case.packet)?;
        }
        assert_eq!(got, want, "{name}: {:?}: {judgement}", case.packet);
    }
    println!("{name}: {verdicts:?}");
    assert_eq!(verdicts.len(), 3, "accepted, dropped and rejected: {verdicts:?}");
    assert_every_rule_tells_packets_apart(&matched, verdicts.values().sum())
}

/// What each rule counted, but for those that only count what was forwarded.
fn counts(tables: &Tables) -> BTreeMap<(Table, String), Vec<u64>> {
    let counts =
        tables.packet_counts().into_iter().filter(|((_, chain), _)| *chain != "POSTROUTING");
    counts.map(|((table, chain), counts)| ((table, chain.to_owned()), counts)).collect()
}

/// A rule that matched nothing, or everything in MATCHES, would show nothing.
fn assert_every_rule_tells_packets_apart(
    matched: &BTreeMap<(Table, String), Vec<u64>>,
    packets: usize,
) -> Result<()> {
    let packets = u64::try_from(packets)?;
    for ((_, chain), rules) in matched {
        for (index, &count) in rules.iter().enumerate() {
            assert!(count > 0, "no packet for {chain} {}", index + 1);
            assert!(chain != "MATCHES" || count < packets, "only matches: {chain} {}", index + 1);
        }
    }
    Ok(())
}

/// What the kernel counted.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    rules: BTreeMap<(Table, String), Vec<u64>>,
    /// Packets that left by the packet's interface, in mangle's POSTROUTING, which also sees
    /// what the router says by itself: so only from the other side's addresses.
    forwarded: u64,
}

impl Counts {
    fn read(wire: &Wire, save: &str, packet: &Packet) -> Result<Self> {
        let text = wire.run(save, "")?;
        let tables = Tables::parse(&text)?;
        let out = packet.out_interface.as_deref().context("a forwarded packet")?;
        let ending = format!(" -o {out}");
        let counter = |line: &&str| line.contains(" -A POSTROUTING ") && line.ends_with(&ending);
        let line = text.lines().find(counter).context("a counter of forwarded packets")?;
        let forwarded = line.trim_start_matches('[').split(':').next().context("a counter")?;
        Ok(Self { rules: counts(&tables), forwarded: forwarded.parse()? })
    }
}

fn translate(text: &str, family: Family) -> String {
    match family {
        Family::V4 => text.to_owned(),
        Family::V6 => TO_IPV6.iter().fold(text.to_owned(), |text, (v4, v6)| text.replace(v4, v6)),
    }
}

fn send(case: &Case, socket: &Socket) -> Result<()> {
    let bytes = bytes::of(&case.packet, case.about.as_ref());
    wire::send(socket, case.packet.destination, &bytes)
}

fn address(family: Family, net: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => [10, net, 0, host].into(),
        Family::V6 => [0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)].into(),
    }
}

/// Packets in the order in which conntrack must see them.
fn cases(family: Family) -> Vec<Case> {
    let there = |from: u8, to: u8, transport| {
        let (source, destination) = (address(family, 1, from), address(family, 2, to));
        Packet::new(source, destination, transport).between("in0", "out0")
    };
    let back = |from: u8, to: u8, transport| {
        let (source, destination) = (address(family, 2, from), address(family, 1, to));
        Packet::new(source, destination, transport).between("out0", "in0")
    };
    let tcp = |source_port, destination_port, flags| Transport::Tcp {
        source_port,
        destination_port,
        flags,
    };
    let udp = |source_port, destination_port| Transport::Udp { source_port, destination_port };
    let sctp = |source_port, destination_port, init| Transport::Sctp {
        source_port,
        destination_port,
        init,
    };
    let answer = TcpFlags::SYN.with(TcpFlags::ACK);
    let (echo, unreachable) = match family {
        Family::V4 => (8, (3, 3)),
        Family::V6 => (128, (1, 4)),
    };
    let icmp = |kind, code| Transport::Icmp { kind, code };
    let established = ConntrackState::Established;
    let mut packets = vec![
        there(1, 1, Transport::syn(1000, 80)),
        back(1, 1, tcp(80, 1000, answer)).in_state(established),
        there(1, 1, tcp(1000, 80, TcpFlags::ACK)).in_state(established),
        there(1, 1, tcp(1001, 80, TcpFlags::NONE)).in_state(ConntrackState::Invalid),
        there(1, 1, tcp(1002, 80, TcpFlags::ALL)).in_state(ConntrackState::Invalid),
        there(1, 1, udp(1000, 53)),
        back(1, 1, udp(53, 1000)).in_state(established),
        there(1, 1, udp(1000, UNTRACKED_PORT)).in_state(ConntrackState::Untracked),
        there(1, 1, icmp(echo, 0)),
        there(3, 9, icmp(echo, 0)),
        there(1, 1, Transport::Other(47)),
        there(1, 1, sctp(1000, 80, true)),
        there(1, 1, sctp(1000, 3868, true)),
        there(1, 1, sctp(1001, 3868, false)),
        there(1, 2, Transport::syn(1000, 443)),
        back(1, 2, Transport::syn(80, 80)),
    ];
    for from in 1..=4 {
        for (to, port) in [(1, 81), (2, 80), (3, 80), (4, 8080), (5, 443), (6, 1), (7, 65535)] {
            packets.push(there(from, to, Transport::syn(2000, port)));
            packets.push(there(from, to, udp(2000, port)));
        }
    }
    let mut cases: Vec<_> =
        packets.into_iter().map(|packet| Case { packet, about: None }).collect();
    let (kind, code) = unreachable;
    let error = back(9, 1, icmp(kind, code)).in_state(ConntrackState::Related);
    cases.push(Case { packet: error, about: Some(there(1, 1, udp(1000, 53))) });
    cases
}
