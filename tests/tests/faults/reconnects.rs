//! Thousands of connections as fast as they can be opened, across a change that forbids them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_lab::{DEFAULT_TIMEOUT, Endpoint, IptablesVariant, Lab, Outcome, Probe};
use portcullis_tests::cluster::Cluster;

use crate::VARIANTS;
use crate::shop::{PATIENCE, RESET, WEB, allow, enforced, lab, shop, write_pod};
use crate::traffic::Stop;

/// Connections of one volley, in each family: from any free port.
const FREE: usize = 100;
/// And from fixed ports, which the server resets, so that conntrack keeps a trace of them.
const FIXED: u16 = 100;
/// Volleys after the change.
const VOLLEYS: usize = 5;

fn volley(lab: &Lab) -> Result<Vec<Probe>> {
    let web = || Endpoint::pod("shop/web");
    let mut probes = Vec::new();
    // Below the ports that the kernel chooses from.
    for (address, first) in lab.pod("shop/api")?.addresses().iter().zip([22_000, 23_000]) {
        probes.extend((0..FREE).map(|_| Probe::tcp(web(), *address, WEB)));
        let fixed =
            (first..first + FIXED).map(|port| Probe::tcp(web(), *address, RESET).from_port(port));
        probes.extend(fixed);
    }
    Ok(probes)
}

/// Whether the packets went through: a reset comes from the server.
fn passed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Open(_) | Outcome::Reset)
}

/// Connects all the while; after `forbid` is enforced, no connection succeeds.
fn none_succeeds_after(cluster: &Cluster, forbid: impl FnOnce() -> Result<()>) -> Result<()> {
    let lab = &cluster.lab;
    let probes = volley(lab)?;
    let (stop, before) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let outcomes = lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
                before.fetch_add(outcomes.iter().filter(|o| passed(o)).count(), Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let stop = Stop(&stop);
        wait_until(|| storm.is_finished() || before.load(Ordering::Relaxed) > 500)?;
        enforced(cluster, cluster.agents(), forbid)?;
        // The storm's last volley began before the change was enforced, maybe.
        drop(stop);
        storm.join().map_err(|_| anyhow::anyhow!("the storm panicked"))?
    })?;
    for _ in 0..VOLLEYS {
        let outcomes = lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
        if let Some((probe, outcome)) = probes.iter().zip(&outcomes).find(|(_, o)| passed(o)) {
            let count = outcomes.iter().filter(|o| passed(o)).count();
            bail!("{count} of {} got through, such as {probe}: {outcome}", probes.len());
        }
    }
    let before = before.load(Ordering::Relaxed);
    println!("{before} before the change, none of {} after it", VOLLEYS * probes.len());
    Ok(())
}

fn wait_until(mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = std::time::Instant::now();
    while !condition() {
        ensure!(start.elapsed() < PATIENCE, "nothing got through before the change");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn no_reconnect_outlives_a_change(variant: IptablesVariant) -> Result<()> {
    let mut cluster = shop(lab(variant), &[])?;
    let open = allow("api", &["web"], &[WEB, RESET]);
    cluster.write("api.yaml", &open)?;
    cluster.start_agents()?;
    none_succeeds_after(&cluster, || cluster.write("api.yaml", &allow("api", &[], &[])))
        .context("a policy that allows nobody")?;
    enforced(&cluster, cluster.agents(), || cluster.write("api.yaml", &open))?;
    // Another label: this changes the members of a set, and no rule.
    let web = cluster.lab.pod("shop/web")?;
    none_succeeds_after(&cluster, || write_pod(&cluster, web, "gone"))
        .context("a client that lost its label")
}

#[test]
fn no_fast_reconnect_succeeds_once_a_forbidding_change_is_enforced() -> Result<()> {
    VARIANTS.into_iter().try_for_each(no_reconnect_outlives_a_change)
}
