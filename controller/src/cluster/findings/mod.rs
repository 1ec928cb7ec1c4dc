//! What policies say that they cannot mean: pure, and computed for the whole cluster at once.
//!
//! ```text
//! Change ─► Analyst::note ─► which namespaces to index anew
//! World  ─► Analyst::findings ─► Index per namespace ─► subject, ports, peers of each policy
//!                                                   └─► coverage: whom each policy of the
//!                                                       cluster selects, and decides for
//! ```
//!
//! A selector asks an index of label groups, never every pod, so that ten thousand policies and a
//! hundred thousand pods cost their sum. Whether a finding is old enough to be told, and whether
//! it was told already, is decided in `events`.

pub mod coverage;
mod index;
mod pods;
mod policy;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use policy_engine::world::World;
use portcullis_crds::diagnostic::{Diagnostic, Severity};

use self::coverage::Coverage;
use self::pods::{Mentioned, Pods};

/// More findings of one policy than this wait until some of them are mended.
const FINDINGS_PER_POLICY: usize = 10;

/// One thing that a policy says and cannot mean.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Finding {
    /// What kind of mistake it is.
    pub reason: Reason,
    /// The field, as `spec.ingress[0].ports[1].port`; empty for the policy as a whole.
    pub field: String,
    /// What is wrong, what that means, and what to do. The same as long as the policy is.
    pub message: String,
}

/// The kinds of findings, as an Event's `reason` names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// A part could not be understood, and is closed where it stands.
    FailedClosed,
    /// No pod that it could mean has a port of that name and protocol.
    NamedPortUnresolved,
    /// It selects no pod.
    SelectsNothing,
    /// A peer matches no pod.
    PeerMatchesNothing,
    /// In force as written, and still not right.
    Suspicious,
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
        }
    }
}

/// Findings by policy; no policy has an empty list.
pub type Findings = BTreeMap<ObjectRef, Vec<Finding>>;

/// What the policies of a world cannot mean, from nothing.
#[must_use]
pub fn findings(world: &World) -> Findings {
    Analyst::default().findings(world)
}

/// Computes findings again and again, and keeps what did not change in between.
#[derive(Default, Debug)]
pub struct Analyst {
    pods: Pods,
    diagnostics: BTreeMap<Arc<str>, Vec<Diagnostic>>,
    coverage: BTreeMap<ObjectRef, Coverage>,
}

impl Analyst {
    /// Says that an object changes.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Pod(key, _) => self.pods.forget(&key.namespace),
            Change::Namespace(..) => self.pods.forget_namespaces(),
            Change::Node(..) | Change::Policy(..) => {}
        }
    }

    /// Replaces what is wrong with one origin of objects.
    pub fn diagnose(&mut self, origin: Arc<str>, diagnostics: Vec<Diagnostic>) {
        if diagnostics.is_empty() {
            self.diagnostics.remove(&origin);
        } else {
            self.diagnostics.insert(origin, diagnostics);
        }
    }

    /// What the policies of `world` cannot mean.
    ///
    /// Assumption: every change of `world` since the last call was noted.
    pub fn findings(&mut self, world: &World) -> Findings {
        self.pods.refresh(world, &Mentioned::by(world));
        let mut found = Findings::new();
        for diagnostic in self.diagnostics.values().flatten() {
            let policy = diagnostic.about.object().and_then(|object| world.policy(object));
            if let Some(policy) = policy {
                found.entry(policy.name.clone()).or_default().push(Finding::from(diagnostic));
            }
        }
        self.coverage = coverage::coverage(world, &self.pods);
        for (name, coverage) in &self.coverage {
            let policy = world.policy(name);
            if let Some(finding) = policy.and_then(|p| coverage::nobody(world, p, coverage)) {
                found.entry(name.clone()).or_default().push(finding);
            }
        }
        let mut answers = policy::Answers::new(world, &self.pods);
        for policy in world.policies().filter(|policy| policy.name.kind.is_namespaced()) {
            let mistakes = answers.findings(policy);
            if !mistakes.is_empty() {
                found.entry(policy.name.clone()).or_default().extend(mistakes);
            }
        }
        for list in found.values_mut() {
            list.sort();
            list.dedup();
            list.truncate(FINDINGS_PER_POLICY);
        }
        found
    }

    /// Whom each policy of the cluster selects, as of the last call of [`Analyst::findings`].
    #[must_use]
    pub fn coverage(&self) -> &BTreeMap<ObjectRef, Coverage> {
        &self.coverage
    }
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Self {
        let reason = match diagnostic.severity {
            Severity::Error => Reason::FailedClosed,
            Severity::Warning => Reason::Suspicious,
        };
        let field = diagnostic.field.to_string();
        Self { reason, field, message: diagnostic.message.clone() }
    }
}
