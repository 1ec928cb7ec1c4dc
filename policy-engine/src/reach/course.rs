//! The ports of one peer on their way through the stages of a pod's rules.

use super::ports::PortSet;
use crate::tier::Action;

/// The decisions about each port so far. A port in none of the sets is denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Course {
    pub(super) allowed: PortSet,
    /// The ports that the next step decides about.
    pub(super) undecided: PortSet,
    /// The ports that the current tier passed on to the next one.
    passed: PortSet,
}

impl Course {
    /// All ports before the first stage.
    pub(super) fn start() -> Self {
        let (allowed, passed) = (PortSet::default(), PortSet::default());
        Self { allowed, undecided: PortSet::everything(), passed }
    }

    /// Applies a step that matches on `ports`.
    pub(super) fn step(&mut self, action: Action, ports: &PortSet) {
        let matched = self.undecided.intersection(ports);
        if matched.is_empty() {
            return;
        }
        self.undecided = self.undecided.difference(&matched);
        match action {
            Action::Accept => self.allowed.add(&matched),
            Action::Pass => self.passed.add(&matched),
            Action::Deny => {}
        }
    }

    /// Ends an ordered tier: the next tier decides about the ports that were passed on.
    pub(super) fn leave(&mut self) {
        self.undecided.add(&std::mem::take(&mut self.passed));
    }

    /// Applies an isolating tier that allows `ports`.
    pub(super) fn isolate(&mut self, ports: &PortSet) {
        let undecided = std::mem::take(&mut self.undecided);
        self.allowed.add(&undecided.intersection(ports));
    }

    /// The ports that are allowed after the last stage.
    pub(super) fn end(mut self) -> PortSet {
        self.allowed.add(&self.undecided);
        self.allowed
    }
}
