//! Hooks that other programs move or remove: a thread detects this, and the agent restores them.
//!
//! ```text
//! thread: HookWatch ── Touched ──► agent ─► displaced? ─► restore, now or after a wait
//! ```
//!
//! A missing hook is restored at once. A hook behind rules of another program is moved to the first
//! place at once, and after that with waits that double, so that two programs that both want the
//! first place do not keep the node busy.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::Duration;

use portcullis_apiserver::back_off::BackOff;
use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::dataplane::conflict::{Conflict, Detected};
use crate::dataplane::drift::DisplacedHook;
use crate::dataplane::hook_watch::HookWatch;
use crate::dataplane::netlink::nft_events::Touched;
use crate::dataplane::preflight::{self, Finding};
use crate::node::status::node_warning;

/// The waits before a hook is moved to the first place again.
const MOVE_BACK_OFF: BackOff = BackOff::new(Duration::from_millis(100), Duration::from_secs(10));
/// After hooks stayed in place for this time, the next move happens at once again.
const QUIET: Duration = Duration::from_mins(1);
/// A hook that is restored more than [`REPAIRS_MAX`] times in this time is contested.
const CONTESTED_PERIOD: Duration = Duration::from_mins(10);
const REPAIRS_MAX: usize = 3;
/// The most immediate repairs of chains in [`CHAIN_PERIOD`]: a program may change each IP family in
/// a step of its own. Further repairs wait for the next comparison.
const CHAIN_REPAIRS_MAX: usize = 4;
const CHAIN_PERIOD: Duration = Duration::from_secs(1);
/// How often the thread checks whether the agent still listens.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// The most changes that wait for the agent. Then the thread waits, and the kernel counts the rest.
const QUEUED_MAX: usize = 4;

/// The agent's side of the thread that watches the hooks.
#[derive(Debug)]
pub struct HookTouches(mpsc::Receiver<Touched>);

impl HookTouches {
    /// Starts to watch the hooks, until this value is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut watch: HookWatch) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let work = move || {
            while !sender.is_closed() {
                if let Some(touched) = watch.next(CHECK_PERIOD)
                    && sender.blocking_send(touched).is_err()
                {
                    return;
                }
            }
        };
        thread::Builder::new().name("hooks".to_owned()).spawn(work)?;
        Ok(Self(receiver))
    }

    /// Waits for the next change that may concern our hooks and chains; never returns when they are
    /// not watched.
    pub async fn next_of(watched: Option<&mut Self>) -> Touched {
        let Some(Self(receiver)) = watched else { return std::future::pending().await };
        match receiver.recv().await {
            Some(touched) => touched,
            // The thread does not end before this value is dropped.
            None => std::future::pending().await,
        }
    }
}

/// When the hooks were displaced and repaired.
#[derive(Debug)]
pub(super) struct History {
    back_off: BackOff,
    /// When hooks were found displaced last.
    displaced_at: Option<Instant>,
    /// Before this time, no hook that still exists is moved.
    move_at: Option<Instant>,
    /// The times of the latest repairs, at most [`REPAIRS_MAX`] + 1.
    repairs: VecDeque<Instant>,
    /// When chains were repaired at once, in the last [`CHAIN_PERIOD`].
    chain_repairs: VecDeque<Instant>,
    /// The displaced hook that was repaired last, as text.
    last: String,
}

impl Default for History {
    fn default() -> Self {
        let (displaced_at, move_at, last) = (None, None, String::new());
        let (repairs, chain_repairs) = (VecDeque::new(), VecDeque::new());
        Self { back_off: MOVE_BACK_OFF, displaced_at, move_at, repairs, chain_repairs, last }
    }
}

impl History {
    /// Notes displaced hooks; returns when to restore them, `None` for now.
    pub(super) fn displaced(&mut self, hooks: &[DisplacedHook], now: Instant) -> Option<Instant> {
        if self.displaced_at.replace(now).is_none_or(|last| now - last >= QUIET) {
            self.back_off.reset();
            self.move_at = None;
        }
        let is_missing = hooks.iter().any(DisplacedHook::is_missing);
        self.move_at.filter(|at| now < *at && !is_missing)
    }

    /// Notes that these hooks were restored.
    pub(super) fn repaired(&mut self, hooks: &[DisplacedHook], now: Instant) {
        self.move_at = Some(now + self.back_off.wait());
        self.repairs.push_back(now);
        if self.repairs.len() > REPAIRS_MAX + 1 {
            self.repairs.pop_front();
        }
        if let Some(hook) = hooks.first() {
            self.last = hook.to_string();
        }
    }

