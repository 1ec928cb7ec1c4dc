//! Counts of denied packets, through policies that come and go, resets and restarts.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::TrafficMatch;
use policy_engine::direction::Direction;
use portcullis_controller::dataplane::{Dataplane, DenyAction, IptablesVariant, Options};

use crate::packets::{Lab, addresses};
use crate::tiers::{apply, counted};
use crate::world::{World, allow, ip, rules_changed, settle};
use crate::{command, each_variant};

const KIND: &str = "Denied Ingress NetworkPolicy";

/// Refused connections are one packet each.
fn rejecting(variant: IptablesVariant) -> Options {
    Options { variant, deny: DenyAction::Reject, ..Options::default() }
}

/// A world in which nothing reaches b.
fn closed(family: Family) -> World {
    let mut world = World::default();
    let none = world.ruleset(Direction::Ingress, vec![]);
    world.endpoint(ip(addresses(family).1), none);
    world
}

fn remove_unreferenced(lab: &Lab, dataplane: &mut Dataplane, world: &World) {
    lab.node.enter(|| dataplane.remove_unreferenced(&world.compiled).unwrap());
}

#[test]
fn counts_go_on_when_their_chain_is_made_anew() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let mut dataplane = lab.node.enter(|| Dataplane::open(rejecting(variant)).unwrap());
        let mut world = World::default();
        let none = world.ruleset(Direction::Ingress, vec![]);
        let kind = KIND.to_owned();
        for round in 1..=3 {
            world.endpoint(ip(addresses(family).1), none);
            apply(&lab.node, &mut dataplane, &world);
            assert!(!lab.a_reaches_b(family, 80));
            let expected = BTreeMap::from([(kind.clone(), round)]);
            assert_eq!(counted(&lab.node, &mut dataplane), expected);
            // Rules of others that come and go leave the chain alone.
            let other = world.ruleset(
                Direction::Egress,
                vec![allow(TrafficMatch::Any, None, CidrSet::everything())],
            );
            world.endpoint(ip(addresses(family).0), other);
            apply(&lab.node, &mut dataplane, &world);
            assert_eq!(counted(&lab.node, &mut dataplane), expected);
            world.compiled.endpoints.clear();
            lab.node.enter(|| settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap());
            assert_eq!(counted(&lab.node, &mut dataplane), expected, "the chain is gone");
        }
    });
}

#[test]
fn what_a_chain_counted_since_it_was_read_is_counted_when_it_goes() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let mut dataplane = lab.node.enter(|| Dataplane::open(rejecting(variant)).unwrap());
        let (closed, open) = (closed(family), World::default());
        let mut sent = 0;
        // Each chain counts more than the one before it: none looks like the same going on.
        for attempts in 1..=3 {
            apply(&lab.node, &mut dataplane, &closed);
            for _ in 0..attempts {
                assert!(!lab.a_reaches_b(family, 80));
                sent += 1;
            }
            apply(&lab.node, &mut dataplane, &open);
            remove_unreferenced(&lab, &mut dataplane, &open);
            let save = lab.node.sh(&format!("{}-save", command(variant, family)));
            assert!(!save.contains("PORTCULLIS-DENY-IN-POLICY"), "the chain is gone");
        }
        let expected = BTreeMap::from([(KIND.to_owned(), sent)]);
        assert_eq!(counted(&lab.node, &mut dataplane), expected);
    });
}

#[test]
fn counts_never_go_back_when_others_reset_or_remove_what_is_counted() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let iptables = command(variant, family);
        let mut dataplane = lab.node.enter(|| Dataplane::open(rejecting(variant)).unwrap());
        let closed = closed(family);
        apply(&lab.node, &mut dataplane, &closed);
        let attempts = |count| (0..count).for_each(|_| assert!(!lab.a_reaches_b(family, 80)));
        let expected = |count| BTreeMap::from([(KIND.to_owned(), count)]);
        attempts(2);
        assert_eq!(counted(&lab.node, &mut dataplane), expected(2));
        lab.node.sh(&format!("{iptables} -Z"));
        assert_eq!(counted(&lab.node, &mut dataplane), expected(2));
        attempts(1);
        assert_eq!(counted(&lab.node, &mut dataplane), expected(3));
        // A chain that others emptied is repaired, and counts from the start.
        lab.node.sh(&format!("{iptables} -F PORTCULLIS-DENY-IN-POLICY"));
        lab.node.enter(|| dataplane.verify(&closed.compiled).unwrap());
        attempts(4);
        assert_eq!(counted(&lab.node, &mut dataplane), expected(7));
    });
}

/// Packets that come all the time while policies come and go: each passes, or is counted.
#[test]
fn every_packet_is_counted_that_a_policy_of_a_moment_drops() {
    each_variant(|variant, family| {
        let lab = Lab::new();
        let (a, b) = addresses(family);
        let options = Options { variant, ..Options::default() };
        let mut dataplane = lab.node.enter(|| Dataplane::open(options).unwrap());
        let (closed, open) = (closed(family), World::default());
        // Nobody reads it: what arrives is counted in front of it.
        let _server = lab.b.enter(|| UdpSocket::bind((ip(b), 9)).unwrap());
        let iptables = command(variant, family);
        lab.b.sh(&format!("{iptables} -A INPUT -p udp --dport 9"));
        let passed = || {
            let rule = lab.b.sh(&format!("{iptables} -nvxL INPUT 1"));
            rule.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let done = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let socket = lab.a.enter(|| UdpSocket::bind((ip(a), 0)).unwrap());
                let mut sent = 0;
                while !done.load(Ordering::Relaxed) {
                    socket.send_to(b"x", (ip(b), 9)).unwrap();
                    sent += 1;
                    thread::sleep(Duration::from_micros(500));
                }
                sent
            });
            for _ in 0..10 {
                apply(&lab.node, &mut dataplane, &closed);
                thread::sleep(Duration::from_millis(10));
                apply(&lab.node, &mut dataplane, &open);
                remove_unreferenced(&lab, &mut dataplane, &open);
            }
            done.store(true, Ordering::Relaxed);
            client.join().unwrap()
        });
        let mut denied =
            || counted(&lab.node, &mut dataplane).get(KIND).copied().unwrap_or_default();
        // The last ones may be on their way.
        let limit = Instant::now() + Duration::from_secs(5);
        while passed() + denied() < sent && Instant::now() < limit {}
        let (passed, denied) = (passed(), denied());
        println!("{variant:?} {family:?}: {sent} sent, {passed} passed, {denied} denied");
        assert!(denied > 10 && passed > 0);
        assert_eq!(sent, passed + denied);
    });
}
