//! Counts of denied packets, through policies that come and go, resets and restarts.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::TrafficMatch;
use policy_engine::model::Direction;
use portcullis_controller::dataplane::{Dataplane, DenyAction, IptablesVariant, Options};

use crate::packets::{Lab, addresses};
use crate::tiers::{apply, counted};
use crate::world::{World, allow, ip, rules_changed};
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

fn tidy(lab: &Lab, dataplane: &mut Dataplane, world: &World) {
    lab.node.enter(|| dataplane.tidy(&world.compiled).unwrap());
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
            lab.node.enter(|| dataplane.apply(&world.compiled, &rules_changed()).unwrap());
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
            tidy(&lab, &mut dataplane, &open);
            let save = lab.node.sh(&format!("{}-save", command(variant, family)));
            assert!(!save.contains("PORTCULLIS-DENY"), "the chain is gone");
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
        let receiver = lab.b.enter(|| UdpSocket::bind((ip(b), 9)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let received = thread::scope(|scope| {
            let receive = scope.spawn(|| {
                let mut received = 0;
                loop {
                    match receiver.recv(&mut [0]) {
                        Ok(_) => received += 1,
                        // Nothing for so long after the last one was sent.
                        Err(_) if done.load(Ordering::Relaxed) => break received,
                        Err(_) => {}
                    }
                }
            });
            let send = scope.spawn(|| {
                let sender = lab.a.enter(|| UdpSocket::bind((ip(a), 0)).unwrap());
                while !done.load(Ordering::Relaxed) {
                    sender.send_to(b"x", (ip(b), 9)).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(200));
                }
            });
            for _ in 0..10 {
                apply(&lab.node, &mut dataplane, &closed);
                thread::sleep(Duration::from_millis(10));
                apply(&lab.node, &mut dataplane, &open);
                tidy(&lab, &mut dataplane, &open);
            }
            done.store(true, Ordering::Relaxed);
            send.join().unwrap();
            receive.join().unwrap()
        });
        let sent = sent.load(Ordering::Relaxed);
        let denied = counted(&lab.node, &mut dataplane).get(KIND).copied().unwrap_or_default();
        println!("{variant:?} {family:?}: {sent} sent, {received} received, {denied} denied");
        assert!(denied > 10 && received > 0);
        assert_eq!(sent, received + denied);
    });
}
