//! Waits until another program may have changed our hooks or chains.
//!
//! nftables announces every change. iptables-legacy announces none, so its hooks are read
//! periodically.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use policy_engine::cidr::Family;

use super::TableName;
use super::backend::iptables::Variant;
use super::backend::{Kernel, Place};
use super::netlink::nft_events::{Events, Touched};
use super::rule::Hook;

/// How often hooks are read if changes are not announced: two dumps, which take about 6 ms of a
/// CPU each with 1,800 rules.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How long further changes are collected after one was announced.
const COLLECT: Duration = Duration::from_millis(10);

/// Watches the hooks of one dataplane.
pub struct HookWatch {
    kernel: Kernel,
    families: Vec<Family>,
    hooks: Vec<Hook>,
    /// `None` if changes are not announced.
    events: Option<Events>,
    looked_at: Instant,
}

impl HookWatch {
    pub(super) fn new(
        place: Place,
        lock_wait_seconds: u32,
        families: &[Family],
        hooks: Vec<Hook>,
    ) -> Self {
        let kernel = Kernel::new(place, lock_wait_seconds);
        let events = match place {
            Place::Iptables(place) if place.variant == Variant::Legacy => None,
            Place::Iptables(_) | Place::Nftables => Self::listen(kernel.table(), families),
        };
        Self { kernel, families: families.to_vec(), hooks, events, looked_at: Instant::now() }
    }

    fn listen(table: TableName, families: &[Family]) -> Option<Events> {
        let failed = |error: &io::Error| {
            tracing::warn!(%error, "failed to listen to changes of nftables; looking every second");
        };
        Events::open(table.name(), families).inspect_err(failed).ok()
    }

    /// Waits at most `limit` for a change that may concern our hooks or chains.
    pub fn next(&mut self, limit: Duration) -> Option<Touched> {
        let Some(events) = &mut self.events else { return self.look(limit) };
        match events.next(limit) {
            Ok(touched) if touched == Touched::default() => None,
            Ok(touched) => {
                // Most programs make several changes, each in a transaction of its own.
                thread::sleep(COLLECT);
                let more = events.next(Duration::ZERO).unwrap_or_default();
                Some(touched.and(more))
            }
            Err(error) => {
                tracing::warn!(%error, "failed to hear changes of nftables; looking every second");
                self.events = None;
                Some(Touched { overrun: true, ..Touched::default() })
            }
        }
    }

    fn look(&mut self, limit: Duration) -> Option<Touched> {
        let due = (self.looked_at + LOOK_PERIOD).saturating_duration_since(Instant::now());
        thread::sleep(due.min(limit));
        if due > limit {
            return None;
        }
        self.looked_at = Instant::now();
        let is_displaced = self.families.iter().any(|family| {
            // If a chain cannot be read, the agent reads it again.
            self.kernel
                .displaced_hooks(*family, &self.hooks)
                .map_or(true, |displaced| !displaced.is_empty())
        });
        is_displaced.then(|| Touched { overrun: true, ..Touched::default() })
    }
}
