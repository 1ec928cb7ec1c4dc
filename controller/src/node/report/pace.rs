//! When a report is written. Pure: the caller tells the time and draws the jitter.
//!
//! An API server with a thousand nodes gets three writes a second from agents that have nothing
//! new to say, and at most two hundred from agents that always have. A change that concerns all nodes
//! causes at most 500 writes a second, or one for each node if there are fewer.

use std::time::Duration;

use portcullis_apiserver::back_off::BackOff;
use tokio::time::Instant;

/// The least time between two writes.
pub const WRITE_PERIOD_MIN: Duration = Duration::from_secs(5);
/// A change is written at a random moment within this time: one policy can concern every node.
pub const SPREAD: Duration = Duration::from_secs(1);
/// In a large cluster, that time has so much for each node.
pub const SPREAD_OF_A_NODE: Duration = Duration::from_millis(2);
/// A report without news is written again after this time, give or take a tenth.
pub const REFRESH_PERIOD: Duration = Duration::from_mins(5);
/// An agent that is still loading says so after this time: what an earlier one wrote holds till
/// then, as does what it left in the kernel.
pub const LOADING_PATIENCE: Duration = Duration::from_secs(10);
/// The waits after failures that time alone can fix, give or take a half.
pub const BACK_OFF: BackOff = BackOff::new(Duration::from_secs(1), Duration::from_mins(1));
/// The wait after a failure that only an administrator can mend, give or take a tenth.
pub const HOPELESS_PAUSE: Duration = Duration::from_mins(5);

/// What there is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// What was written is still so.
    None,
    /// Nothing was applied yet.
    Loading,
    /// Something else than what was written.
    Some,
}

/// Why a write failed, as far as the next one is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setback {
    /// Time may fix it; the API server may ask for this much.
    Passing(Duration),
    /// The kind is not installed, or not granted.
    Hopeless,
}

/// Decides when to write.
#[derive(Clone, Debug)]
pub struct Pace {
    /// No write before this.
    earliest: Instant,
    /// A write then, whatever there is to say.
    latest: Instant,
    /// When the news that waits is written; drawn once.
    news_at: Option<Instant>,
    /// Whether nothing was written yet.
    first: bool,
    back_off: BackOff,
}

impl Pace {
    /// A pace for a report that was not written yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let latest = now + LOADING_PATIENCE;
        Self { earliest: now, latest, news_at: None, first: true, back_off: BACK_OFF }
    }

    /// When to write. `jitter` is drawn from 0 to 1, and `nodes` is how many nodes the cluster has.
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

    /// A write succeeded.
    pub fn wrote(&mut self, now: Instant, jitter: f64) {
        *self = Self {
            earliest: now + WRITE_PERIOD_MIN,
            latest: now + REFRESH_PERIOD.mul_f64(0.9 + 0.2 * jitter),
            news_at: None,
            first: false,
            back_off: BACK_OFF,
        };
    }

    /// A write failed.
    pub fn failed(&mut self, now: Instant, setback: Setback, jitter: f64) {
        let wait = match setback {
            Setback::Hopeless => HOPELESS_PAUSE.mul_f64(0.9 + 0.2 * jitter),
            Setback::Passing(asked) => self.back_off.wait().mul_f64(0.5 + jitter).max(asked),
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
        assert_eq!(later.due(now, News::None, 10, 0.5), start + REFRESH_PERIOD, "taken back");
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
    fn a_report_without_news_is_refreshed_so_that_silence_is_not_quiet() {
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
            pace.failed(start, Setback::Passing(Duration::ZERO), 0.5);
            assert_eq!(pace.due(start, News::Some, 10, 0.5), start + seconds * SECOND);
        }
        pace.failed(start, Setback::Passing(90 * SECOND), 0.5);
        assert_eq!(pace.due(start, News::Some, 10, 0.5), start + 90 * SECOND);
        pace.failed(start, Setback::Hopeless, 0.5);
        assert_eq!(pace.due(start, News::Some, 10, 0.5), start + HOPELESS_PAUSE);
        pace.wrote(start, 0.5);
        pace.failed(start, Setback::Passing(Duration::ZERO), 0.5);
        assert_eq!(pace.due(start, News::Some, 10, 0.5), start + SECOND, "forgotten by a success");
    }
}
