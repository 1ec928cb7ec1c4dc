//! When each finding is reported. Pure; the caller passes the time, which is monotonic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use policy_engine::object::{Kind, ObjectRef};
use tokio::time::Instant;

use crate::cluster::findings::{Finding, Reason};

/// An API server keeps Events for an hour; a finding that still holds then is reported again.
const AGAIN: Duration = Duration::from_mins(65);
/// A roll-out in progress may bring the port that no pod has yet, and a node may recover.
const PORT_DELAY: Duration = Duration::from_secs(30);
/// Objects that belong together arrive within this time.
const SETTLE: Duration = Duration::from_secs(1);
/// Events that may be written at once, before the rate limit applies.
const BURST: u32 = 50;
/// The average time between two Events: a cluster of 10,000 bad policies takes half an hour.
const INTERVAL: Duration = Duration::from_millis(200);

/// The content of an Event: one finding about one generation of one policy, or about a Node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectFinding {
    /// The policy or the Node.
    pub object: ObjectRef,
    /// The uid of the object.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// The finding that the Event reports.
    pub finding: Finding,
}

/// All findings, and when each is due.
#[derive(Debug)]
pub struct Ledger {
    delay: Duration,
    /// When each is due; `None` while it is being written.
    due: BTreeMap<ObjectFinding, Option<Instant>>,
    queue: BTreeSet<(Instant, ObjectFinding)>,
    /// When the bucket of tokens will be full again.
    full_at: Option<Instant>,
}

