//! How the agent reacts when other programs change its hooks and chains.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Agent, CLEANUP_AFTER, State, chain};
use crate::dataplane::ApplyReport;
use crate::dataplane::drift::{DisplacedHook, Drift};
use crate::dataplane::netlink::nft_events::{Touch, Touched};

/// The least time between two comparisons of everything after other programs changed our chains.
pub(super) const VERIFY_PAUSE: Duration = Duration::from_secs(1);
/// Hooks that were displaced again after a repair are checked after this time.
const RECHECK_PAUSE: Duration = Duration::from_millis(100);

impl Agent {
    /// Checks the hooks after another program changed the tables.
    pub(super) fn touched(&mut self, touched: &Touched) {
        let others = touched.by.iter().filter(|(port, _)| !self.dataplane.is_own(**port));
        let worst = others.map(|(_, touch)| *touch).max();
        if worst.is_none() && !touched.overrun {
            return;
        }
        debug!("others changed the tables of iptables; looking at the hooks");
        if touched.overrun || worst == Some(Touch::Chain) {
            self.verify_at = self.verify_at.min(self.verified_at + VERIFY_PAUSE);
        }
        // Not after an overrun, which stands for hooks that are displaced with iptables-legacy: while
        // another program displaces them again and again, this has to be reported.
        if worst == Some(Touch::Chain)
            && matches!(self.state, State::Applied { .. })
            && self.hooks.may_repair(Instant::now())
        {
            self.repair_chains();
            return;
        }
        self.check_hooks();
    }

    /// Repairs chains and hooks before anything else is read, because policies may not be enforced
    /// until then.
    fn repair_chains(&mut self) {
        match self.dataplane.repair_chains(self.engine.compiled()) {
            Ok(drift) => {
                let chains = self.repaired(&drift);
                if chains > 0 {
                    self.publisher.verified(chains);
                }
                let hooks = drift.into_iter().filter_map(|found| match found {
                    Drift::Hook(hook) => Some(hook),
                    Drift::Chain { .. } | Drift::Set { .. } | Drift::Members { .. } => None,
                });
                let hooks: Vec<DisplacedHook> = hooks.collect();
                if !hooks.is_empty() {
                    self.hooks.repaired(&hooks, Instant::now());
                    self.report_hooks();
                }
                self.publisher.displaced(&[]);
                self.enforced(&ApplyReport::default(), CLEANUP_AFTER);
            }
            Err(failure) => self.fail(&failure, "failed to repair chains that were changed"),
        }
    }

    /// Restores hooks that are missing or not in the first place; the latter may have to wait.
    pub(super) fn check_hooks(&mut self) {
        self.hooks_at = None;
        if matches!(self.state, State::Loading | State::Loaded { .. }) {
            return;
        }
        let Some(displaced) = self.displaced_hooks() else { return };
        if displaced.is_empty() {
            return;
        }
        let now = Instant::now();
        if let Some(at) = self.hooks.displaced(&displaced, now) {
            self.hooks_at = Some(at);
            return;
        }
        let was_contested = self.hooks.is_contested(now);
        self.hooks.repaired(&displaced, now);
        self.publisher.hooks_restored(displaced.len());
        self.connections.repaired(displaced.len());
        for hook in &displaced {
            if was_contested {
                debug!("{hook}; putting it back");
            } else {
                warn!("{hook}; putting it back");
            }
        }
        if let Err(error) = self.dataplane.restore_hooks(&displaced) {
            debug!(%error, "failed to put hooks back alone; comparing everything");
            self.verify();
        }
        if self.displaced_hooks().is_some_and(|displaced| !displaced.is_empty()) {
            self.hooks_at = Some(Instant::now() + RECHECK_PAUSE);
        }
        self.report_hooks();
    }

    /// Reports hooks that other programs displace repeatedly.
    pub(super) fn report_hooks(&mut self) {
        let diagnostics = self.hooks.diagnostics(Instant::now());
        self.report("hooks".into(), diagnostics);
    }

    /// Publishes and returns the displaced hooks; `None` when the hooks cannot be read.
    fn displaced_hooks(&mut self) -> Option<Vec<DisplacedHook>> {
        match self.dataplane.displaced_hooks() {
            Ok(displaced) => {
                self.publisher.displaced(&displaced);
                Some(displaced)
            }
            Err(failure) => {
                // A comparison of everything reports a failure that lasts.
                let error = chain(&failure);
                debug!(error, "failed to look at the hooks; looking again");
                self.hooks_at = Some(Instant::now() + VERIFY_PAUSE);
                None
            }
        }
    }
}
