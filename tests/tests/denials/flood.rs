//! A flood of denied packets: the agent's memory stays flat, others are told, and the numbers hold.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use policy_engine::direction::Direction;
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::LogGroup;
use portcullis_controller::dataplane::denial::{Cause, Denial, Outcome};
use portcullis_lab::{Endpoint, Family, IptablesVariant, Probe};
use portcullis_tests::cluster::Cluster;

use crate::shop::{
    PATIENCE, address, isolate, kernel_count, metrics, shop, told, value, wait_for_value,
};

const DENIED: Denial = Denial {
    outcome: Outcome::Denied,
    direction: Direction::Ingress,
    cause: Cause::Policies(Tier::NetworkPolicy),
};
const SERIES: &str =
    "portcullis_denials_total{direction=\"ingress\",tier=\"NetworkPolicy\",verdict=\"Denied\"}";
const MESSAGES: &str = "portcullis_denial_log_messages_total";

/// How many packets a flood has: six seconds of 50,000 each, which a machine that is busy with other
/// tests takes longer for.
const FLOOD: u64 = 300_000;
/// How much an agent may grow meanwhile.
const GROWTH_MAX_BYTES: u64 = 8 << 20;

/// How many senders there are: as one alone, they would get little of a machine that is busy.
const SENDERS: u16 = 8;
/// To how many ports each of them sends: all together more than one source has room for.
const PORTS: u16 = 64;

/// Sends datagrams from `other` to `api` until `stop`, to the ports from `first` on.
fn flood(cluster: &Cluster, first: u16, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let to = address(cluster, "api", Family::V4)?;
    cluster.lab.netns(&Endpoint::pod("shop/other"))?.run(|| -> io::Result<()> {
        let connected = |port| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(SocketAddr::new(to, port))?;
            Ok(socket)
        };
        let sockets: Vec<_> = (first..first + PORTS).map(connected).collect::<io::Result<_>>()?;
        while !stop.load(Ordering::Relaxed) {
            sockets.iter().try_for_each(|socket| socket.send(b"x").map(drop))?;
            sent.fetch_add(PORTS.into(), Ordering::Relaxed);
        }
        Ok(())
    })??;
    Ok(())
}

/// Floods for a while, and has `meanwhile` go on in the middle of it; packets a second.
fn during_flood(cluster: &Cluster, meanwhile: impl FnOnce() -> Result<()>) -> Result<u64> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        let (stop, sent) = (&stop, &sent);
        let floods: Vec<_> = (0..SENDERS)
            .map(|n| scope.spawn(move || flood(cluster, 2000 + n * PORTS, stop, sent)))
            .collect();
        let wait_for = |packets| {
            let over = || floods.iter().any(thread::ScopedJoinHandle::is_finished);
            while sent.load(Ordering::Relaxed) < packets && !over() && start.elapsed() < PATIENCE {
                thread::park_timeout(Duration::from_millis(10));
            }
        };
        wait_for(FLOOD / 3);
        let done = meanwhile();
        wait_for(FLOOD);
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            flood.join().map_err(|_| anyhow::anyhow!("a flood panicked"))??;
        }
        done
    })?;
    let millis = u64::try_from(start.elapsed().as_millis())?;
    Ok(sent.load(Ordering::Relaxed) * 1000 / millis.max(1))
}

/// What an agent holds of memory before, and how much more after.
fn growth(cluster: &Cluster, action: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let agent = cluster.agent("n2")?;
    let before = agent.resident_bytes()?;
    action()?;
    Ok((before, agent.resident_bytes()?.saturating_sub(before)))
}

/// Another denial is told: how long after its first packet. So many packets are sent.
fn another(cluster: &Cluster, port: u16, packets: usize) -> Result<Duration> {
    let api = address(cluster, "api", Family::V4)?;
    let probe = [Probe::tcp(Endpoint::pod("shop/web"), api, port)];
    let sent = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..packets).try_for_each(|_| {
                cluster.lab.probe_all(&probe, Duration::from_millis(500)).map(drop)
            })
        });
        let port = port.to_string();
        let fields = [("message", "denied"), ("source", "shop/web"), ("port", port.as_str())];
        told(cluster.agent("n2")?, 0, &fields, PATIENCE)?;
        Ok(sent.elapsed())
    })
}