impl Ledger {
    /// An empty ledger. Findings that a roll-out may cause for a while wait for `delay`.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay, due: BTreeMap::new(), queue: BTreeSet::new(), full_at: None }
    }

    /// Replaces the findings about objects of the kinds that are `concerned`. The delay of a new
    /// finding begins at `now`.
    pub fn update(
        &mut self,
        concerned: impl Fn(Kind) -> bool,
        found: BTreeSet<ObjectFinding>,
        now: Instant,
    ) {
        let queue = &mut self.queue;
        self.due.retain(|object_finding, due| {
            let is_concerned = concerned(object_finding.object.kind);
            let stays = !is_concerned || found.contains(object_finding);
            if let (false, Some(due)) = (stays, *due) {
                queue.remove(&(due, object_finding.clone()));
            }
            stays
        });
        for object_finding in found {
            if !self.due.contains_key(&object_finding) {
                let due = now + self.patience(object_finding.finding.reason);
                self.queue.insert((due, object_finding.clone()));
                self.due.insert(object_finding, Some(due));
            }
        }
    }

    /// The next finding to report, if one is due and the rate limit allows it. The same finding is
    /// returned again only after [`Ledger::reported`] or [`Ledger::failed`].
    pub fn next(&mut self, now: Instant) -> Option<ObjectFinding> {
        self.queue.first().filter(|(due, _)| *due <= now)?;
        let full_at = self.full_at.unwrap_or(now).max(now) + INTERVAL;
        if full_at > now + INTERVAL * BURST {
            return None;
        }
        let (_, object_finding) = self.queue.pop_first()?;
        self.full_at = Some(full_at);
        self.due.insert(object_finding.clone(), None);
        Some(object_finding)
    }

    /// Records that the Event was written, by this process or another.
    pub fn reported(&mut self, object_finding: &ObjectFinding, now: Instant) {
        self.again(object_finding, now + AGAIN);
    }

    /// Records that the Event could not be written; the finding is due again at `retry`.
    pub fn failed(&mut self, object_finding: &ObjectFinding, retry: Instant) {
        self.again(object_finding, retry);
    }

    /// How many findings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether there are no findings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn again(&mut self, object_finding: &ObjectFinding, at: Instant) {
        // The finding may have been removed while its Event was written.
        if let Some(due) = self.due.get_mut(object_finding)
            && due.is_none()
        {
            *due = Some(at);
            self.queue.insert((at, object_finding.clone()));
        }
    }

    fn patience(&self, reason: Reason) -> Duration {
        match reason {
            Reason::Applied => Duration::ZERO,
            Reason::FailedClosed | Reason::Suspicious => SETTLE.min(self.delay),
            Reason::NamedPortUnresolved | Reason::NotEnforcing => PORT_DELAY.min(self.delay),
            Reason::SelectsNothing | Reason::PeerMatchesNothing => self.delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_mins(10);

    fn object_finding(name: &str, reason: Reason) -> ObjectFinding {
        let finding = Finding { reason, field: "spec".to_owned(), message: "m".to_owned() };
        ObjectFinding {
            object: ObjectRef::new(Kind::NetworkPolicy, "shop", name),
            uid: "u".to_owned(),
            generation: 1,
            finding,
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_selector_that_selects_nothing_is_reported_after_ten_minutes_and_then_hourly() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(TEN_MINUTES));
        let one = object_finding("a", Reason::SelectsNothing);
        ledger.update(Kind::is_policy, [one.clone()].into(), start);
        assert_eq!(ledger.next(after(start, 599)), None);
        ledger.update(Kind::is_policy, [one.clone()].into(), after(start, 599));
        assert_eq!(ledger.next(after(start, 600)), Some(one.clone()));
        assert_eq!(ledger.next(after(start, 700)), None, "it is being written");
        ledger.reported(&one, after(start, 700));
        assert_eq!(ledger.next(after(start, 700 + 3_600)), None);
        assert_eq!(ledger.next(after(start, 700 + 3_900)), Some(one));
    }

    #[test]
    fn what_is_fixed_is_not_reported_and_waits_again_when_it_comes_back() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(TEN_MINUTES));
        let one = object_finding("a", Reason::SelectsNothing);
        ledger.update(Kind::is_policy, [one.clone()].into(), start);
        ledger.update(Kind::is_policy, BTreeSet::new(), after(start, 300));
        assert_eq!(ledger.next(after(start, 900)), None);
        ledger.update(Kind::is_policy, [one.clone()].into(), after(start, 900));
        assert_eq!(ledger.next(after(start, 1_499)), None);
        assert_eq!(ledger.next(after(start, 1_500)), Some(one));
    }

    #[test]
    fn an_unparsable_part_is_reported_at_once_and_a_port_half_a_minute_later() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(TEN_MINUTES));
        let closed = object_finding("a", Reason::FailedClosed);
        let port = object_finding("b", Reason::NamedPortUnresolved);
        ledger.update(Kind::is_policy, [closed.clone(), port.clone()].into(), start);
        assert_eq!(ledger.next(after(start, 1)), Some(closed));
        assert_eq!(ledger.next(after(start, 29)), None);
        assert_eq!(ledger.next(after(start, 30)), Some(port));
    }

    #[test]
    fn what_is_found_about_nodes_leaves_what_is_found_about_policies() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(TEN_MINUTES));
        let closed = object_finding("a", Reason::FailedClosed);
        let node = ObjectFinding {
            object: ObjectRef::cluster(Kind::Node, "n"),
            ..object_finding("n", Reason::NotEnforcing)
        };
        ledger.update(Kind::is_policy, [closed.clone()].into(), start);
        ledger.update(|kind| kind == Kind::Node, [node.clone()].into(), start);
        assert_eq!(ledger.next(after(start, 29)), Some(closed));
        assert_eq!(ledger.next(after(start, 29)), None, "it may recover");
        assert_eq!(ledger.next(after(start, 30)), Some(node));
    }

    #[test]
    fn ten_thousand_bad_policies_do_not_flood() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(Duration::ZERO));
        let all = (0..10_000).map(|at| object_finding(&format!("{at}"), Reason::FailedClosed));
        ledger.update(Kind::is_policy, all.collect(), start);
        let due = |ledger: &mut Ledger, now| std::iter::from_fn(|| ledger.next(now)).count();
        assert_eq!(due(&mut ledger, start), 50);
        assert_eq!(due(&mut ledger, start), 0);
        assert_eq!(due(&mut ledger, after(start, 1)), 5);
        let later = (2..3_000).map(|at| due(&mut ledger, after(start, at))).sum::<usize>();
        assert_eq!(later, 10_000 - 55, "each is reported once");
    }

    #[test]
    fn a_write_that_failed_is_tried_again() {
        let (start, mut ledger) = (Instant::now(), Ledger::new(Duration::ZERO));
        let one = object_finding("a", Reason::FailedClosed);
        ledger.update(Kind::is_policy, [one.clone()].into(), start);
        assert_eq!(ledger.next(start), Some(one.clone()));
        ledger.failed(&one, after(start, 5));
        assert_eq!(ledger.next(after(start, 4)), None);
        assert_eq!(ledger.next(after(start, 5)), Some(one));
    }
}
