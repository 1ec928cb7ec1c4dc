//! The findings about policies that the controller reports as Events: those of [`portcullis_lint`]
//! that are mistakes, and the problems that were found while a policy was read.
//!
//! ```text
//! Change ─► Analyst::note ─► which namespaces to index again
//! World  ─► Analyst::findings ─► lint::mistakes: subject, ports, peers of each policy
//!                            └─► coverage: pods that each policy of the cluster applies to
//! ```
//!
//! Whether a finding is old enough to be reported, and whether it was reported already, is decided
//! in `events`.

pub mod coverage;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use policy_engine::world::World;
use portcullis_crds::diagnostic::Diagnostic;
use portcullis_lint::pods::Pods;
use portcullis_lint::{self as lint, Code, Services};

use self::coverage::Coverage;

/// At most so many findings of one policy are reported; further ones follow as these are fixed.
const FINDINGS_PER_POLICY: usize = 10;

/// One probable mistake in a policy, or a problem of a Node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Finding {
    /// The kind of the mistake.
    pub reason: Reason,
    /// The field, as `spec.ingress[0].ports[1].port`; empty for the policy as a whole.
    pub field: String,
    /// What is wrong, what that means, and what to do. Constant while the policy does not change.
    pub message: String,
}

/// The kinds of findings, as an Event's `reason` names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// A part of the policy could not be understood; what it may apply to is denied.
    FailedClosed,
    /// No pod that the rule matches has a port of that name and protocol.
    NamedPortUnresolved,
    /// The policy selects no pod.
    SelectsNothing,
    /// A peer matches no pod.
    PeerMatchesNothing,
    /// The policy is enforced as written, and is probably a mistake.
    Suspicious,
    /// A node does not enforce the policies.
    NotEnforcing,
    /// Not a mistake: all nodes with pods of the policy have applied this generation.
    Applied,
}

impl Reason {
    /// The text of an Event's `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailedClosed => "FailedClosed",
            Self::NamedPortUnresolved => "NamedPortUnresolved",
            Self::SelectsNothing => "SelectsNothing",
            Self::PeerMatchesNothing => "PeerMatchesNothing",
            Self::Suspicious => "Suspicious",
            Self::NotEnforcing => "NotEnforcing",
            Self::Applied => "Applied",
        }
    }
}

/// Findings by policy; no policy has an empty list.
pub type Findings = BTreeMap<ObjectRef, Vec<Finding>>;

/// The findings about the policies of a world, computed without an earlier result.
#[must_use]
pub fn findings(world: &World) -> Findings {
    Analyst::default().findings(world)
}

/// Computes findings repeatedly, and keeps the results of what did not change.
#[derive(Default, Debug)]
pub struct Analyst {
    pods: Pods,
    diagnostics: BTreeMap<Arc<str>, Vec<Diagnostic>>,
    coverage: BTreeMap<ObjectRef, Coverage>,
    nodes: BTreeMap<ObjectRef, BTreeSet<Str>>,
}

impl Analyst {
    /// Records that an object changes. The next findings consider it.
    pub fn note(&mut self, change: &Change) {
        self.pods.note(change);
    }

    /// Replaces the diagnostics about the objects of one origin.
    pub fn diagnose(&mut self, origin: Arc<str>, diagnostics: Vec<Diagnostic>) {
        if diagnostics.is_empty() {
            self.diagnostics.remove(&origin);
        } else {
            self.diagnostics.insert(origin, diagnostics);
        }
    }

    /// The findings about the policies of `world`.
    ///
    /// Assumption: [`Analyst::note`] was called for each change of `world` since the last call.
    pub fn findings(&mut self, world: &World) -> Findings {
        self.pods.refresh(world, &Services::new());
        (self.coverage, self.nodes) = coverage::coverage(world, &self.pods);
        let mut found = Findings::new();
        let read = self.diagnostics.values().flatten().map(lint::Finding::from);
        for finding in lint::mistakes(world, &self.pods).into_iter().chain(read) {
            let policy = finding.about.object().and_then(|object| world.policy(object));
            let Some(policy) = policy else { continue };
            // Pods whose Namespace is not known yet may be selected.
            let selects = self.coverage.get(&policy.name).is_some_and(|found| found.selected > 0);
            if !(selects && finding.code == Code::SelectsNothing) {
                found.entry(policy.name.clone()).or_default().push(finding.into());
            }
        }
        for list in found.values_mut() {
            list.sort();
            list.dedup();
            list.truncate(FINDINGS_PER_POLICY);
        }
        found
    }

    /// The pods that each policy of the cluster selects, at the last call of
    /// [`Analyst::findings`].
    #[must_use]
    pub fn coverage(&self) -> &BTreeMap<ObjectRef, Coverage> {
        &self.coverage
    }

    /// The nodes of the pods that each policy in a namespace selects, as of the last call of
    /// [`Analyst::findings`].
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<ObjectRef, BTreeSet<Str>> {
        &self.nodes
    }
}

impl From<lint::Finding> for Finding {
    fn from(found: lint::Finding) -> Self {
        let reason = match found.code {
            Code::Unreadable => Reason::FailedClosed,
            Code::PortNameUnknown => Reason::NamedPortUnresolved,
            Code::SelectsNothing => Reason::SelectsNothing,
            Code::PeerMatchesNothing => Reason::PeerMatchesNothing,
            _ => Reason::Suspicious,
        };
        Self { reason, field: found.field.to_string(), message: found.message }
    }
}
