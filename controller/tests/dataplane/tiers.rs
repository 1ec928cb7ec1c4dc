//! Real packets through tiers and past policies in audit: what passes, what is counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Rule, Target};
use policy_engine::direction::Direction;
use policy_engine::ruleset::DEPTH_MAX;
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::denial::{Denial, Outcome};
use portcullis_controller::dataplane::{AcceptAction, Dataplane, DenyAction, LogGroup, Options};

use crate::netns::Netns;
use crate::packets::{Lab, addresses};
use crate::world::{World, allow, ip, rules_changed, tcp};
use crate::{command, each_variant};

pub fn apply(node: &Netns, dataplane: &mut Dataplane, world: &World) {
    node.enter(|| dataplane.enforce(&world.compiled, &rules_changed()).unwrap());
}

/// Packets counted by kind.
pub fn counted(node: &Netns, dataplane: &mut Dataplane) -> BTreeMap<String, u64> {
    let counts = node.enter(|| dataplane.denial_counts().unwrap());
    let counts = counts.into_iter().filter(|(_, counts)| counts.packets > 0);
    counts.map(|(kind, counts)| (name(kind), counts.packets)).collect()
}

fn name(kind: Denial) -> String {
    format!("{} {} {}", kind.outcome.as_str(), kind.direction, kind.cause.as_str())
}

fn to_port(port: u16, target: Target) -> Rule {
    Rule { matches: allow(tcp(&[(port, port)]), None, CidrSet::everything()), target }
}

#[test]
fn the_first_tier_that_decides_does() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let options = Options { variant, deny: DenyAction::Reject, ..Options::default() };
        let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        let mut world = World::default();
        let ingress = Direction::Ingress;
        let deny = |port| to_port(port, Target::Deny);
        let below = vec![to_port(84, Target::Allow)];
        let default = Target::Next(world.tier(ingress, Tier::Default, below, Target::Deny));
        let rules = vec![to_port(82, Target::Allow), deny(83)];
        let baseline = Target::Next(world.tier(ingress, Tier::Baseline, rules, default));
        // Passed on before the Deny behind it.
        let rules = vec![to_port(80, Target::Allow), to_port(82, baseline), deny(81), deny(82)];
        let admin = world.tier(ingress, Tier::Admin, rules, baseline);
        world.endpoint(ip(addresses(family).1), admin);
        apply(&lab.node, &mut dataplane, &world);
        let reached: Vec<u16> = (80..=85).filter(|port| lab.a_reaches_b(family, *port)).collect();
        assert_eq!(reached, [80, 82, 84]);
        let expected =
            ["Denied Ingress Admin", "Denied Ingress Baseline", "Denied Ingress Default"];
        // Rejected: each was tried once.
        let expected: BTreeMap<_, _> = expected.map(|kind| (kind.to_owned(), 1)).into();
        assert_eq!(counted(&lab.node, &mut dataplane), expected);
    });
}

#[test]
fn the_kernel_accepts_as_many_chains_in_a_row_as_there_can_be() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (_, b) = addresses(family);
        let options = Options { variant, deny: DenyAction::Reject, ..Options::default() };
        let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        let mut world = World::default();
        let (ingress, mut next) = (Direction::Ingress, Target::Deny);
        let ports = 80..80 + u16::try_from(DEPTH_MAX).unwrap();
        let mut top = None;
        for port in ports.clone() {
            let tier = Tier::NetworkPolicy;
            let ruleset = world.tier(ingress, tier, vec![to_port(port, Target::Allow)], next);
            (next, top) = (Target::Next(ruleset), Some(ruleset));
        }
        // So many addresses beside it that the tree of addresses has all its levels.
        for host in 0..=255 {
            let beside = match ip(b) {
                IpAddr::V4(b) => {
                    let [first, second, third, _] = b.octets();
                    IpAddr::from([first, second, third, host])
                }
                IpAddr::V6(b) => {
                    let mut octets = b.octets();
                    octets[15] = host;
                    IpAddr::from(octets)
                }
            };
            if beside != ip(addresses(family).0) {
                world.endpoint(beside, top.unwrap());
            }
        }
        apply(&lab.node, &mut dataplane, &world);
        assert!(!dataplane.has_refusals(), "{:?}", dataplane.denied());
        let reached: Vec<u16> = (79..88).filter(|port| lab.a_reaches_b(family, *port)).collect();
        assert_eq!(reached, ports.collect::<Vec<_>>());
        let denied = BTreeMap::from([("Denied Ingress NetworkPolicy".to_owned(), 3)]);
        assert_eq!(counted(&lab.node, &mut dataplane), denied);
    });
}

#[test]
fn audit_counts_what_it_would_deny_and_lets_it_pass() {
    each_variant(|variant, family| {
        for accept in [AcceptAction::Return, AcceptAction::Accept] {
            let lab = Lab::new();
            let (a, b) = addresses(family);
            let options =
                Options { variant, accept, deny: DenyAction::Reject, ..Options::default() };
            let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
            let mut world = World::default();
            // In force: b may be reached on 80 and 81. In audit: on 80, and by nobody from a.
            let ingress = Direction::Ingress;
            let both = allow(tcp(&[(80, 81)]), None, CidrSet::everything());
            let enforced = world.ruleset(ingress, vec![both]);
            let audited = world.ruleset(ingress, vec![to_port(80, Target::Allow).matches]);
            let nowhere = world.tier(Direction::Egress, Tier::Default, vec![], Target::Deny);
            world.endpoint(ip(b), enforced).audit(ip(b), audited).audit(ip(a), nowhere);
            apply(&lab.node, &mut dataplane, &world);
            if accept == AcceptAction::Accept {
                // What comes back to FORWARD is lost.
                lab.node.sh(&format!("{} -A FORWARD -j REJECT", command(variant, family)));
            }
            assert_eq!([80, 81, 82].map(|port| lab.a_reaches_b(family, port)), [true, true, false]);
            let expected = [
                ("Denied Ingress NetworkPolicy", 1),
                ("WouldDeny Egress Default", 3),
                ("WouldDeny Ingress NetworkPolicy", 1),
            ];
            let expected: BTreeMap<_, _> = expected.map(|(k, n)| (k.to_owned(), n)).into();
            assert_eq!(counted(&lab.node, &mut dataplane), expected, "{accept:?}");
        }
    });
}

