//! Comparing the kernel with the policies, and repairing what differs. No change waits for it: the kernel
//! is read on another thread, and compared in parts.

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::hooks::VERIFY_PAUSE;
use super::{Agent, CLEANUP_AFTER, State};
use crate::dataplane::drift::Drift;
use crate::dataplane::{self, ApplyReport, Reading};

/// A comparison that goes on.
#[derive(Default)]
pub(super) enum Comparison {
    /// There is none.
    #[default]
    Idle,
    /// What is applied is being read.
    Reads(JoinHandle<Result<Reading, dataplane::Error>>),
    /// It was read, and is compared in parts.
    Compares {
        /// What is left to compare.
        reading: Reading,
        /// How much differed so far.
        repaired: usize,
    },
}

impl Comparison {
    /// Whether the next part can be compared.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Compares { .. })
    }

    /// What was read, once it is; `None` if that failed.
    pub(super) async fn next(&mut self) -> Option<Reading> {
        let Self::Reads(reader) = self else { return std::future::pending().await };
        match reader.await {
            Ok(Ok(reading)) => return Some(reading),
            Ok(Err(error)) => debug!(%error, "failed to read what is applied"),
            Err(error) => debug!(%error, "the thread that reads what is applied has ended"),
        }
        None
    }
}

impl Agent {
    /// Reads what is applied. If the last comparison still goes on, it is read again after that: it may
    /// have changed since.
    pub(super) fn begin_comparison(&mut self) {
        if !matches!(self.comparison, Comparison::Idle) {
            self.verify_at = Instant::now() + VERIFY_PAUSE;
            return;
        }
        self.comparison_begins();
        let reader = self.dataplane.reader();
        self.comparison = Comparison::Reads(spawn_blocking(move || reader.read()));
    }

    fn comparison_begins(&mut self) {
        let began = Instant::now();
        (self.verified_at, self.verify_at) = (began, began + self.verify_period);
        self.report_hooks();
    }

    /// What is applied was read, unless that failed.
    pub(super) fn read(&mut self, reading: Option<Reading>) {
        self.comparison = match reading {
            Some(reading) => Comparison::Compares { reading, repaired: 0 },
            None => Comparison::Idle,
        };
        // Reports why, and finds what can be read. While applies fail, each reads all.
        if !self.comparison.is_read() && matches!(self.state, State::Applied { .. }) {
            self.verify();
        }
    }

    /// Compares a part of what was read, and repairs what differs.
    pub(super) fn compare_part(&mut self) {
        let comparison = std::mem::take(&mut self.comparison);
        let Comparison::Compares { mut reading, repaired } = comparison else {
            self.comparison = comparison;
            return;
        };
        match self.dataplane.compare_part(self.engine.compiled(), &mut reading) {
            Ok(drift) => {
                let repaired = repaired + self.repaired(&drift);
                if reading.is_compared() {
                    self.publisher.verified(repaired);
                } else {
                    self.comparison = Comparison::Compares { reading, repaired };
                }
                self.enforced(&ApplyReport::default(), CLEANUP_AFTER);
            }
            Err(failure) => {
                self.again(&failure, "failed to compare the kernel with the policies");
            }
        }
    }

    /// Compares everything with the kernel at once, and repairs what differs.
    pub(super) fn verify(&mut self) {
        self.comparison_begins();
        match self.dataplane.verify(self.engine.compiled()) {
            Ok(drift) => {
                let repaired = self.repaired(&drift);
                self.publisher.verified(repaired);
                self.enforced(&ApplyReport::default(), CLEANUP_AFTER);
            }
            Err(failure) => {
                self.again(&failure, "failed to compare the kernel with the policies");
            }
        }
    }

    /// Reports what a comparison has repaired; gives how much, without the hooks.
    pub(super) fn repaired(&mut self, drift: &[Drift]) -> usize {
        let hooks = drift.iter().filter(|found| matches!(found, Drift::Hook(_))).count();
        self.publisher.hooks_restored(hooks);
        drift.iter().for_each(|found| warn!("{found}"));
        self.connections.repaired(drift.len());
        drift.len() - hooks
    }
}
