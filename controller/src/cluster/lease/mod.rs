//! One leader at a time, by a Lease (client-go's algorithm): pure. `election` sends the requests.
//!
//! ```text
//! GET ─► observe ─► attempt ─► Create | Replace (if no other has written it since) ─► written
//!                       └────► Wait
//! ```
//!
//! - Guarantee: a leader stops to lead before another may begin. Its term ends one renew deadline
//!   after it *sent* its last renewal. Other contenders wait for the lease duration, which is
//!   longer, after they *saw* the Lease change.
//! - Each machine measures these times with its own monotonic clock. The times in the Lease are for
//!   people: clocks may step and differ.
//! - Assumption: clocks run at about the same speed, and no machine is suspended as a whole while
//!   it leads. For that reason too, each write of a leader is safe to send twice.

pub mod election;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::time::Instant;

/// The durations of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Another contender may lead when the Lease has not changed for this long.
    pub duration: Duration,
    /// A leader that could not renew the Lease for this long does not lead any more.
    pub deadline: Duration,
    /// How often to try to become or to stay leader.
    pub retry: Duration,
}

/// Durations that cannot give one leader at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnusableTiming {
    /// The next leader could begin before the last one ended.
    #[error("--lease-duration must be longer than --renew-deadline, or there may be two leaders")]
    Duration,
    /// One failed attempt would end the term.
    #[error(
        "--renew-deadline must be longer than --retry-period, or one slow answer ends the term"
    )]
    Deadline,
}

impl Timing {
    /// Checks that these durations give at most one leader at a time.
    ///
    /// # Errors
    /// When there may be two leaders, or one failed attempt would end the term.
    pub fn check(&self) -> Result<(), UnusableTiming> {
        if self.duration <= self.deadline {
            return Err(UnusableTiming::Duration);
        }
        if self.deadline <= self.retry { Err(UnusableTiming::Deadline) } else { Ok(()) }
    }
}

/// The next request for the Lease.
#[derive(Clone, PartialEq, Debug)]
pub enum Attempt {
    /// The Lease does not exist: create it.
    Create(Lease),
    /// Replace the Lease, only in the version that this one names.
    Replace(Lease),
    /// Another contender leads.
    Wait,
}

/// One contender for a Lease.
#[derive(Clone, Debug)]
pub struct Contender {
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// When the last request was sent that acquired or renewed the Lease.
    renewed: Option<Instant>,
}

/// A version of the Lease, and when it was seen first.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

impl Contender {
    /// A contender for the Lease `name`, which has not read it yet. `identity` must be unique.
    #[must_use]
    pub fn new(name: &str, identity: &str, timing: Timing) -> Self {
        let (name, identity) = (name.to_owned(), identity.to_owned());
        Self { name, identity, timing, seen: None, renewed: None }
    }

    /// The durations of the lease.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// When the term ends unless the Lease is renewed; `None` when this contender does not lead.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.timing.deadline)
    }

    /// The identity of the holder in the Lease.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Records the Lease as it was read after `now`; `None` when it does not exist.
    pub fn observe(&mut self, found: Option<Lease>, now: Instant) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match found {
            None => self.seen = None,
            Some(lease) => {
                // Any change shows that its writer runs, whatever the times in it.
                let known = self.seen.as_ref().filter(|s| version(&s.lease) == version(&lease));
                let since = known.map_or(now, |seen| seen.since);
                self.seen = Some(Seen { lease, since });
            }
        }
        if self.holder() != Some(&self.identity) {
            self.renewed = None;
        }
    }

    /// Ends the term, since the Lease was not renewed in time.
    pub fn give_up(&mut self) {
        self.renewed = None;
    }

    /// The request to send at `now`. `wall` is written to the Lease for people.
    #[must_use]
    pub fn attempt(&self, now: Instant, wall: Timestamp) -> Attempt {
        let Some(seen) = &self.seen else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let spec = self.spec(wall, MicroTime(wall), 0);
            return Attempt::Create(Lease { metadata, spec: Some(spec) });
        };
        let old = seen.lease.spec.clone().unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or_default();
        let spec = match self.holder() {
            Some(holder) if holder == self.identity => {
                self.spec(wall, old.acquire_time.unwrap_or(MicroTime(wall)), transitions)
            }
            Some(_) if now < seen.since + self.lasts(&old) => return Attempt::Wait,
            Some(_) | None => self.spec(wall, MicroTime(wall), transitions.saturating_add(1)),
        };
        Attempt::Replace(Lease { spec: Some(spec), ..seen.lease.clone() })
    }

    /// Records that the API server accepted the attempt, sent at `sent`, as `lease`.
    pub fn written(&mut self, lease: Lease, sent: Instant) {
        self.seen = Some(Seen { lease, since: sent });
        self.renewed = (self.holder() == Some(&self.identity)).then_some(sent);
    }

    /// Ends the term. Returns the Lease to write so that another contender may lead at once; `None`
    /// when this one did not hold it.
    pub fn release(&mut self, wall: Timestamp) -> Option<Lease> {
        self.renewed = None;
        if self.holder() != Some(&self.identity) {
            return None;
        }
        let seen = self.seen.take()?;
        let transitions = seen.lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: transitions,
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            ..LeaseSpec::default()
        };
        Some(Lease { spec: Some(spec), ..seen.lease })
    }

    /// How long a Lease lasts from its last change: the longer of the duration in it and our own.
    fn lasts(&self, spec: &LeaseSpec) -> Duration {
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        self.timing.duration.max(Duration::from_secs(seconds.unwrap_or_default()))
    }

    fn spec(&self, wall: Timestamp, acquired: MicroTime, transitions: i32) -> LeaseSpec {
        let seconds = self.timing.duration.as_secs().max(1);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
