//! Examines the node for conflicts: gathers facts and judges them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::backend::iptables::Variant;
use super::conflict::facts::BridgeSwitch;
use super::conflict::{Conflict, Detected, Judgement, judge};
use super::preflight::{Finding, Severity};
use super::survey::{bridge_switches_off, survey};

/// Examines one node repeatedly.
#[derive(Debug)]
pub struct Examiner {
    variant: Option<Variant>,
    lock_wait_seconds: u32,
    ignored: BTreeSet<Conflict>,
    /// The addresses of pods that were attached past the node at the last examination.
    past: BTreeSet<IpAddr>,
    /// The settings of bridges that were off at the last examination.
    off: BTreeSet<BridgeSwitch>,
}

/// The result of an examination of the node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Examination {
    /// The conflicts because of which the node does not enforce policies.
    pub conflicts: Vec<Detected>,
    /// The conflicts that the operator has decided to ignore.
    pub ignored: Vec<Detected>,
    /// Notes about the node that do not affect enforcement.
    pub notes: Vec<Finding>,
}

impl Examiner {
    /// An examiner that does not count the conflicts in `ignored`.
    pub(super) fn new(
        variant: Option<Variant>,
        lock_wait_seconds: u32,
        ignored: &[Conflict],
    ) -> Self {
        let ignored = ignored.iter().copied().collect();
        Self { variant, lock_wait_seconds, ignored, past: BTreeSet::new(), off: BTreeSet::new() }
    }

    /// Whether a setting of bridges was turned off or on since the last examination. Takes some
    /// microseconds.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.off != bridge_switches_off()
    }

    /// Examines the node; `pods` are addresses of its isolated pods. Takes some milliseconds.
    pub fn examine(&mut self, pods: &[IpAddr]) -> Examination {
        let mut facts = survey(self.variant, self.lock_wait_seconds, pods);
        self.off = bridge_switches_off();
        // A pod that ends may lose its interface before its address. So a pod that is attached past
        // the node counts once it was found so twice.
        let past = facts.routes.iter().filter(|route| facts.is_past_the_node(route));
        let past: BTreeSet<IpAddr> = past.map(|route| route.address).collect();
        let before = std::mem::replace(&mut self.past, past.clone());
        facts
            .routes
            .retain(|route| !past.contains(&route.address) || before.contains(&route.address));
        Examination::new(judge(&facts), &self.ignored)
    }
}

impl Examination {
    /// All findings as a list: conflicts, then notes.
    pub fn findings(self) -> impl Iterator<Item = Finding> {
        let detected = self.conflicts.into_iter().chain(self.ignored);
        let named = detected.map(|Detected { conflict, finding }| Finding {
            what: format!("{conflict}: {}", finding.what),
            ..finding
        });
        named.chain(self.notes)
    }

    fn new(judgement: Judgement, ignored: &BTreeSet<Conflict>) -> Self {
        let is_ignored = |detected: &Detected| ignored.contains(&detected.conflict);
        let (mut ignored, conflicts): (Vec<_>, _) =
            judgement.conflicts.into_iter().partition(is_ignored);
        ignored.iter_mut().for_each(|detected| detected.finding.severity = Severity::Warning);
        Self { conflicts, ignored, notes: judgement.notes }
    }
}
