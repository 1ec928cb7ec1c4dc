//! Every shape of rule reads back as it was written, so nothing is written twice.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Match, Rule, Target, TrafficMatch, Update};
use policy_engine::direction::Direction;
use policy_engine::id::RulesetId;
use policy_engine::port::Protocol;
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use portcullis_controller::dataplane::{
    AcceptAction, Dataplane, DenyAction, IptablesVariant, Options,
};

use crate::netns::Netns;
use crate::world::{World, allow, cidrs, ip, pod, rules_changed, service, settle, tcp, traffic};
use crate::{VARIANTS, each_variant, save};

/// All that a rule can be made of, in both directions and families.
pub fn every_shape() -> World {
    let mut world = World::default();
    let pods = world.set("pods", [pod("10.1.0.9"), pod("fd00:1::9"), pod("::1.2.3.4")]);
    let empty = world.set("empty", []);
    let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().flat_map(|protocol| {
        ["10.1.0.9", "fd00:1::9"].map(|address| service(address, protocol, 53))
    });
    let ports = world.set("ports", ports);
    let nets = || cidrs(&["10.8.0.0/16", "10.9.1.1/32", "fd00:8::/64", "fd00:9::1/128", "::/3"]);
    let one_net = || cidrs(&["192.168.0.0/16", "::1.2.0.0/112"]);
    let many: Vec<(u16, u16)> = (1..=40).map(|port| (port * 10, port * 10 + port % 3)).collect();
    let traffics = [
        TrafficMatch::Any,
        tcp(&[(0, 65_535)]),
        tcp(&[(80, 80)]),
        tcp(&[(0, 0)]),
        tcp(&[(0, 79), (81, 65_535)]),
        tcp(&many),
        traffic(Protocol::Udp, &[(53, 53)]),
        traffic(Protocol::Udp, &[(1, 65_535)]),
        traffic(Protocol::Sctp, &[(1, 3)]),
        traffic(Protocol::Sctp, &[(0, 65_535)]),
        traffic(Protocol::Sctp, &[(7, 7), (9, 10)]),
    ];
    for direction in Direction::BOTH {
        let mut rules = vec![Match::PeerPorts { set: ports }];
        for traffic in &traffics {
            let allow = |pods, cidrs| allow(traffic.clone(), pods, cidrs);
            rules.push(allow(Some(pods), CidrSet::default()));
            rules.push(allow(Some(empty), nets()));
            rules.push(allow(None, one_net()));
            rules.push(allow(None, cidrs(&["0.0.0.0/0"])));
            rules.push(allow(None, CidrSet::everything()));
        }
        let tiers = all_tiers(&mut world, direction, &rules);
        let full = world.ruleset(direction, rules);
        let none = world.ruleset(direction, vec![]);
        for host in 1..=20 {
            let id = [full, none, tiers][host % 3];
            for address in [format!("10.1.0.{host}"), format!("fd00:1::{host:x}")] {
                world.endpoint(ip(&address), id);
                if host % 4 == 0 {
                    world.audit(ip(&address), tiers);
                }
            }
        }
        // Only watched, with nothing enforced.
        world.audit(ip("10.1.0.30"), tiers).audit(ip("fd00:1::30"), tiers);
        world.endpoint(ip("::1.2.3.4"), none);
    }
    world
}

/// Admin above Baseline above Default, with every target.
fn all_tiers(world: &mut World, direction: Direction, matches: &[Match]) -> RulesetId {
    let rules = |targets: &[Target]| -> Vec<Rule> {
        let targets = targets.iter().copied().cycle();
        let rules = matches.iter().cloned().zip(targets);
        rules.map(|(matches, target)| Rule { matches, target }).collect()
    };
    let allow = rules(&[Target::Allow]);
    let default = Target::Next(world.tier(direction, Tier::Default, allow, Target::Deny));
    let mixed = rules(&[Target::Deny, Target::Allow, default]);
    let baseline = Target::Next(world.tier(direction, Tier::Baseline, mixed, default));
    let mixed = rules(&[baseline, Target::Deny, Target::Allow]);
    world.tier(direction, Tier::Admin, mixed, baseline)
}

