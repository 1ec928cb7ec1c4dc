//! When a report is written. Pure: the caller passes the time and the jitter.
//!
//! An API server with a thousand nodes gets three writes a second while no report changes, and at
//! most two hundred while all reports change all the time. A change that concerns all nodes causes
//! at most 500 writes a second, or one for each node if there are fewer.

use std::time::Duration;

use portcullis_apiserver::back_off::BackOff;
use tokio::time::Instant;

/// The least time between two writes.
pub const WRITE_PERIOD_MIN: Duration = Duration::from_secs(5);
/// A change is written at a random moment within this time: one policy can concern every node.
pub const SPREAD: Duration = Duration::from_secs(1);
/// The part of that time for each node, in clusters of more than 500 nodes.
pub const SPREAD_OF_A_NODE: Duration = Duration::from_millis(2);
/// An unchanged report is written again after this time, 10 % more or less.
pub const REFRESH_PERIOD: Duration = Duration::from_mins(5);
/// An agent that is still loading reports that after this time. Until then the report of the agent
/// before it stays, and so do the rules that it left in the kernel.
pub const LOADING_PATIENCE: Duration = Duration::from_secs(10);
/// The waits after failures that can pass without a change of the cluster, 50 % more or less.
pub const BACK_OFF: BackOff = BackOff::new(Duration::from_secs(1), Duration::from_mins(1));
/// The wait after a failure that only an administrator can fix, 10 % more or less.
pub const PERMANENT_PAUSE: Duration = Duration::from_mins(5);

/// What has changed since the report was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// Nothing: the written report is still correct.
    None,
    /// No report was written yet, and the agent has not applied any rules.
    Loading,
    /// The contents of the report.
    Some,
}

/// How a write failed, which decides when the next attempt follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setback {
    /// The failure may pass; the API server asks to wait at least this long (zero if it does not).
    Transient(Duration),
    /// The CRD is not installed, or RBAC does not allow the write.
    Permanent,
}

/// Decides when to write.
#[derive(Clone, Debug)]
pub struct Pace {
    /// No write happens before this time.
    earliest: Instant,
    /// A write happens at this time even without news.
    latest: Instant,
    /// When waiting news is written; drawn once for each change.
    news_at: Option<Instant>,
    /// Whether no report was written yet.
    first: bool,
    back_off: BackOff,
}

impl Pace {
    /// The pace of a report that was not written yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let latest = now + LOADING_PATIENCE;
        Self { earliest: now, latest, news_at: None, first: true, back_off: BACK_OFF }
    }

    /// When to write next. `jitter` is a random number from 0 to 1; the cluster has `nodes` nodes.
    pub fn due(&mut self, now: Instant, news: News, nodes: u32, jitter: f64) -> Instant {
        let within = SPREAD.max(SPREAD_OF_A_NODE * nodes);
        let spread = if self.first { Duration::ZERO } else { within.mul_f64(jitter) };
        match news {
            News::None => self.news_at = None,
            News::Loading if self.first => {}
            News::Loading | News::Some => {
                self.news_at.get_or_insert(now + spread);
            }
        }
        let wanted = self.news_at.map_or(self.latest, |at| at.min(self.latest));
        wanted.max(self.earliest)
    }

    /// Records a write that succeeded.
    pub fn wrote(&mut self, now: Instant, jitter: f64) {
        *self = Self {
            earliest: now + WRITE_PERIOD_MIN,
            latest: now + REFRESH_PERIOD.mul_f64(0.9 + 0.2 * jitter),
            news_at: None,
            first: false,
            back_off: BACK_OFF,
        };
    }

    /// Records a write that failed.
    pub fn failed(&mut self, now: Instant, setback: Setback, jitter: f64) {
        let wait = match setback {
            Setback::Permanent => PERMANENT_PAUSE.mul_f64(0.9 + 0.2 * jitter),
            Setback::Transient(asked) => self.back_off.wait().mul_f64(0.5 + jitter).max(asked),
        };
        self.earliest = now + wait;
        self.latest = self.earliest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_sync_is_written_at_once_and_loading_after_a_while() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(start, News::Loading, 10, 0.5), start + LOADING_PATIENCE);
        let now = start + SECOND;
        assert_eq!(pace.due(now, News::Some, 10, 0.5), now);
    }

    #[test]
    fn changes_are_written_together_and_no_more_often_than_every_few_seconds() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.wrote(start, 0.5);
        let now = start + SECOND;
        assert_eq!(pace.due(now, News::Some, 10, 0.5), start + WRITE_PERIOD_MIN);
        assert_eq!(pace.due(now + SECOND, News::Some, 10, 0.5), start + WRITE_PERIOD_MIN);
        let now = start + 60 * SECOND;
        let mut later = pace.clone();
        later.wrote(start, 0.5);
        assert_eq!(later.due(now, News::Some, 10, 0.25), now + SPREAD / 4);
        assert_eq!(
            later.due(now + SPREAD / 8, News::Some, 10, 0.9),
            now + SPREAD / 4,
            "drawn once"
        );
        assert_eq!(
            later.due(now, News::None, 10, 0.5),
            start + REFRESH_PERIOD,
            "the change was undone"
        );
    }

    #[test]
    fn in_a_large_cluster_agents_do_not_write_at_the_same_time() {
        let start = Instant::now();
        let now = start + 60 * SECOND;
        for (nodes, seconds) in [(10, 1), (500, 1), (5_000, 10)] {
            let mut pace = Pace::new(start);
            pace.wrote(start, 0.5);
            assert_eq!(pace.due(now, News::Some, nodes, 1.0), now + seconds * SECOND);
        }
    }

    #[test]
    fn a_report_without_news_is_refreshed() {
        let start = Instant::now();
        for (jitter, percent) in [(0.0, 90), (1.0, 110)] {
            let mut pace = Pace::new(start);
            pace.wrote(start, jitter);
            let due = pace.due(start, News::None, 10, 0.5).duration_since(start);
            assert!(due.abs_diff(REFRESH_PERIOD * percent / 100) < SECOND / 1000, "{due:?}");
        }
    }

    #[test]
    fn failures_back_off_to_a_limit_and_news_do_not_hasten_a_retry() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            pace.failed(start, Setback::Transient(Duration::ZERO), 0.5);
            assert_eq!(pace.due(start, News::Some, 10, 0.5), start + seconds * SECOND);
        }
        pace.failed(start, Setback::Transient(90 * SECOND), 0.5);
        assert_eq!(pace.due(start, News::Some, 10, 0.5), start + 90 * SECOND);
        pace.failed(start, Setback::Permanent, 0.5);
        assert_eq!(pace.due(start, News::Some, 10, 0.5), start + PERMANENT_PAUSE);
        pace.wrote(start, 0.5);
        pace.failed(start, Setback::Transient(Duration::ZERO), 0.5);
        assert_eq!(
            pace.due(start, News::Some, 10, 0.5),
            start + SECOND,
            "a success resets the back-off"
        );
    }
}
