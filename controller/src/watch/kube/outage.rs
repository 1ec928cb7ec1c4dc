//! When a watch that failed is tried again, and what the log says of it.
//!
//! An outage is one line when it begins, one more when its reason becomes another, and one when it
//! is over; retries in between are silent.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// The first wait after a failure, and the longest. A thousand nodes lose the same server at the
/// same moment: the waits double, and up to as much again is added by chance.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);

/// What comes of a failure before the first complete view.
const BEFORE_ALL: &str = "nothing new is decided before this works; what is in force stays";

/// The failures of one watch since it last worked.
#[derive(Debug)]
pub(super) struct Outage {
    kind: &'static str,
    waits: ExponentialBackoff,
    began: Option<Instant>,
    reason: Option<Reason>,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// The server could not be reached, or went away.
    Connection,
    /// The server refuses, with this HTTP status.
    Status(u16),
    /// The server answers, but not with what was asked for.
    Answer,
}

impl Outage {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, waits: waits(), began: None, reason: None }
    }

    /// Whether the last try failed.
    pub(super) fn is_on(&self) -> bool {
        self.began.is_some()
    }

    /// Takes note of a failure; says how long to wait. `is_first`: nothing of the kind was seen yet.
    pub(super) fn failed(&mut self, reason: Reason, error: &str, is_first: bool) -> Duration {
        let began = *self.began.get_or_insert_with(Instant::now);
        if self.reason.replace(reason) == Some(reason) {
            debug!(kind = self.kind, error, "still cannot watch");
        } else {
            let since_s = began.elapsed().as_secs();
            let effect = if is_first { BEFORE_ALL } else { "what is known stays in force" };
            warn!(kind = self.kind, error, since_s, "cannot watch; {effect}");
        }
        self.waits.next().unwrap_or(LONGEST)
    }

    /// It works again, if it did not.
    pub(super) fn over(&mut self) {
        if let Some(began) = self.began.take() {
            info!(kind = self.kind, after_ms = began.elapsed().as_millis(), "watching again");
            self.reason = None;
            self.waits = waits();
        }
    }
}

fn waits() -> ExponentialBackoff {
    let waits = ExponentialBuilder::new().with_min_delay(FIRST).with_max_delay(LONGEST);
    waits.with_factor(2.0).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_a_success() {
        let mut outage = Outage::new("Pod");
        let first = outage.failed(Reason::Connection, "refused", false);
        assert!((FIRST..=2 * FIRST).contains(&first), "{first:?}");
        let waits: Vec<Duration> =
            (0..40).map(|_| outage.failed(Reason::Connection, "refused", false)).collect();
        assert!(waits.iter().all(|wait| *wait <= 2 * LONGEST), "{waits:?}");
        assert!(waits.iter().skip(10).all(|wait| *wait >= LONGEST), "{waits:?}");
        assert!(outage.is_on());
        outage.over();
        assert!(!outage.is_on());
        assert!(outage.failed(Reason::Status(429), "too many", true) <= 2 * FIRST);
    }
}
