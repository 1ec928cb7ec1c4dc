//! The cluster controller: what concerns no single node.
//!
//! ```text
//! watch ── Event ───────────► Analysis ──┐
//! report_watch ── Reported ─► Rollout ───┼─► metrics, log
//! lease ── leadership ──────► Outbox ────┘
//!                                └─► Write, while we lead ─► API server
//! ```
//!
//! Every replica watches and computes, so a new leader has the same state as the last one. Only the
//! leader writes. The controller changes no node's kernel, and no packet depends on it.

pub mod analysis;
pub mod applied;
pub mod events;
pub mod findings;
pub mod lease;
pub mod metrics;
pub mod node_events;
pub mod outbox;
pub mod pace;
pub mod progress;
pub mod report_watch;
pub mod reports;
pub mod rollout;
pub mod standing;
pub mod write;

#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use self::analysis::Analysis;
use self::lease::election::{Election, Leadership};
use self::lease::{Contender, Timing};
use self::metrics::Metrics;
use self::outbox::Outbox;
use self::report_watch::Reported;
use self::rollout::Rollout;
use self::write::{Outcome, Write, Writer};
use crate::args::{ControllerArgs, VERSION};
use crate::serve::http::{self, Served};
use crate::serve::pulse::Pulse;
use crate::watch::{Needs, Source};

/// How often the controller checks whether a write or a computation is due.
const TICK: Duration = Duration::from_millis(500);
/// Findings take at most one part in so many of the time, and so does summing up the reports.
const SHARE: u32 = 20;
/// Writes that are under way at a time.
const WRITES_MAX: usize = 4;
/// Events that may wait in a channel; a watch that is faster has to wait.
const QUEUED: usize = 1024;
/// The file that holds the namespace of the pod.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Runs the controller until the process gets a signal to end. Serves `log_lines_lost` as a metric.
///
/// # Errors
/// When the flags are unusable. An API server that does not answer is not an error.
pub fn run(args: &ControllerArgs, log_lines_lost: &Counter) -> anyhow::Result<ExitCode> {
    info!(version = VERSION.as_str(), "starting the controller");
    let timing = Timing {
        duration: args.lease_duration,
        deadline: args.renew_deadline,
        retry: args.retry_period,
    };
    timing.check()?;
    let identity = identity(args.identity.as_deref());
    let log_lines_lost = log_lines_lost.clone();
    let (metrics, pulse) = (Metrics { log_lines_lost, ..Metrics::default() }, Pulse::default());
    let synced = Arc::new(AtomicBool::new(false));
    serve(args, &metrics, &pulse, &synced)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.access().client().await?;
        let (sender, source) = mpsc::channel(QUEUED);
        let (period, contacts) = (args.missing_kind_period, &metrics.contacts);
        Source::Kube.start(&args.access(), Needs::All, period, contacts, sender)?;
        let reports = report_watch::start(client.clone(), period, contacts);
        let election = if args.leader_elect {
            let namespace = namespace(args.lease_namespace.as_deref())?;
            let contender = Contender::new(&args.lease_name, &identity, timing);
            info!(identity, namespace, lease = args.lease_name, "trying to acquire the lease");
            Some(Election::start(args.access(), namespace, contender)?)
        } else {
            None
        };
        let leadership = election.as_ref().map_or_else(Leadership::always, Election::leadership);
        let now = Instant::now();
        let controller = Controller {
            analysis: Analysis::new(args.system.options(), now),
            rollout: Rollout::new(args.silent_after, metrics.clone(), now),
            outbox: Outbox::new(args.event_delay, metrics, now),
            writer: Writer { client, identity, leadership },
            writes: JoinSet::new(),
            pulse,
            synced,
        };
        controller.run(source, reports, crate::shutdown()?).await?;
        // No write is under way any more: another replica may lead.
        if let Some(election) = election {
            election.release();
        }
        Ok(ExitCode::SUCCESS)
    })
}

struct Controller {
    analysis: Analysis,
    rollout: Rollout,
    outbox: Outbox,
    writer: Writer,
    writes: JoinSet<(Write, Outcome)>,
    pulse: Pulse,
    synced: Arc<AtomicBool>,
}

impl Controller {
    async fn run(
        mut self,
        mut source: mpsc::Receiver<crate::watch::Event>,
        mut reports: mpsc::Receiver<Reported>,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        tokio::pin!(shutdown);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = tick.tick() => self.tick(),
                Some(done) = self.writes.join_next() => {
                    if let Ok((write, outcome)) = done {
                        self.outbox.done(&write, outcome, Instant::now());
                        self.pump();
                    }
                }
                events = reports.recv() => {
                    let events = events.context("the watch of reports ended")?;
                    self.rollout.take(events, Instant::now());
                }
                event = source.recv() => {
                    self.analysis.take(event.context("the source of objects ended")?);
                }
            }
        }
        // A request that was sent may still reach the server: each write is safe to send twice.
        self.writes.shutdown().await;
        Ok(())
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.pulse.beat();
        if let Some(found) = self.analysis.round(now) {
            self.outbox.update(found, now);
        }
        self.rollout.sum_up(&self.analysis, now, self.writer.leadership.holds());
        self.outbox.update_applied(self.rollout.applied(now), now);
        self.outbox.update_nodes(self.rollout.node_findings(&self.analysis, now), now);
        self.synced.store(self.analysis.is_synced(), Ordering::Relaxed);
        self.pump();
    }

    fn pump(&mut self) {
        while self.writes.len() < WRITES_MAX && self.writer.leadership.holds() {
            let next = self.outbox.next(&self.analysis, &mut self.rollout, Instant::now());
            let Some(write) = next else { return };
            let writer = self.writer.clone();
            self.writes.spawn(async move {
                let outcome = writer.send(&write).await;
                (write, outcome)
            });
        }
    }
}

fn serve(
    args: &ControllerArgs,
    metrics: &Metrics,
    pulse: &Pulse,
    synced: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let (live, pulse, synced) = (pulse.clone(), pulse.clone(), Arc::clone(synced));
    let (stalled, unready) = (args.http.stalled_after, args.http.unready_after);
    let served = Served {
        live: Box::new(move || live.alive(stalled)),
        ready: Box::new(move || {
            let is_synced = synced.load(Ordering::Relaxed);
            let known =
                if is_synced { Ok(()) } else { Err("not all objects are known yet".to_owned()) };
            pulse.alive(unready).and(known)
        }),
        registry: metrics.registry(),
    };
    http::start(args.http.health_address, args.http.metrics_address, served)
        .context("failed to serve probes and metrics")
}

/// A unique name for this process, different in each run.
fn identity(name: Option<&str>) -> String {
    let host = || std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.map_or_else(host, str::to_owned);
    let name = if name.trim().is_empty() { "portcullis" } else { name.trim() };
    format!("{name}_{:016x}", fastrand::u64(..))
}

fn namespace(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return Ok(given.to_owned());
    }
    let read = std::fs::read_to_string(NAMESPACE_FILE);
    let read = read.context("not in a pod; --lease-namespace says where the Lease is to be")?;
    Ok(read.trim().to_owned())
}
