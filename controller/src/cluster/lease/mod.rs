//! One leader at a time, by a Lease (client-go's algorithm): pure. `election` asks the API server.
//!
//! ```text
//! GET ─► observe ─► attempt ─► Create | Replace (only if nobody wrote meanwhile) ─► written
//!                       └────► Wait
//! ```
//!
//! - Guarantee: a leader stops to lead before another may begin. It counts from when it *sent* its
//!   last renewal, for the renew deadline; others count from when they *saw* the Lease change, for
//!   the longer lease duration.
//! - All of it is counted by each machine's own monotonic clock. The times in the Lease are for
//!   people: clocks may step and differ.
//! - Assumption: clocks run at about the same speed, and no machine is suspended as a whole while
//!   it leads. What a leader writes is safe to write twice for that reason too.

pub mod election;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::time::Instant;

/// How long the phases of a lease are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Others take over when the Lease has not changed for so long.
    pub duration: Duration,
    /// A leader that could not renew for so long does not lead any more.
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
    /// Whether these durations keep the promise.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), UnusableTiming> {
        if self.duration <= self.deadline {
            return Err(UnusableTiming::Duration);
        }
        if self.deadline <= self.retry { Err(UnusableTiming::Deadline) } else { Ok(()) }
    }
}

/// What to do next about the Lease.
#[derive(Clone, PartialEq, Debug)]
pub enum Attempt {
    /// There is none: make it.
    Create(Lease),
    /// Write it over the version that it names, and no other.
    Replace(Lease),
    /// Somebody else leads.
    Wait,
}

/// One contender for a Lease.
#[derive(Clone, Debug)]
pub struct Contender {
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// When the request was sent that last made us leader.
    renewed: Option<Instant>,
}

/// A version of the Lease, and since when it is known.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

impl Contender {
    /// A contender for the Lease `name`, who has not looked at it yet. No other has `identity`.
    #[must_use]
    pub fn new(name: &str, identity: &str, timing: Timing) -> Self {
        let (name, identity) = (name.to_owned(), identity.to_owned());
        Self { name, identity, timing, seen: None, renewed: None }
    }

    /// How long the phases are.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Until when we lead unless we renew; `None` when we do not lead at all.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.timing.deadline)
    }

    /// Who the Lease says leads.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Takes in the Lease as it is, asked for after `now`; `None` when there is none.
    pub fn observe(&mut self, found: Option<Lease>, now: Instant) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match found {
            None => self.seen = None,
            Some(lease) => {
                // Any change proves that its writer lives, whatever clock it goes by.
                let known = self.seen.as_ref().filter(|s| version(&s.lease) == version(&lease));
                let since = known.map_or(now, |seen| seen.since);
                self.seen = Some(Seen { lease, since });
            }
        }
        if self.holder() != Some(&self.identity) {
            self.renewed = None;
        }
    }

    /// The term is over: it was not renewed in time.
    pub fn give_up(&mut self) {
        self.renewed = None;
    }

    /// What to do now. `wall` is written down for people.
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

    /// Our attempt, sent at `sent`, was accepted as `lease`.
    pub fn written(&mut self, lease: Lease, sent: Instant) {
        self.seen = Some(Seen { lease, since: sent });
        self.renewed = (self.holder() == Some(&self.identity)).then_some(sent);
    }

    /// Ends the term; the Lease to write so that another may lead at once, if we held it.
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

    /// How long a Lease lasts from its last change: what its writer said, never less than what we
    /// would say.
    fn lasts(&self, spec: &LeaseSpec) -> Duration {
        let said = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        self.timing.duration.max(Duration::from_secs(said.unwrap_or_default()))
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
