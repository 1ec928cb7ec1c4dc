//! Compares the kernel with the policies and repairs differences. Changes do not wait for it:
//! another thread reads the kernel, and the agent compares in parts.

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::hooks::VERIFY_PAUSE;
use super::{Agent, CLEANUP_AFTER, State};
use crate::dataplane::drift::Drift;
use crate::dataplane::{self, ApplyReport, Reading};

/// The state of the comparison.
#[derive(Default)]
pub(super) enum Comparison {
    /// No comparison runs.
    #[default]
    Idle,
    /// A thread reads the applied rules and sets.
    Reads(JoinHandle<Result<Reading, dataplane::Error>>),
    /// The applied rules and sets were read, and are compared in parts.
    Compares {
        /// What remains to be compared.
        reading: Reading,
        /// How many differences were repaired so far.
        repaired: usize,
    },
}

impl Comparison {
    /// Whether the next part can be compared.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Compares { .. })
    }

    /// Waits for the result of the thread; `None` if reading failed.
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
    /// Starts to read the applied rules and sets. If the last comparison still runs, reads them
    /// after it, because they may have changed since it began.
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
        if let State::Applied { .. } = self.state {
            Self::end_boot(None);
        }
    }

    /// Takes the applied rules and sets from the thread; `None` if reading failed.
    pub(super) fn read(&mut self, reading: Option<Reading>) {
        self.comparison = match reading {
            Some(reading) => Comparison::Compares { reading, repaired: 0 },
            None => Comparison::Idle,
        };
        // `verify` reports why, and compares what can be read. While applies fail, each reads all.
        if !self.comparison.is_read() && matches!(self.state, State::Applied { .. }) {
            self.verify();
        }
    }

    /// Compares a part of the applied rules and sets, and repairs differences.
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
                self.fail(&failure, "failed to compare the kernel with the policies");
            }
        }
    }

    /// Compares everything with the kernel in one step, and repairs differences.
    pub(super) fn verify(&mut self) {
        self.comparison_begins();
        match self.dataplane.verify(self.engine.compiled()) {
            Ok(drift) => {
                let repaired = self.repaired(&drift);
                self.publisher.verified(repaired);
                self.enforced(&ApplyReport::default(), CLEANUP_AFTER);
            }
            Err(failure) => {
                self.fail(&failure, "failed to compare the kernel with the policies");
            }
        }
    }

    /// Reports the repairs of a comparison; returns how many there were, without hooks.
    pub(super) fn repaired(&mut self, drift: &[Drift]) -> usize {
        let hooks = drift.iter().filter(|found| matches!(found, Drift::Hook(_))).count();
        self.publisher.hooks_restored(hooks);
        drift.iter().for_each(|found| warn!("{found}"));
        self.connections.repaired(drift.len());
        drift.len() - hooks
    }
}
