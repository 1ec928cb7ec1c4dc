//! What the agent does when no policy changes: it removes what is unreferenced, tries again what was
//! refused, counts.

use std::time::Duration;

use portcullis_apiserver::back_off::BackOff;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Agent, BACK_OFF, CLEANUP_AFTER, CLEANUP_LIMIT, COUNT_PERIOD, State, chain};
use crate::dataplane::{self, ApplyReport};
use crate::node::local_pods::LocalPods;
use crate::node::status::Rules;

/// How much longer than it took, what was refused is not tried again.
const RETRY_REST: u32 = 9;

impl Agent {
    /// The kernel does what the engine says; unreferenced rules and sets are removed after `cleanup_after`.
    pub(super) fn enforced(&mut self, report: &ApplyReport, cleanup_after: Duration) {
        let now = Instant::now();
        self.members_waiting = report.members_waiting;
        let is_pending = self.local_pods.as_ref().is_some_and(LocalPods::is_changed);
        let unreferenced = report.postponed || report.sets_in_use > 0 || is_pending;
        self.unreferenced = unreferenced.then(|| self.unreferenced.unwrap_or(now));
        let cleanup_at =
            self.unreferenced.map(|since| (now + cleanup_after).min(since + CLEANUP_LIMIT));
        self.state = State::Applied { cleanup_at };
        self.refused_retry = self.dataplane.has_refusals().then(|| {
            self.refused_retry.unwrap_or_else(|| {
                let mut back_off = BACK_OFF;
                (now + back_off.wait(), back_off)
            })
        });
    }

    /// Tries again a part of what the tools or the kernel refused. Nothing else waits for it for long.
    fn retry_refused(&mut self, mut back_off: BackOff) {
        let began = Instant::now();
        match self.dataplane.retry_refused(self.engine.compiled()) {
            Ok(report) => {
                // Many refusals take long. Other changes must not wait for them most of the time.
                let rest = began.elapsed() * RETRY_REST;
                let rest = if report.retried_all { rest.max(back_off.wait()) } else { rest };
                self.refused_retry = Some((Instant::now() + rest, back_off));
                if !self.dataplane.has_refusals() {
                    info!("what was refused is applied now");
                    self.log_applied(&report);
                }
                self.enforced(&report, CLEANUP_AFTER);
            }
            Err(failure) => self.again(&failure, "failed to apply what was refused before"),
        }
    }

    /// Tidies, verifies or counts when it is time, however many changes come in.
    pub(super) fn look_after(&mut self, now: Instant) {
        let State::Applied { cleanup_at } = self.state else { return };
        if self.members_waiting > 0 {
            return; // The next round follows at once.
        }
        if let Some((_, back_off)) = self.refused_retry.filter(|(at, _)| now >= *at) {
            self.retry_refused(back_off);
        } else if cleanup_at.is_some_and(|at| now >= at) {
            self.remove_unreferenced();
        } else if self.comparison.is_read() {
            self.compare_part();
        } else if now >= self.verify_at {
            self.begin_comparison();
        } else if now >= self.count_at {
            self.count();
        }
    }

    pub(super) fn remove_unreferenced(&mut self) {
        self.unreferenced = None;
        self.attach();
        match self.dataplane.remove_unreferenced(self.engine.compiled()) {
            Ok(report) => {
                debug!(sets_in_use = report.sets_in_use, "removed unreferenced rules and sets");
                self.enforced(&report, CLEANUP_LIMIT);
            }
            Err(failure) => {
                self.again(&failure, "failed to remove unreferenced rules and sets");
            }
        }
    }

    /// Reads back and repairs, soon.
    pub(super) fn again(&mut self, failure: &dataplane::Error, what: &'static str) {
        let (family, rules) = (failure.family(), Rules::after(failure));
        let failure = chain(failure);
        self.publisher.failed(&failure, family, rules);
        error!(error = failure, "{what}");
        let mut back_off = BACK_OFF;
        self.state =
            State::Failing { retry_at: Instant::now() + back_off.wait(), back_off, family };
    }

    /// Asks the kernel how much it denied.
    pub(super) fn count(&mut self) {
        self.count_at = Instant::now() + COUNT_PERIOD;
        match self.dataplane.denial_counts() {
            Ok(counts) => {
                self.uncounted = false;
                self.publisher.denied(counts);
            }
            Err(failure) if !std::mem::replace(&mut self.uncounted, true) => {
                let failure = chain(&failure);
                warn!(error = failure, "failed to count denials; retrying every 10 s");
            }
            Err(_) => {}
        }
    }
}