/// Policies in audit accept nothing either, whatever the accept action.
#[test]
fn a_pod_only_in_audit_is_not_one_of_those_whose_packets_are_accepted() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let options = Options { variant, accept: AcceptAction::Accept, ..Options::default() };
        let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        lab.node.sh(&format!("{} -P FORWARD DROP", command(variant, family)));
        let mut world = World::default();
        let audited = world.ruleset(Direction::Ingress, vec![to_port(80, Target::Allow).matches]);
        world.audit(ip(addresses(family).1), audited);
        apply(&lab.node, &mut dataplane, &world);
        assert!(!lab.a_reaches_b(family, 80), "others drop it, and go on to");
    });
}

/// A limit that has no room for another sender drops the packet on the spot: where it is to be
/// dropped anyway, and where it was counted.
#[test]
fn floods_are_counted_in_full_and_drop_nothing_in_audit() {
    const PACKETS: u64 = 1_000;
    each_variant(|variant, family| {
        for outcome in Outcome::ALL {
            let lab = Lab::new();
            let (a, b) = addresses(family);
            let options = Options { variant, ..Options::default() };
            let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
            let mut world = World::default();
            let none = world.ruleset(Direction::Ingress, vec![]);
            match outcome {
                Outcome::Denied => world.endpoint(ip(b), none),
                Outcome::WouldDeny => world.audit(ip(b), none),
            };
            apply(&lab.node, &mut dataplane, &world);
            let any = if family == Family::V4 { "0.0.0.0" } else { "::" };
            let receiver = lab.b.enter(|| UdpSocket::bind((any, 9)).unwrap());
            // A socket each: a new connection for conntrack.
            for _ in 0..PACKETS {
                lab.a.enter(|| {
                    let sender = UdpSocket::bind((ip(a), 0)).unwrap();
                    sender.send_to(b"x", (ip(b), 9)).unwrap();
                });
            }
            let counts = counted(&lab.node, &mut dataplane);
            let kind = format!("{} Ingress NetworkPolicy", outcome.as_str());
            assert_eq!(counts, BTreeMap::from([(kind, PACKETS)]));
            let save = lab.node.sh(&format!("{}-save -c -t mangle", command(variant, family)));
            let logged = save.lines().find(|line| line.contains("-j NFLOG")).unwrap();
            let logged: u64 = logged[1..].split(':').next().unwrap().parse().unwrap();
            assert!((20..PACKETS / 2).contains(&logged), "of all, {logged} were logged");
            receiver.set_nonblocking(true).unwrap();
            let passed = receiver.recv(&mut [0]).is_ok();
            assert_eq!(passed, outcome == Outcome::WouldDeny);
        }
    });
}

/// An agent that was killed while it looked whether the kernel logs.
#[test]
fn a_probe_that_was_left_over_does_not_turn_the_log_off() {
    each_variant(|variant, family| {
        let node = Netns::new();
        let iptables = command(variant, family);
        let table = format!("{iptables} -t mangle");
        node.sh(&format!("{table} -N PORTCULLIS-PROBE; {table} -A PORTCULLIS-PROBE -j DROP"));
        let options = Options { variant, ..Options::default() };
        let dataplane = node.enter(|| Dataplane::open(options).unwrap());
        assert_eq!(dataplane.denial_log(), Some(LogGroup::default()));
        assert!(!node.sh(&format!("{iptables}-save")).contains("PROBE"));
    });
}

#[test]
fn the_longest_way_of_a_packet_is_not_too_long_for_the_kernel() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let options = Options { variant, ..Options::default() };
        let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        let mut world = World::default();
        for direction in Direction::BOTH {
            // Each tier has a group of its rules, from which the tier below decides.
            let mut below = Target::Deny;
            for tier in [Tier::Default, Tier::Baseline, Tier::Admin] {
                let group = world.tier(direction, tier, vec![to_port(80, Target::Allow)], below);
                let range = allow(tcp(&[(80, 90)]), None, CidrSet::everything());
                let rules = vec![Rule { matches: range, target: Target::Next(group) }];
                below = Target::Next(world.tier(direction, tier, rules, below));
            }
            let Target::Next(first) = below else { unreachable!() };
            // Addresses of a thousand pods, and some that have nothing in common with them.
            for number in 0..1_000_u32 {
                let [high, low] = [number / 250, number % 250 + 1];
                let address = match family {
                    Family::V4 => format!("10.{}.{high}.{low}", 200 + number % 3),
                    Family::V6 => format!("fd00:{:x}::{high:x}:{low:x}", number % 3 * 0x1000),
                };
                world.endpoint(ip(&address), first).audit(ip(&address), first);
            }
            world.endpoint(ip(addresses(family).1), first).audit(ip(addresses(family).1), first);
        }
        apply(&lab.node, &mut dataplane, &world);
        let reached: Vec<u16> = (79..=81).filter(|port| lab.a_reaches_b(family, *port)).collect();
        assert_eq!(reached, [80]);
    });
}
