//! When a watch that failed is tried again, and what is logged.
//!
//! One line is logged when an outage begins, one when its reason changes, and one when it is over;
//! retries in between are not logged.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::back_off::BackOff;
use crate::failure::{Failure, Reason};

/// The first wait after a failure, and the longest. A thousand nodes lose the same server at the
/// same moment: the waits double, and up to as much again is added at random.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);

/// A watch that expires twice within this time is listed again only after a wait.
const EXPIRES_RARELY: Duration = Duration::from_mins(1);

/// The consequence of a failure before the first complete list.
const BEFORE_ALL: &str = "no change is applied until this works; what is applied stays";

/// The failures of one watch since it last worked.
#[derive(Debug)]
pub(super) struct Outage {
    kind: &'static str,
    back_off: BackOff,
    began: Option<Instant>,
    reason: Option<Reason>,
    /// When the version to continue from had expired last, and the waits if that happens often.
    expired: Option<Instant>,
    expiry_back_off: BackOff,
}

impl Outage {
    pub(super) fn new(kind: &'static str) -> Self {
        let back_off = BackOff::new(FIRST, LONGEST);
        Self { kind, back_off, began: None, reason: None, expired: None, expiry_back_off: back_off }
    }

    /// Whether the last attempt failed.
    pub(super) fn is_on(&self) -> bool {
        self.began.is_some()
    }

    /// Records a failure and returns how long to wait. `is_first`: no list was complete before it.
    pub(super) fn failed(&mut self, failure: &Failure, is_first: bool) -> Duration {
        let (kind, error) = (self.kind, &failure.error);
        let began = *self.began.get_or_insert_with(Instant::now);
        if self.reason.replace(failure.reason) == Some(failure.reason) {
            debug!(kind, error, "still cannot watch");
        } else {
            let since_s = began.elapsed().as_secs();
            let effect = if is_first { BEFORE_ALL } else { "known policies stay enforced" };
            warn!(kind, error, since_s, "cannot watch; {effect}");
        }
        self.back_off.wait().mul_f64(1.0 + fastrand::f64()).max(failure.retry_after)
    }

    /// Records that the version to continue from has expired. Returns how long to wait before the
    /// next list: zero, unless a version expired shortly before. A list that succeeds does not end
    /// these waits.
    pub(super) fn expired(&mut self) -> Duration {
        let is_rare = |last: Instant| last.elapsed() > EXPIRES_RARELY;
        if self.expired.replace(Instant::now()).is_none_or(is_rare) {
            self.expiry_back_off.reset();
            return Duration::ZERO;
        }
        self.expiry_back_off.wait().mul_f64(1.0 + fastrand::f64())
    }

    /// Records that the watch works; logs the end of an outage.
    pub(super) fn over(&mut self) {
        if let Some(began) = self.began.take() {
            info!(kind = self.kind, after_ms = began.elapsed().as_millis(), "watching again");
            self.reason = None;
            self.back_off.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_again_after_a_success() {
        let mut outage = Outage::new("Pod");
        let refused = Failure::new(Reason::Connection, "refused");
        let first = outage.failed(&refused, false);
        assert!((FIRST..=2 * FIRST).contains(&first), "{first:?}");
        let waits: Vec<Duration> = (0..40).map(|_| outage.failed(&refused, false)).collect();
        assert!(waits.iter().all(|wait| *wait <= 2 * LONGEST), "{waits:?}");
        assert!(waits.iter().skip(10).all(|wait| *wait >= LONGEST), "{waits:?}");
        assert!(outage.is_on());
        outage.over();
        assert!(!outage.is_on());
        let refused = Failure::new(Reason::Status(429), "too many");
        assert!(outage.failed(&refused, true) <= 2 * FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_expires_each_watch_is_asked_less_and_less_often() {
        let mut outage = Outage::new("Pod");
        assert_eq!(outage.expired(), Duration::ZERO);
        for wait in [FIRST, FIRST * 2, FIRST * 4] {
            let waits = outage.expired();
            assert!((wait..=wait * 2).contains(&waits), "{waits:?}");
            outage.over();
        }
        tokio::time::advance(EXPIRES_RARELY * 2).await;
        assert_eq!(outage.expired(), Duration::ZERO);
        assert!(outage.expired() <= FIRST * 2);
    }
}
