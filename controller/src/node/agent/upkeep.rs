//! What the agent does when no policy changes: it removes unreferenced rules and sets, retries
//! refused rules, compares the kernel with the policies and counts denials.

use std::time::Duration;

use portcullis_apiserver::back_off::BackOff;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Agent, BACK_OFF, CLEANUP_AFTER, CLEANUP_LIMIT, COUNT_PERIOD, State, chain};
use crate::dataplane::{self, ApplyReport};
use crate::node::local_pods::LocalPods;
use crate::node::status::Rules;

/// After a retry, the next one waits at least this many times as long as the retry took.
const RETRY_REST: u32 = 9;

impl Agent {
    /// Notes that the kernel enforces the rules of the engine. Unreferenced rules and sets are
    /// removed after `cleanup_after`.
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

    /// Retries a part of the rules that the tools or the kernel refused. The part is limited, so
    /// that changes need not wait for long.
    fn retry_refused(&mut self, mut back_off: BackOff) {
        let began = Instant::now();
        match self.dataplane.retry_refused(self.engine.compiled()) {
            Ok(report) => {
                // Many refusals take long: other changes must not wait for them most of the time.
                let rest = began.elapsed() * RETRY_REST;
                let rest = if report.retried_all { rest.max(back_off.wait()) } else { rest };
                self.refused_retry = Some((Instant::now() + rest, back_off));
                if !self.dataplane.has_refusals() {
                    info!("what was refused is applied now");
                    self.log_applied(&report);
                }
                self.enforced(&report, CLEANUP_AFTER);
            }
            Err(failure) => self.fail(&failure, "failed to apply what was refused before"),
        }
    }

    /// Does one task of upkeep that is due, even while many changes come.
    pub(super) fn maintain(&mut self, now: Instant) {
        let State::Applied { cleanup_at } = self.state else { return };
        if self.has_members_left() {
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
                self.fail(&failure, "failed to remove unreferenced rules and sets");
            }
        }
    }

    /// Logs and publishes a failure. Soon everything is read from the kernel and repaired.
    pub(super) fn fail(&mut self, failure: &dataplane::Error, what: &'static str) {
        let (family, rules) = (failure.family(), Rules::after(failure));
        let failure = chain(failure);
        self.publisher.failed(&failure, family, rules);
        error!(error = failure, "{what}");
        let mut back_off = BACK_OFF;
        self.state =
            State::Failing { retry_at: Instant::now() + back_off.wait(), back_off, family };
    }

    /// Reads from the kernel how many packets it denied, and publishes the counts.
    pub(super) fn count(&mut self) {
        self.count_at = Instant::now() + COUNT_PERIOD;
        match self.dataplane.denial_counts() {
            Ok(counts) => {
                self.count_failed = false;
                self.publisher.denied(counts);
            }
            Err(failure) if !std::mem::replace(&mut self.count_failed, true) => {
                let failure = chain(&failure);
                warn!(error = failure, "failed to count denials; retrying every 10 s");
            }
            Err(_) => {}
        }
    }
}
