//! When a status is written. Pure; time is given, and monotonic.
//!
//! A difference is written a moment after it arose, so that what belongs together arrives first,
//! and each object at most once in a while, however busy its cluster is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a difference waits for what belongs to it.
pub const SETTLE: Duration = Duration::from_secs(1);
/// The least time between two writes of one object.
pub const PERIOD_MIN: Duration = Duration::from_secs(5);

/// When each object's status was found to differ, and may be written.
#[derive(Default, Debug)]
pub struct Pace {
    objects: BTreeMap<String, Object>,
}

#[derive(Default, Debug)]
struct Object {
    differs_since: Option<Instant>,
    not_before: Option<Instant>,
    /// A write of it is under way.
    busy: bool,
}

impl Pace {
    /// Forgets what is gone.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.objects.retain(|name, object| object.busy || exists(name));
    }

    /// Whether the status of `name` is to be written now; when it is, it is taken to be under way.
    pub fn is_due(&mut self, name: &str, differs: bool, now: Instant) -> bool {
        if !differs && !self.objects.contains_key(name) {
            return false;
        }
        let object = self.objects.entry(name.to_owned()).or_default();
        if !differs {
            object.differs_since = None;
            return false;
        }
        let since = *object.differs_since.get_or_insert(now);
        let is_due = !object.busy
            && now >= since + SETTLE
            && object.not_before.is_none_or(|not_before| now >= not_before);
        object.busy |= is_due;
        is_due
    }

    /// The write has ended; the next one may be after `not_before`.
    pub fn done(&mut self, name: &str, not_before: Instant) {
        if let Some(object) = self.objects.get_mut(name) {
            *object = Object { not_before: Some(not_before), ..Object::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_a_moment_after_it_differs_and_not_again_for_a_while() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!pace.is_due("a", false, at(0)));
        assert!(!pace.is_due("a", true, at(0)));
        assert!(!pace.is_due("a", true, at(999)));
        assert!(pace.is_due("a", true, at(1_000)));
        assert!(!pace.is_due("a", true, at(2_000)), "it is under way");
        pace.done("a", at(2_000) + PERIOD_MIN);
        assert!(!pace.is_due("a", true, at(6_900)));
        assert!(!pace.is_due("a", true, at(7_000) - SETTLE));
        assert!(pace.is_due("a", true, at(7_900)));
    }

    #[test]
    fn a_difference_that_goes_away_is_not_written() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert!(!pace.is_due("a", true, start));
        assert!(!pace.is_due("a", false, start + SETTLE / 2));
        assert!(!pace.is_due("a", true, start + SETTLE));
        assert!(pace.is_due("a", true, start + SETTLE * 2));
        pace.retain(|_| false);
        pace.done("a", start);
        pace.retain(|_| false);
        assert!(pace.objects.is_empty());
    }
}