#[test]
fn every_shape_of_rule_reads_back_as_it_was_written() {
    let world = every_shape();
    for variant in VARIANTS {
        for (deny, accept, allow_egress_to_own_node, log) in [
            (DenyAction::Drop, AcceptAction::Return, false, Some("65535")),
            (DenyAction::Reject, AcceptAction::Accept, true, Some("1")),
            (DenyAction::Reject, AcceptAction::Accept, false, None),
        ] {
            let denial_log = log.map(|group| group.parse().unwrap());
            let options = Options {
                variant,
                deny,
                accept,
                denial_log,
                allow_egress_to_own_node,
                ..Options::default()
            };
            let node = Netns::new();
            node.enter(|| {
                let open = || Dataplane::open(options.clone()).unwrap();
                let report = settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
                assert!(report.chains_changed > 20 && report.hooks_changed > 0, "{report:?}");
                let report = settle(&mut open(), &world.compiled, &Update::default()).unwrap();
                assert!(report.wrote_nothing(), "{variant:?} {options:?} {report:?}");
                let drifts = open().verify(&world.compiled).unwrap();
                assert_eq!(drifts, [], "{variant:?}");
            });
        }
    }
}

/// All pods of `world`, each at a port of one bridge.
pub fn on_a_bridge(world: &World) -> Attachments {
    let name = |text: &str| InterfaceName::new(text).unwrap();
    let bridge = name("cni0");
    let ports = world.compiled.endpoints.keys().enumerate().map(|(number, address)| {
        let interface = name(&format!("veth{number}"));
        (*address, Attachment { interface, bridge: Some(bridge) })
    });
    let addresses: BTreeMap<IpAddr, Attachment> = ports.collect();
    let bridge_ports = addresses.values().map(|at| at.interface).collect();
    let pod_interfaces = [bridge].into();
    Attachments { addresses, pod_interfaces, bridge_ports, ..Attachments::default() }
}

#[test]
fn a_restart_writes_nothing_and_keeps_counters() {
    let world = every_shape();
    each_variant(|variant, family| {
        let node = Netns::new();
        let options = Options { variant, ..Options::default() };
        node.enter(|| {
            let open = || {
                let mut dataplane = Dataplane::open(options.clone()).unwrap();
                // With the rules that an agent has where pods are: what they need is tried otherwise.
                dataplane.set_attachments(on_a_bridge(&world));
                dataplane
            };
            let mut dataplane = open();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            // A packet to the node itself passes our hook in INPUT.
            let own = if family == Family::V4 { "127.0.0.1:9" } else { "[::1]:9" };
            let own: SocketAddr = own.parse().unwrap();
            UdpSocket::bind((own.ip(), 0)).unwrap().send_to(b"hello", own).unwrap();
            let before = save(&node, variant);
            assert!(before.contains("-A INPUT -j PORTCULLIS-INPUT"), "{before}");
            let counted = before.lines().any(|line| {
                line.starts_with("[2:") && line.ends_with("-A INPUT -j PORTCULLIS-INPUT")
            });
            assert!(counted, "the packet, and the ICMP error about it: {before}");
            let report = settle(&mut open(), &world.compiled, &Update::default()).unwrap();
            assert!(report.wrote_nothing(), "{report:?}");
            let report = settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert!(report.wrote_nothing(), "{report:?}");
            assert_eq!(save(&node, variant), before);
        });
    });
}

/// A tree as deep as it gets, then all tiers one below the other, then a denial.
#[test]
fn the_longest_way_through_chains_is_taken_by_both_variants() {
    let mut world = World::default();
    for direction in Direction::BOTH {
        let default = Target::Next(world.tier(direction, Tier::Default, vec![], Target::Deny));
        let baseline = Target::Next(world.tier(direction, Tier::Baseline, vec![], default));
        let admin = world.tier(direction, Tier::Admin, vec![], baseline);
        for bit in 0..32 {
            let bits = 1_u32.checked_shl(bit).unwrap_or(1);
            let v6 = std::net::Ipv6Addr::from(1_u128 << (bit * 4));
            for address in [v6.into(), std::net::Ipv4Addr::from(bits).into()] {
                world.endpoint(address, admin).audit(address, admin);
            }
        }
    }
    for variant in VARIANTS {
        Netns::new().enter(|| apply_twice(variant, &world));
    }
}

fn apply_twice(variant: IptablesVariant, world: &World) {
    let open = || Dataplane::open(Options { variant, ..Options::default() }).unwrap();
    settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
    let report = settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
    assert!(report.wrote_nothing(), "{variant:?} {report:?}");
}
