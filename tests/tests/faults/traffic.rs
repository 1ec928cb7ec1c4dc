//! Traffic that goes on while something happens: what is allowed must never fail, what is
//! forbidden must never pass, and connections that are open must stay so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use portcullis_lab::{Connection, ConnectionSpec, DEFAULT_TIMEOUT, Endpoint, Lab, Outcome, Probe};

use crate::shop::{ECHO, PATIENCE, probes};

/// TCP sends a lost SYN again after a second: with less patience than that, a single one that is
/// dropped shows.
const ONE_SYN: Duration = Duration::from_millis(900);
/// How long a forbidden one may take to be answered. Short, so that many are sent: a gap of a few
/// milliseconds must not fall between two rounds. The last round has [`DEFAULT_TIMEOUT`].
const SHORT: Duration = Duration::from_millis(20);
/// Between two exchanges of a connection, so that there is time left for the agents.
const PACE: Duration = Duration::from_millis(5);

/// From, to, port: names of pods of the shop.
pub(crate) type Route = (&'static str, &'static str, u16);

/// What goes on.
pub(crate) struct Traffic {
    /// Pairs that hold an echo connection open and exchange.
    pub(crate) held: &'static [(&'static str, &'static str)],
    /// What has to get through, each time.
    pub(crate) allowed: &'static [Route],
    /// What must not, ever.
    pub(crate) forbidden: &'static [Route],
}

/// Sets `stop` at the end of a scope, also of one that an error ends.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Traffic {
    /// Does `action` under this traffic, and fails when it breaks.
    pub(crate) fn during(&self, lab: &Lab, action: impl FnOnce() -> Result<()>) -> Result<()> {
        let (allowed, forbidden) = (probes(lab, self.allowed)?, probes(lab, self.forbidden)?);
        let held = self.open(lab)?;
        let stop = AtomicBool::new(false);
        let stopped = || stop.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let held = held.into_iter().map(|connection| scope.spawn(|| hold(connection, stopped)));
            let held: Vec<_> = held.collect();
            let allowed = scope.spawn(|| rounds(lab, &allowed, ONE_SYN, stopped, Outcome::is_open));
            let forbidden = scope
                .spawn(|| rounds(lab, &forbidden, SHORT, stopped, |outcome| !outcome.is_open()));
            let done = {
                let _stop = Stop(&stop);
                action()
            };
            let panicked = |_| anyhow!("a thread panicked");
            let mut exchanges = 0;
            for connection in held {
                exchanges += connection.join().map_err(panicked)??;
            }
            let allowed = allowed.join().map_err(panicked)?.context("allowed")?;
            let forbidden = forbidden.join().map_err(panicked)?.context("forbidden")?;
            done?;
            println!("{exchanges} exchanges, {allowed} allowed and {forbidden} forbidden probes");
            ensure!(exchanges > 10 && allowed > 10 && forbidden > 5, "too little traffic to tell");
            Ok(())
        })
    }

    fn open(&self, lab: &Lab) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for (from, to) in self.held {
            for address in lab.pod(&format!("shop/{to}"))?.addresses() {
                connections.push(lab.connect(&ConnectionSpec {
                    from: Endpoint::pod(format!("shop/{from}")),
                    to: SocketAddr::new(*address, ECHO),
                    source_port: None,
                    timeout: PATIENCE,
                })?);
            }
        }
        Ok(connections)
    }
}

fn hold(mut connection: Connection, stopped: impl Fn() -> bool) -> Result<usize> {
    let mut count = 0;
    while !stopped() {
        connection.exchange().context("a held connection broke")?;
        count += 1;
        thread::sleep(PACE);
    }
    Ok(count)
}

/// Sends all probes again and again; how many there were. One whole round is sent after the stop.
fn rounds(
    lab: &Lab,
    probes: &[Probe],
    timeout: Duration,
    stopped: impl Fn() -> bool,
    right: impl Fn(&Outcome) -> bool,
) -> Result<usize> {
    let mut count = 0;
    loop {
        let last = stopped();
        let timeout = if last { timeout.max(DEFAULT_TIMEOUT) } else { timeout };
        for (probe, outcome) in probes.iter().zip(lab.probe_all(probes, timeout)?) {
            if !right(&outcome) {
                bail!("{probe} ended with {outcome} after {count} that were right");
            }
            count += 1;
        }
        if last {
            return Ok(count);
        }
        thread::sleep(PACE);
    }
}