#[test]
fn a_flood_leaves_memory_flat_and_others_seen_and_every_packet_counted() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    // Whatever is allocated once is, before anything is measured.
    during_flood(&cluster, || Ok(()))?;

    let (mut rate, mut took, mut dropped) = (0, Duration::ZERO, 0);
    let (before, grown) = growth(&cluster, || {
        let packets = kernel_count(&cluster, "n2", DENIED)?;
        rate = during_flood(&cluster, || {
            took = another(&cluster, 81, 1)?;
            Ok(())
        })?;
        dropped = kernel_count(&cluster, "n2", DENIED)? - packets;
        Ok(())
    })?;
    println!(
        "limited in the kernel: {rate} packets sent a second, {dropped} dropped; another denial told after \
         {took:?}; agent {before} bytes, {grown} more"
    );
    ensure!(dropped >= FLOOD / 10 * 9, "{dropped} packets are no flood");
    ensure!(grown < GROWTH_MAX_BYTES, "the agent grew by {grown} bytes");
    ensure!(took < Duration::from_secs(1), "another denial was told after {took:?}");

    // Now that it is quiet, the metrics say what the kernel says.
    let kernel = kernel_count(&cluster, "n2", DENIED)?;
    let counted = wait_for_value(&cluster, "n2", SERIES, |counted| counted >= kernel)?;
    assert_eq!(counted, kernel_count(&cluster, "n2", DENIED)?);
    let logged = value(&metrics(&cluster, "n2")?, MESSAGES)?;
    ensure!(logged < counted / 100, "{logged} of {counted} were logged: the kernel limits nothing");
    Ok(())
}

#[test]
fn a_log_without_any_limit_leaves_memory_flat_and_its_losses_counted() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    // As ours, but for the limits: each packet is one message, each with another port.
    let (source, group) = (address(&cluster, "other", Family::V4)?, LogGroup::default());
    cluster.lab.node("n2")?.shell(&format!(
        "iptables-nft -w -t mangle -I PREROUTING 1 -s {source} -p udp -j NFLOG --nflog-group {group} \
         --nflog-prefix '{}' --nflog-size 128 --nflog-threshold 1",
        DENIED.prefix()
    ))?;
    during_flood(&cluster, || Ok(()))?;

    let before = metrics(&cluster, "n2")?;
    let mut rate = 0;
    let (held, grown) = growth(&cluster, || {
        rate = during_flood(&cluster, || Ok(()))?;
        Ok(())
    })?;
    // Whatever was lost meanwhile, and the first of these may be, the reader goes on.
    let took = another(&cluster, 81, 20)?;
    let after = metrics(&cluster, "n2")?;
    let more = |series: &str| anyhow::Ok(value(&after, series)? - value(&before, series)?);
    let lost = |reason| more(&format!("portcullis_denial_log_lost_total{{reason=\"{reason}\"}}"));
    let (messages, overrun, no_room) = (more(MESSAGES)?, lost("overrun")?, lost("no_room")?);
    println!(
        "without limits: {rate} packets sent a second, {messages} messages, {overrun} lost, {no_room} unnamed; \
         another denial told {took:?} after it; agent {held} bytes, {grown} more"
    );
    ensure!(messages + overrun >= FLOOD / 10 * 9, "{messages} messages are no flood");
    ensure!(grown < GROWTH_MAX_BYTES, "the agent grew by {grown} bytes");
    ensure!(no_room > 0 && lost("unreadable")? == 0, "{after}");
    // The one that was flooding has its place in the table, and no more.
    let unnamed = [("message", "denied, with no room to name them"), ("tier", "NetworkPolicy")];
    let (line, _) =
        told(cluster.agent("n2")?, 0, &unnamed, PATIENCE).context("what has no name is counted")?;
    ensure!(line["count"].as_u64() > Some(0), "{line}");
    Ok(())
}
