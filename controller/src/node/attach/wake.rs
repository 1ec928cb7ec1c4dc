//! What has happened since the last look: any thread raises it, one waits for it. Equal reasons
//! become one, so nothing is ever full.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Why there may be something new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Reason {
    /// A file of the cache changed.
    Files,
    /// Notifications of files were lost, or the directory itself changed.
    Directory,
    /// A link of the node changed.
    Links,
    /// A route of the node changed.
    Routes,
    /// The agent knows other pods.
    Pods,
    /// Nobody listens any more. This reason stays.
    Closed,
}

/// Where reasons are collected.
#[derive(Default, Debug)]
pub(super) struct Wake {
    reasons: Mutex<BTreeSet<Reason>>,
    raised: Condvar,
}

impl Wake {
    /// Adds a reason and wakes the thread that waits.
    pub(super) fn raise(&self, reason: Reason) {
        self.lock().insert(reason);
        self.raised.notify_all();
    }

    /// Takes all reasons, once there is one or it is `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant) -> BTreeSet<Reason> {
        let left = deadline.saturating_duration_since(Instant::now());
        let none = |reasons: &mut BTreeSet<Reason>| reasons.is_empty();
        let waited = self.raised.wait_timeout_while(self.lock(), left, none);
        let (mut reasons, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = reasons.clone();
        reasons.retain(|reason| *reason == Reason::Closed);
        taken
    }

    /// Whether nobody listens any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().contains(&Reason::Closed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Reason>> {
        // A thread that panicked left a set that is whole.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
