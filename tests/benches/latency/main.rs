//! From the API server's answer to the first packet that is judged by it, on three nodes.
//!
//! `make bench`, or, after `cargo build --release -p portcullis-controller`,
//! `cargo bench -p portcullis-tests --bench latency`
//!
//! A real API server, real agents, real packets; pods are there before the API tells of them, so
//! what is measured is Portcullis alone. The clock starts when the call that makes the change
//! returns; resolution 0.2 ms.

mod world;

use std::time::{Duration, Instant};

use anyhow::Result;
use portcullis_tests::stream::{Becomes, until};

use crate::world::{World, allow, isolate};

/// Changes of each kind, a third of them on each node.
const ROUNDS: usize = 99;
/// Policies that are created as fast as the API server takes them.
const BULK: usize = 500;
/// Changes after them.
const ROUNDS_AFTER: usize = 30;

fn main() -> Result<()> {
    // cargo passes flags of libtest along.
    let world = World::start()?;
    println!("from the API server's answer to the kernel enforcing it, 3 nodes, iptables-nft:");
    let mut closes = Vec::new();
    for round in 0..ROUNDS {
        closes.push(closes_once(&world, round)?);
    }
    print("a policy that closes", &mut closes);
    let mut opens = Vec::new();
    for round in 0..ROUNDS {
        let server = world.server("isolated", round);
        let policy = allow(&server, "app", "client", server.port);
        let way = world.path(&server, "client", round)?;
        opens.push(until(&way, Becomes::Open, || world.create(&policy))?);
        world.delete(&policy)?;
    }
    print("a policy that opens", &mut opens);
    let mut peers = Vec::new();
    for round in 0..ROUNDS {
        let server = world.server("peered", round);
        let peer = world.announce("peer", round)?;
        let way = world.path(&server, "peer", round)?;
        peers.push(until(&way, Becomes::Open, || world.publish(&peer))?);
        world.forget(&peer)?;
    }
    print("a new peer pod", &mut peers);
    let mut fresh = Vec::new();
    for round in 0..ROUNDS {
        let server = world.server("fresh", round);
        let pod = world.announce("fresh", round)?;
        let way = world.path(&server, "client", round)?;
        fresh.push(until(&way, Becomes::Closed, || world.publish(&pod))?);
        world.forget(&pod)?;
    }
    print("a new pod under deny-all", &mut fresh);
    let server = world.server("isolated", 0);
    let way = world.path(&server, "client", 0)?;
    let start = Instant::now();
    let mut created = start;
    let last = until(&way, Becomes::Open, || {
        created = world.create_many(&server, BULK)?;
        Ok(created)
    })?;
    let took = created.duration_since(start);
    println!(
        "{BULK} policies at once, created in {took:.1?}: all enforced {last:.1?} after the last"
    );
    let mut after = Vec::new();
    for round in 0..ROUNDS_AFTER {
        after.push(closes_once(&world, round)?);
    }
    print("a policy that closes, with these", &mut after);
    Ok(())
}

fn closes_once(world: &World, round: usize) -> Result<Duration> {
    let server = world.server("open", round);
    let policy = isolate(&server);
    let way = world.path(&server, "client", round)?;
    let took = until(&way, Becomes::Closed, || world.create(&policy))?;
    world.delete(&policy)?;
    Ok(took)
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent: usize| took.get((took.len() - 1) * percent / 100).copied();
    if let (Some(p50), Some(p90), Some(max)) = (at(50), at(90), at(100)) {
        println!("{what:<34} p50 {p50:>8.1?}  p90 {p90:>8.1?}  max {max:>8.1?}  of {}", took.len());
    }
}
