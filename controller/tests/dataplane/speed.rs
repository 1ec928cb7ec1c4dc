//! How long applies take at the size of a full node. Prints figures; fails only far off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use policy_engine::cidr::CidrSet;
use policy_engine::compiled::Update;
use policy_engine::direction::Direction;
use policy_engine::id::SetId;
use portcullis_controller::dataplane::{Dataplane, Options};

use crate::VARIANTS;
use crate::netns::Netns;
use crate::world::{World, allow, ip, pod, rules_changed, settle, tcp};

const PODS: u32 = 250;
const RULESETS: u32 = 1_000;

/// 250 dual-stack pods that are isolated in both directions, each by rulesets of its own: 1,000
/// rulesets with a set each, of which the first is returned.
fn full_node() -> (World, SetId) {
    let mut world = World::default();
    let mut sets = Vec::new();
    for number in 0..RULESETS {
        let peers =
            (0..=9).map(|peer| pod(&format!("10.{}.{}.{peer}", number / 250, number % 250)));
        let set = world.set(&format!("peers {number}"), peers);
        let port = u16::try_from(number + 1_000).unwrap();
        sets.push(set);
        let rule = allow(tcp(&[(port, port), (80, 90)]), Some(set), CidrSet::default());
        let direction = Direction::BOTH[number as usize % 2];
        let id = world.ruleset(direction, vec![rule]);
        let pod = number / 2 % PODS + 1;
        let address = if number < RULESETS / 2 {
            IpAddr::from(Ipv4Addr::from(0x0ac8_0000 + pod))
        } else {
            IpAddr::from(Ipv6Addr::from((0xfd00 << 112) + u128::from(pod)))
        };
        world.endpoint(address, id);
    }
    (world, sets[0])
}

#[test]
fn a_change_costs_what_changes() {
    for variant in VARIANTS {
        let (mut world, id) = full_node();
        assert_eq!(world.compiled.endpoints.len(), 500);
        let options = Options { variant, ..Options::default() };
        Netns::new().enter(|| {
            let mut dataplane = Dataplane::open(options.clone()).unwrap();
            let time = |what: &str, limit, work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                let took = start.elapsed();
                println!("{variant:?}: {what}: {took:.1?}");
                assert!(took < Duration::from_millis(limit), "{what} took {took:?}");
            };
            time("first apply, 250 pods, 1,000 rulesets and sets", 10_000, &mut || {
                settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            });
            time("denial counts", 2_000, &mut || {
                let counts = dataplane.denial_counts().unwrap();
                assert_eq!(counts.len(), 4, "by policies and by connection in each direction");
            });
            let mut host = 0;
            time("ten times one peer more in one set", 1_000, &mut || {
                for _ in 0..10 {
                    host += 1;
                    let update = world.change(id, &[pod(&format!("10.9.0.{host}"))], &[]);
                    let report = dataplane.enforce(&world.compiled, &update).unwrap();
                    assert_eq!(report.members_changed, 1);
                }
            });
            let none = world.ruleset(Direction::Ingress, vec![]);
            world.endpoint(ip("10.200.0.7"), none);
            time("one pod's policy changed, until enforced", 2_000, &mut || {
                dataplane.enforce(&world.compiled, &rules_changed()).unwrap();
            });
            time("one pod's policy changed, what could wait", 2_000, &mut || {
                dataplane.remove_unreferenced(&world.compiled).unwrap();
            });
            time("nothing changed", 1_000, &mut || {
                dataplane.enforce(&world.compiled, &Update::default()).unwrap();
            });
            time("verify", 5_000, &mut || {
                dataplane.verify(&world.compiled).unwrap();
            });
            time("restart with equal state", 5_000, &mut || {
                let mut restarted = Dataplane::open(options.clone()).unwrap();
                settle(&mut restarted, &world.compiled, &Update::default()).unwrap();
            });
            let nobody = World::default();
            time("all policies deleted", 10_000, &mut || {
                settle(&mut dataplane, &nobody.compiled, &rules_changed()).unwrap();
            });
        });
    }
}

#[test]
fn a_cluster_sized_set_costs_what_changes() {
    let mut world = World::default();
    let cluster = (0..100_000_u32).map(|number| {
        policy_engine::compiled::Member::Address(Ipv4Addr::from(0x0a00_0001 + number).into())
    });
    let id = world.set("cluster", cluster);
    let rule = allow(tcp(&[(80, 80)]), Some(id), CidrSet::default());
    let ingress = world.ruleset(Direction::Ingress, vec![rule]);
    world.endpoint(ip("10.200.0.7"), ingress);
    Netns::new().enter(|| {
        let mut dataplane = Dataplane::open(Options::default()).unwrap();
        let start = Instant::now();
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        println!("100,000 members, first apply: {:.1?}", start.elapsed());
        let update = world.change(id, &[pod("11.0.0.1")], &[]);
        let start = Instant::now();
        dataplane.enforce(&world.compiled, &update).unwrap();
        let took = start.elapsed();
        println!("100,000 members, one more: {took:.1?}");
        assert!(took < Duration::from_millis(50), "{took:?}");
    });
}

/// What a policy of its own costs on a node with few pods: the tools, and nothing else.
#[test]
fn a_policy_on_a_small_node_at_speed() {
    for variant in VARIANTS {
        let mut world = World::default();
        Netns::new().enter(|| {
            let options = Options { variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let mut took = Vec::new();
            for round in 0..50_u8 {
                let set = world.set(&format!("{round}"), [pod("10.9.0.1"), pod("fd00::9")]);
                let port = 80 + u16::from(round);
                let rule = allow(tcp(&[(port, port)]), Some(set), CidrSet::default());
                let id = world.ruleset(Direction::Ingress, vec![rule]);
                for address in ["10.200.0.7", "fd00::7"] {
                    world.endpoint(ip(address), id);
                }
                let start = Instant::now();
                dataplane.enforce(&world.compiled, &rules_changed()).unwrap();
                took.push(start.elapsed());
                // What is measured is a change in quiet: reading waits for the kernel as well.
                dataplane.verify(&world.compiled).unwrap();
            }
            took.sort_unstable();
            println!("{variant:?}: a policy replaced: p50 {:.1?}, p90 {:.1?}", took[25], took[45]);
        });
    }
}
