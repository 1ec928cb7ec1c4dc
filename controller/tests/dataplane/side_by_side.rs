//! What changes take with iptables and with nftables, in one run. Prints tables for docs/performance.md.
//!
//! `make bench-backends` runs it in its whole size, built for speed. Otherwise it is small.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use policy_engine::cidr::CidrSet;
use policy_engine::compiled::Member;
use policy_engine::direction::Direction;
use portcullis_controller::dataplane::{Backend, Dataplane, IptablesVariant, Options};

use crate::netns::Netns;
use crate::world::{World, allow, cidrs, rules_changed, settle, tcp};

/// The backends that are compared, and their names.
const BACKENDS: [(&str, Backend, IptablesVariant); 3] = [
    ("iptables-legacy", Backend::Iptables, IptablesVariant::Legacy),
    ("iptables-nft", Backend::Iptables, IptablesVariant::Nft),
    ("nftables", Backend::Nftables, IptablesVariant::Auto),
];

fn is_bench() -> bool {
    std::env::var_os("PORTCULLIS_BENCH").is_some()
}

fn address(first: [u8; 4], number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(first)) + number)
}

fn pod(number: u32) -> Ipv4Addr {
    address([10, 200, 0, 1], number)
}

fn member(number: u32) -> Member {
    Member::Address(address([10, 0, 0, 1], number).into())
}

/// Dual-stack pods that are isolated in both directions, with a ruleset of their own for each direction and
/// family: it allows a set of ten peers on two ranges of ports.
fn node(pods: u32) -> World {
    let mut world = World::default();
    for number in 0..pods * 4 {
        let peers = (0..10).map(|peer| member(number * 10 + peer));
        let set = world.set(&format!("peers {number}"), peers);
        // The same port for several pods: what differs is the set.
        let port = u16::try_from(1_000 + number % 30_000).unwrap();
        let rule = allow(tcp(&[(port, port), (80, 90)]), Some(set), CidrSet::default());
        let id = world.ruleset(Direction::BOTH[number as usize % 2], vec![rule]);
        let own: IpAddr = if number < pods * 2 {
            pod(number / 2).into()
        } else {
            Ipv6Addr::from((0xfd00 << 112) + u128::from(number / 2)).into()
        };
        world.endpoint(own, id);
    }
    world
}

fn open((_, backend, variant): (&str, Backend, IptablesVariant)) -> Dataplane {
    Dataplane::open(Options { backend, variant, ..Options::default() }).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// Median and 99th percentile.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("{:.2?}, {:.2?}", at(50), at(99))
}

/// One pod gets another ruleset, again and again: until it is enforced.
fn policy_changes(dataplane: &mut Dataplane, world: &mut World, changes: u16) -> String {
    let set = world.set("other peers", [member(7)]);
    let change = |number: u16| {
        let port = 40_000 + number;
        let rule = allow(tcp(&[(port, port)]), Some(set), CidrSet::default());
        let id = world.ruleset(Direction::Ingress, vec![rule]);
        world.endpoint(pod(3).into(), id);
        let taken = timed(|| dataplane.enforce(&world.compiled, &rules_changed()).unwrap());
        dataplane.remove_unreferenced(&world.compiled).unwrap();
        taken
    };
    quantiles((0..changes).map(change).collect())
}

#[test]
fn backends_side_by_side() {
    let _alone = crate::alone();
    let bench = is_bench();
    let (pods, members, networks, changes) =
        if bench { (250, 100_000, 10_000, 200) } else { (10, 1_000, 100, 5) };
    for backend in BACKENDS {
        let name = backend.0;
        Netns::new().enter(|| {
            let mut world = node(pods);
            let large = world.set("large", (0..members).map(|number| member(500_000 + number)));
            let rule = allow(tcp(&[(443, 443)]), Some(large), CidrSet::default());
            let id = world.ruleset(Direction::Ingress, vec![rule]);
            world.endpoint(pod(300).into(), id);
            let mut dataplane = open(backend);
            let first =
                timed(|| settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap());
            println!(
                "{name}: first apply, {pods} pods, {} rulesets, a set of {members}: {first:.1?}",
                pods * 4
            );
            let joins = (0..u32::from(changes)).map(|number| {
                let update = world.change(large, &[member(900_000 + number)], &[]);
                timed(|| dataplane.enforce(&world.compiled, &update).unwrap())
            });
            let joins = quantiles(joins.collect());
            println!("{name}: one member more of {members}: {joins}");
            let policy = policy_changes(&mut dataplane, &mut world, changes);
            println!("{name}: the policy of one pod: {policy}");
            let network = |number: u32| format!("{}/30", address([172, 16, 0, 0], number * 8));
            let mut blocks: Vec<String> = (0..networks).map(network).collect();
            let more = (0..10).map(|number| {
                blocks.push(network(networks + number));
                let blocks = cidrs(&blocks.iter().map(String::as_str).collect::<Vec<_>>());
                let rule = allow(tcp(&[(444, 444)]), None, blocks);
                let id = world.ruleset(Direction::Ingress, vec![rule]);
                world.endpoint(pod(301).into(), id);
                let taken = timed(|| dataplane.enforce(&world.compiled, &rules_changed()).unwrap());
                dataplane.remove_unreferenced(&world.compiled).unwrap();
                taken
            });
            let more = quantiles(more.collect());
            println!("{name}: {networks} networks in a rule, one more: {more}");
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), [], "{name}");
        });
    }
}

#[test]
fn growth_of_backends_side_by_side() {
    let _alone = crate::alone();
    let (sizes, changes): (&[u32], _) =
        if is_bench() { (&[10, 100, 250, 1_000, 2_500], 50) } else { (&[10], 3) };
    for pods in sizes {
        for backend in BACKENDS {
            Netns::new().enter(|| {
                let mut world = node(*pods);
                let mut dataplane = open(backend);
                let first =
                    timed(|| settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap());
                let policy = policy_changes(&mut dataplane, &mut world, changes);
                let name = backend.0;
                println!("{pods} pods, {} rulesets, {name}: first apply {first:.1?}, the policy of one pod {policy}", pods * 4);
            });
        }
    }
}
