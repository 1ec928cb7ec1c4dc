//! Counts of denied packets as a monitoring system sees them.

use std::io;
use std::net::UdpSocket;
use std::time::Instant;

use anyhow::{Result, ensure};
use portcullis_lab::{Endpoint, Family, IptablesVariant};
use portcullis_tests::cluster::Cluster;

use crate::shop::{PATIENCE, address, isolate, metrics, shop, value, wait_for_value};

const SERIES: &str =
    "portcullis_denials_total{direction=\"ingress\",tier=\"NetworkPolicy\",verdict=\"Denied\"}";

/// Has `web` send so many packets that `api` does not get.
fn send(cluster: &Cluster, packets: usize) -> Result<()> {
    let api = address(cluster, "api", Family::V4)?;
    cluster.lab.netns(&Endpoint::pod("shop/web"))?.run(|| -> io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..packets).try_for_each(|_| socket.send_to(b"x", (api, 9)).map(drop))
    })??;
    Ok(())
}

#[test]
fn a_policy_that_goes_and_an_agent_that_starts_again_lose_no_count() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    wait_for_value(&cluster, "n2", SERIES, |counted| counted == 0)?;
    // All of it well within the period of counting.
    send(&cluster, 3)?;
    cluster.remove("api.json")?;
    cluster.settle(PATIENCE)?;
    wait_for_value(&cluster, "n2", SERIES, |counted| counted == 3)?;

    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.settle(PATIENCE)?;
    send(&cluster, 5)?;
    wait_for_value(&cluster, "n2", SERIES, |counted| counted == 8)?;
    cluster.take_agent("n2")?.terminate()?;
    let agent = cluster.spawn_agent("n2")?;
    cluster.put_agent(agent);
    // A value that was less would look like a counter that began anew: as five packets more.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = metrics(&cluster, "n2").ok().and_then(|text| value(&text, SERIES).ok());
        ensure!(seen.is_none_or(|counted| counted == 5), "{seen:?} of the 5 of this chain");
        if seen.is_some() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing was counted");
    }
}
