//! When a status is written. Pure; the caller passes the time, which is monotonic.
//!
//! A difference is written a moment after it arose, so that one write has all of what belongs
//! together. Each object is written at most once in [`PERIOD_MIN`], however busy its cluster is.
//! Every agent watches the objects, so a write costs one message a node: details wait longer in a
//! cluster of more objects and nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a difference waits for others that belong to it.
pub const SETTLE: Duration = Duration::from_secs(1);
/// The least time between two writes of one object.
pub const PERIOD_MIN: Duration = Duration::from_secs(5);
/// The longest time between two writes of one object for a detail.
const DETAIL_PERIOD_MAX: Duration = Duration::from_mins(5);
/// How many messages a second details may cost, over all objects and nodes.
const MESSAGES_PER_SECOND: usize = 200;

/// How much the status of an object differs from the one to be written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// They are equal.
    None,
    /// In counts and messages only, as for every pod that is created or deleted.
    Detail,
    /// In what users wait for: a generation, or the status or reason of a condition.
    News,
}

/// The least time between two writes of one object for a detail, in a cluster of this size.
#[must_use]
pub fn detail_period(objects: usize, nodes: usize) -> Duration {
    let messages = objects.saturating_mul(nodes);
    let seconds = u64::try_from(messages / MESSAGES_PER_SECOND).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).clamp(PERIOD_MIN, DETAIL_PERIOD_MAX)
}

/// When each object's status was found to differ, and may be written.
#[derive(Default, Debug)]
pub struct Pace {
    objects: BTreeMap<String, Object>,
}

#[derive(Default, Debug)]
struct Object {
    differs_since: Option<Instant>,
    not_before: Option<Instant>,
    /// When the last write ended.
    ended: Option<Instant>,
    /// Whether a write of the object is under way.
    busy: bool,
}

impl Pace {
    /// Forgets the objects that do not exist any more.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.objects.retain(|name, object| object.busy || exists(name));
    }

    /// Whether the status of `name` is to be written now. If so, the write counts as under way
    /// until [`Pace::done`]. `detail_period`: see [`detail_period`].
    pub fn is_due(
        &mut self,
        name: &str,
        difference: Difference,
        detail_period: Duration,
        now: Instant,
    ) -> bool {
        if difference == Difference::None && !self.objects.contains_key(name) {
            return false;
        }
        let object = self.objects.entry(name.to_owned()).or_default();
        if difference == Difference::None {
            object.differs_since = None;
            return false;
        }
        let since = *object.differs_since.get_or_insert(now);
        let rests = difference == Difference::Detail
            && object.ended.is_some_and(|ended| now < ended + detail_period);
        let is_due = !object.busy
            && !rests
            && now >= since + SETTLE
            && object.not_before.is_none_or(|not_before| now >= not_before);
        object.busy |= is_due;
        is_due
    }

    /// Records that a write has ended; the next one may begin at `not_before`.
    pub fn done(&mut self, name: &str, now: Instant, not_before: Instant) {
        if let Some(object) = self.objects.get_mut(name) {
            let (not_before, ended) = (Some(not_before), Some(now));
            *object = Object { not_before, ended, ..Object::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Difference::{Detail, News, None};
    use super::*;

    #[test]
    fn a_status_is_written_a_moment_after_it_differs_and_not_again_for_a_while() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |millis| start + Duration::from_millis(millis);
        let mut is_due = |difference, now| pace.is_due("a", difference, PERIOD_MIN, now);
        assert!(!is_due(None, at(0)));
        assert!(!is_due(News, at(0)));
        assert!(!is_due(News, at(999)));
        assert!(is_due(News, at(1_000)));
        assert!(!is_due(News, at(2_000)), "it is under way");
        pace.done("a", at(2_000), at(2_000) + PERIOD_MIN);
        let mut is_due = |difference, now| pace.is_due("a", difference, PERIOD_MIN, now);
        assert!(!is_due(News, at(6_900)));
        assert!(!is_due(News, at(7_000) - SETTLE));
        assert!(is_due(News, at(7_900)));
    }

    #[test]
    fn a_difference_that_disappears_is_not_written() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut is_due = |difference, now| pace.is_due("a", difference, PERIOD_MIN, now);
        assert!(!is_due(News, start));
        assert!(!is_due(None, start + SETTLE / 2));
        assert!(!is_due(News, start + SETTLE));
        assert!(is_due(News, start + SETTLE * 2));
        pace.retain(|_| false);
        pace.done("a", start, start);
        pace.retain(|_| false);
        assert!(pace.objects.is_empty());
    }

    #[test]
    fn details_wait_longer_in_a_cluster_of_more_nodes() {
        for (objects, nodes, seconds) in
            [(3, 20, 5), (1, 1_000, 5), (10, 1_000, 50), (50, 1_000, 250), (1_000, 5_000, 300)]
        {
            let period = detail_period(objects, nodes);
            assert_eq!(period, Duration::from_secs(seconds), "{objects} on {nodes}");
        }
        let (start, mut pace) = (Instant::now(), Pace::default());
        let (after, long) =
            (|seconds| start + Duration::from_secs(seconds), Duration::from_secs(50));
        assert!(!pace.is_due("a", Detail, long, after(0)));
        assert!(pace.is_due("a", Detail, long, after(1)), "the first one does not wait");
        pace.done("a", after(1), after(1) + PERIOD_MIN);
        assert!(!pace.is_due("a", Detail, long, after(40)));
        assert!(!pace.is_due("a", Detail, long, after(50)));
        assert!(pace.is_due("a", Detail, long, after(51)));
        pace.done("a", after(51), after(51) + PERIOD_MIN);
        assert!(!pace.is_due("a", Detail, long, after(60)));
        assert!(pace.is_due("a", News, long, after(61)), "news do not");
    }
}
