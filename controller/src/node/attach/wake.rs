//! The reasons for the next scan: any thread adds reasons, and the scanning thread waits for them.
//! Equal reasons are merged, so the set is bounded.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Why a scan may find changes.
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
    /// The agent dropped its [`Finder`](super::Finder). This reason is never removed.
    Closed,
}

/// The set of reasons for the next scan.
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

    /// Waits for a reason until `deadline`, and takes all reasons.
    pub(super) fn wait_until(&self, deadline: Instant) -> BTreeSet<Reason> {
        let left = deadline.saturating_duration_since(Instant::now());
        let none = |reasons: &mut BTreeSet<Reason>| reasons.is_empty();
        let waited = self.raised.wait_timeout_while(self.lock(), left, none);
        let (mut reasons, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = reasons.clone();
        reasons.retain(|reason| *reason == Reason::Closed);
        taken
    }

    /// Whether the agent dropped its [`Finder`](super::Finder).
    pub(super) fn is_closed(&self) -> bool {
        self.lock().contains(&Reason::Closed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Reason>> {
        // A thread that panicked cannot have left the set in an invalid state.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
