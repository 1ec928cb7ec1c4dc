//! The log of the kernel, where it cannot be read: policies are enforced all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use portcullis_controller::dataplane::LogGroup;
use portcullis_controller::dataplane::netlink::nflog::{self, Error};
use portcullis_lab::{Endpoint, Family, IptablesVariant, Probe};

use crate::shop::{PATIENCE, PORT, address, isolate, metrics, shop, told, value, wait_for_value};

const LISTENING: &str = "portcullis_denial_log_listening";

#[test]
fn a_log_that_another_process_reads_is_read_once_it_is_free() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    let group = LogGroup::default().number();
    let another = cluster.lab.node("n2")?.netns().run(|| nflog::open(group))??;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    let agent = cluster.agent("n2")?;
    let line = agent.wait_for("denials are not logged", PATIENCE)?;
    ensure!(line.contains("ERROR") && line.contains("is read by another process"), "{line}");
    assert_eq!(value(&metrics(&cluster, "n2")?, LISTENING)?, 0);
    assert_eq!(value(&metrics(&cluster, "n1")?, LISTENING)?, 1);
    let api = address(&cluster, "api", Family::V4)?;
    let probe = [Probe::tcp(Endpoint::pod("shop/web"), api, PORT)];
    let outcomes = cluster.lab.probe_all(&probe, Duration::from_millis(300))?;
    ensure!(outcomes.iter().all(|outcome| !outcome.is_open()), "it is not enforced");

    drop(another);
    agent.wait_for("reading the log of denials", PATIENCE)?;
    wait_for_value(&cluster, "n2", LISTENING, |listening| listening == 1)?;
    cluster.lab.probe_all(&probe, Duration::from_millis(300))?;
    told(agent, 0, &[("message", "denied"), ("source", "shop/web")], PATIENCE)?;

    // An agent that ends lets go of it, and it is not taken from one that runs.
    let second = cluster.lab.node("n2")?.netns().run(|| nflog::open(group))?;
    ensure!(matches!(second, Err(Error::Taken { .. })), "the group can be had twice");
    cluster.take_agent("n2")?.terminate()?;
    cluster.lab.node("n2")?.netns().run(|| nflog::open(group))??;
    Ok(())
}
