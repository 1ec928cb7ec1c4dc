//! What becomes of all ports of one peer, as they pass from stage to stage.
//!
//! ```text
//! asked ── Accept ─► allowed          asked ── isolated ─► allowed, the rest denied
//!       ── Deny ───► (gone)
//!       ── Pass ───► passed ─┐ end of the tier
//!       ── no match ─────────┴► asked by the next stage … at the end: allowed
//! ```

use super::ports::PortSet;
use crate::tier::Action;

/// Where the ports are: each is in one of the sets, or denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Course {
    pub(super) allowed: PortSet,
    /// What the next step is asked about.
    pub(super) asked: PortSet,
    /// What has left the tier.
    passed: PortSet,
}

impl Course {
    /// Before the first stage.
    pub(super) fn start() -> Self {
        let (allowed, passed) = (PortSet::default(), PortSet::default());
        Self { allowed, asked: PortSet::everything(), passed }
    }

    /// A step that matches on `ports`.
    pub(super) fn step(&mut self, action: Action, ports: &PortSet) {
        let matched = self.asked.intersection(ports);
        if matched.is_empty() {
            return;
        }
        self.asked = self.asked.difference(&matched);
        match action {
            Action::Accept => self.allowed.add(&matched),
            Action::Pass => self.passed.add(&matched),
            Action::Deny => {}
        }
    }

    /// The end of an ordered tier.
    pub(super) fn leave(&mut self) {
        self.asked.add(&std::mem::take(&mut self.passed));
    }

    /// An isolating tier that admits `ports`.
    pub(super) fn isolate(&mut self, ports: &PortSet) {
        let asked = std::mem::take(&mut self.asked);
        self.allowed.add(&asked.intersection(ports));
    }

    /// What is allowed after the last stage.
    pub(super) fn end(mut self) -> PortSet {
        self.allowed.add(&self.asked);
        self.allowed
    }
}
