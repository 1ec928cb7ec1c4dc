//! Examines the node for conflicts once a period, on its own thread: enforcement never waits for
//! it.
//!
//! ```text
//! thread: examine, wait for a period ── Examination ──► agent ─► status, metrics, log
//!            ▲────────── addresses of isolated pods ─────┘
//! ```

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info};

use crate::dataplane::conflict::Detected;
use crate::dataplane::examine::{Examination, Examiner};
use crate::dataplane::preflight;
use crate::node::status::node_warning;

/// How often the settings of bridges are read: one that is off lets packets bypass all rules.
const NEWS_PERIOD: Duration = Duration::from_secs(1);

/// The agent's side of the thread that examines the node.
#[derive(Debug)]
pub struct Examinations {
    results: mpsc::Receiver<Examination>,
    pods: watch::Sender<Vec<IpAddr>>,
    /// What was found last.
    last: Examination,
}

impl Examinations {
    /// Starts to examine the node, now and then once a `period`, until this value is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut examiner: Examiner, period: Duration) -> io::Result<Self> {
        let (sender, results) = mpsc::channel(1);
        let (pods, latest_pods) = watch::channel(Vec::new());
        let work = move || {
            loop {
                let pods = latest_pods.borrow().clone();
                let start = Instant::now();
                let found = examiner.examine(&pods);
                debug!(took_ms = start.elapsed().as_secs_f64() * 1e3, "examined the node");
                if sender.blocking_send(found).is_err() {
                    return;
                }
                wait(&examiner, period);
            }
        };
        thread::Builder::new().name("conflicts".to_owned()).spawn(work)?;
        Ok(Self { results, pods, last: Examination::default() })
    }

    /// Waits for the next result.
    pub async fn next(&mut self) -> Examination {
        match self.results.recv().await {
            Some(found) => found,
            // The thread does not end before this value is dropped.
            None => std::future::pending().await,
        }
    }

    /// Sets the addresses of the pods whose attachments the next examinations check.
    pub fn set_pods(&self, pods: Vec<IpAddr>) {
        self.pods.send_replace(pods);
    }

    /// Logs how `found` differs from what was found last.
    pub fn log(&mut self, found: Examination) {
        for Detected { conflict, finding } in &found.conflicts {
            if !self.last.conflicts.iter().any(|before| before.finding == *finding) {
                let (what, what_to_do) = (&finding.what, &finding.what_to_do);
                error!(%conflict, what, what_to_do, "policies are not enforced on this node");
            }
        }
        for Detected { conflict, .. } in &self.last.conflicts {
            if !found.conflicts.iter().any(|now| now.conflict == *conflict) {
                info!(%conflict, "the conflict is over");
            }
        }
        for note in found.notes.iter().filter(|note| note.severity == preflight::Severity::Info) {
            if !self.last.notes.contains(note) {
                info!("{note}");
            }
        }
        self.last = found;
    }
}

/// Waits for a period, or until there is a reason to examine the node again.
fn wait(examiner: &Examiner, period: Duration) {
    let end = Instant::now() + period;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || examiner.has_news() {
            return;
        }
        thread::sleep(left.min(NEWS_PERIOD));
    }
}

/// The warnings for the node's report: conflicts that are ignored, and what may become a conflict.
#[must_use]
pub fn diagnostics(found: &Examination) -> Vec<Diagnostic> {
    let ignored = found.ignored.iter();
    let ignored =
        ignored.map(|detected| format!("ignored, as --ignore-conflicts says: {detected}"));
    let warnings = found.notes.iter().filter(|note| note.severity == preflight::Severity::Warning);
    let messages = ignored.chain(warnings.map(ToString::to_string));
    messages.map(node_warning).collect()
}