    /// Whether chains may be repaired now; if so, counts a repair.
    pub(super) fn may_repair(&mut self, now: Instant) -> bool {
        self.chain_repairs.retain(|at| now - *at < CHAIN_PERIOD);
        let may = self.chain_repairs.len() < CHAIN_REPAIRS_MAX;
        if may {
            self.chain_repairs.push_back(now);
        }
        may
    }

    /// Whether another program displaces the hooks repeatedly.
    pub(super) fn is_contested(&self, now: Instant) -> bool {
        let oldest = self.repairs.front().filter(|_| self.repairs.len() > REPAIRS_MAX);
        oldest.is_some_and(|oldest| now - *oldest < CONTESTED_PERIOD)
    }

    /// The warning for the node's report while the hooks are contested.
    pub(super) fn diagnostics(&self, now: Instant) -> Vec<Diagnostic> {
        if !self.is_contested(now) {
            return Vec::new();
        }
        let message = format!(
            "another program displaces the jumps to Portcullis again and again, more than {REPAIRS_MAX} \
             times in 10 minutes; packets may pass without being judged until they are put back. \
             Last: {}",
            self.last
        );
        vec![node_warning(message)]
    }
}

/// The conflict that probes and the report show while these hooks are displaced.
pub(super) fn detected(hooks: &[DisplacedHook]) -> Vec<Detected> {
    let what = hooks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let what_to_do =
        "it is put back at once; where this stays, another program moves it: see which \
                      one changes these chains, and stop it"
            .to_owned();
    let finding = Finding { severity: preflight::Severity::Error, what, what_to_do };
    if hooks.is_empty() {
        return Vec::new();
    }
    vec![Detected { conflict: Conflict::HookDisplaced, finding }]
}

#[cfg(test)]
mod tests {
    use policy_engine::cidr::Family;

    use super::*;
    use crate::dataplane::TableName;
    use crate::dataplane::applied::HookPlaces;
    use crate::dataplane::rule::Hook;

    fn hook(count: usize) -> Vec<DisplacedHook> {
        let places = HookPlaces { count, in_front: vec!["-j ACCEPT".to_owned()] };
        let (family, table, hook) = (Family::V4, TableName::Mangle, Hook::Forward);
        vec![DisplacedHook { family, table, hook, places }]
    }

    #[test]
    fn a_hook_is_moved_back_at_once_then_after_waits_and_for_ever() {
        let (mut history, mut now) = (History::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            let at = history.displaced(&hook(1), now);
            waits.push(at.map_or(0, |at| (at - now).as_millis()));
            now = at.unwrap_or(now);
            history.repaired(&hook(1), now);
        }
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        assert_eq!(history.displaced(&hook(0), now), None, "a missing one does not wait");
        assert_eq!(history.displaced(&hook(1), now + QUIET), None, "after a quiet time");
    }

    #[test]
    fn a_hook_that_is_put_back_often_is_reported_with_the_rule_in_front_of_it() {
        let (mut history, now) = (History::default(), Instant::now());
        for times in 0..=REPAIRS_MAX {
            assert_eq!(history.diagnostics(now), [], "{times} times");
            history.repaired(&hook(1), now);
        }
        let found = history.diagnostics(now);
        assert!(found.iter().any(|found| found.message.contains("`-j ACCEPT`")), "{found:?}");
        assert_eq!(history.diagnostics(now + CONTESTED_PERIOD), [], "10 minutes later");
    }

    #[test]
    fn chains_are_repaired_at_once_a_few_times_in_a_second() {
        let (mut history, start) = (History::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let times = [0, 30, 60, 90, 120, 999, 1000, 1001, 1031];
        let may: Vec<bool> = times.iter().map(|ms| history.may_repair(at(*ms))).collect();
        assert_eq!(may, [true, true, true, true, false, false, true, false, true]);
    }

    #[test]
    fn a_displaced_hook_is_named() {
        assert_eq!(detected(&[]), []);
        let found = detected(&hook(0)).remove(0).to_string();
        let expected =
            "HookDisplaced: the jump to PORTCULLIS-FORWARD is missing from IPv4 mangle FORWARD";
        assert!(found.starts_with(expected), "{found}");
    }
}
