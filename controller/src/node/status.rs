//! The status of the agent: one value, replaced after each round. [`super::publisher`] writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use policy_engine::cidr::Family;
use policy_engine::engine::hashes::Hashes;
use policy_engine::engine::selection::Selection;
use policy_engine::model::PodKey;
use policy_engine::world::enforcement::Enforcement;
use portcullis_crds::api::node_policy_report::DIAGNOSTICS_MAX;
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;

use crate::dataplane;
use crate::dataplane::conflict::Detected;
use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::examine::Examination;

/// What the agent has enforced and found so far.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// Whether the kernel enforces the policies.
    pub phase: Phase,
    /// Which policies isolate which pods, as applied last.
    pub selection: Arc<Selection>,
    /// Hashes of the rules and of the members of sets, as applied last.
    pub hashes: Hashes,
    /// When the kernel last enforced the policies, after an apply or a comparison.
    pub last_success: Option<SystemTime>,
    /// How long changes took; `None` before the first applied change.
    pub latency: Option<Latency>,
    /// How many changes of other programs were repaired since the agent started.
    pub drift_repairs: u64,
    /// The diagnostics of objects.
    pub diagnostics: Arc<Findings>,
    /// How many packets policies denied, and how many policies in audit would have denied.
    pub denials: Arc<BTreeMap<Denial, Counts>>,
    /// The displaced hooks of Portcullis, as one conflict; empty when all are in place.
    pub displaced: Arc<[Detected]>,
    /// The last examination of the node; `None` before the first one.
    pub examination: Option<Arc<Examination>>,
    /// Why no pods of this node are known, if no Node has its name.
    pub node_unknown: Option<Arc<str>>,
    /// How long the agent has made no progress, if that is too long. Only readers can detect this,
    /// in [`Signals::latest`](super::signals::Signals::latest).
    pub stalled: Option<Arc<str>>,
    /// Which rules the tools or the kernel refused, in one line, if any.
    pub refused: Option<Arc<str>>,
    /// Where policies are enforced, by the flags of the agent.
    pub extent: Extent,
    /// How many nodes the cluster has, and so how many agents write reports.
    pub nodes: u32,
}

/// Where policies are enforced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Extent {
    /// In all namespaces.
    #[default]
    Everywhere,
    /// In the namespaces that the flags select.
    Namespaces,
    /// In no namespace: policies are only audited.
    Nowhere,
}

impl Extent {
    /// The names of all extents in metrics.
    pub const NAMES: [&'static str; 3] = ["everywhere", "namespaces", "nowhere"];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Namespaces => "namespaces",
            Self::Nowhere => "nowhere",
        }
    }
}

impl From<&Enforcement> for Extent {
    fn from(enforcement: &Enforcement) -> Self {
        match enforcement {
            Enforcement::Everywhere => Self::Everywhere,
            Enforcement::Namespaces(_) => Self::Namespaces,
            Enforcement::Nowhere => Self::Nowhere,
        }
    }
}

/// Whether the kernel enforces the policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing was applied yet.
    Loading,
    /// The kernel enforces all policies.
    Applied,
    /// A part of the policies is not applied.
    Failing {
        /// What went wrong, in one line.
        error: Arc<str>,
        /// The family that failed; `None` if all families failed.
        family: Option<Family>,
        /// The rules that judge packets of the families that failed.
        rules: Rules,
    },
}

/// The rules that judge packets after a round that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// The rules that were applied before.
    Last,
    /// The current rules without ipsets: connections that need a rule with a set are denied.
    WithoutSets,
}

impl Rules {
    /// The rules that judge packets after this failure.
    #[must_use]
    pub fn after(failure: &dataplane::Error) -> Self {
        if failure.is_without_sets() { Self::WithoutSets } else { Self::Last }
    }

    /// Which part of the policies is applied after a failure of `family`, or of both families if
    /// `None`; for log lines.
    #[must_use]
    pub fn effect(self, family: Option<Family>) -> &'static str {
        match (family, self) {
            (None, Self::Last) => "the last applied rules stay",
            (None, Self::WithoutSets) => "only what needs no ipset is applied",
            (Some(_), _) => "they are applied to the other IP family",
        }
    }
}

/// The time from receiving the oldest change of a round until the round was enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// The latency of the last round that changed the kernel.
    pub last: Duration,
    /// The median of the last 100 rounds.
    pub p50: Duration,
    /// The longest latency of the last 100 rounds.
    pub max: Duration,
    /// How many rounds the median and the maximum are computed from, at most 100.
    pub samples: usize,
}

/// The diagnostics of objects: the first ones, and the number of all.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// The first [`DIAGNOSTICS_MAX`], errors before warnings, then in the order of their objects.
    pub first: Vec<Diagnostic>,
    /// How many diagnostics concern policies, besides those in `over_budget`.
    pub policies: Amount,
    /// How many errors concern policies that exceed a budget.
    pub over_budget: usize,
    /// How many concern other objects, files or the node.
    pub others: Amount,
    /// The first [`LISTED_MAX`] about objects that cannot be read and may not be enforced.
    pub unread: Vec<Diagnostic>,
}

/// A number of diagnostics by severity.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Amount {
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
}

/// What one successful round did.
#[derive(Debug)]
pub struct Round {
    /// Which policies isolate which pods; `None` if this has not changed.
    pub selection: Option<Selection>,
    /// How many rulesets are enforced.
    pub rulesets: usize,
    /// How many sets are enforced.
    pub sets: usize,
    /// Hashes of what is enforced.
    pub hashes: Hashes,
    /// How many nodes the cluster has.
    pub nodes: u32,
    /// How long the kernel took to apply the round.
    pub apply: Duration,
    /// The time since the oldest change was received; `None` when no change led to this round.
    pub latency: Option<Duration>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            phase: Phase::Loading,
            selection: Arc::default(),
            hashes: Hashes::default(),
            last_success: None,
            latency: None,
            drift_repairs: 0,
            diagnostics: Arc::default(),
            denials: Arc::default(),
            displaced: Arc::default(),
            examination: None,
            node_unknown: None,
            extent: Extent::default(),
            stalled: None,
            refused: None,
            nodes: 0,
        }
    }
}

/// How many errors of one kind are reported one by one: users can cause many.
pub const LISTED_MAX: usize = 8;

/// An error at `field` for each of the `first` objects, with its message. `others` are the kind and
/// the message of one more error, for all further objects.
#[must_use]
pub fn errors(
    field: &FieldPath,
    first: impl IntoIterator<Item = (About, String)>,
    others: Option<(&str, String)>,
) -> Vec<Diagnostic> {
    let others = others.map(|(kind, message)| (About::Other(kind.to_owned()), message));
    let error = |(about, message)| Diagnostic {
        severity: Severity::Error,
        source: None,
        about,
        field: field.clone(),
        message,
    };
    first.into_iter().chain(others).map(error).collect()
}

/// Like [`errors`], for policies: the message of each policy, to which the names of its pods are
/// appended, and these pods. `what` begins the message for all further policies.
#[must_use]
pub fn errors_of_pods(
    pods: BTreeMap<(About, String), BTreeSet<&PodKey>>,
    what: &str,
) -> Vec<Diagnostic> {
    let others = pods.len().saturating_sub(LISTED_MAX);
    let listed = pods.into_iter().take(LISTED_MAX).map(|((about, why), pods)| {
        let one = pods.first().map(ToString::to_string).unwrap_or_default();
        let pods = match pods.len() {
            1 => format!("pod {one}"),
            more => format!("{more} pods of this node, such as {one}"),
        };
        (about, format!("{why} {pods}"))
    });
    let message = format!("{what}: {others} more policies");
    errors(&FieldPath::default(), listed, (others > 0).then_some(("policies", message)))
}

/// A diagnostic that concerns this node, not an object.
#[must_use]
pub fn node_finding(severity: Severity, message: String) -> Diagnostic {
    let (about, field) = (About::Other("this node".to_owned()), FieldPath::default());
    Diagnostic { severity, source: None, about, field, message }
}

/// A warning that concerns this node, not an object.
#[must_use]
pub fn node_warning(message: String) -> Diagnostic {
    node_finding(Severity::Warning, message)
}

impl Findings {
    /// Sorts and counts all diagnostics. Those about policies that exceed a budget are apart, because
    /// another metric and alert are about them.
    pub fn of<'a>(
        all: impl Iterator<Item = &'a Diagnostic>,
        over_budget: &'a [Diagnostic],
    ) -> Self {
        let mut sorted: Vec<&Diagnostic> = all.collect();
        let (mut policies, mut others) = (Amount::default(), Amount::default());
        for found in &sorted {
            let amount = if is_about_policy(found) { &mut policies } else { &mut others };
            match found.severity {
                Severity::Error => amount.errors += 1,
                Severity::Warning => amount.warnings += 1,
            }
        }
        sorted.extend(over_budget);
        sorted.sort_unstable();
        let is_unread = |found: &&&Diagnostic| matches!(found.about, About::Unread(_));
        let unread = sorted.iter().filter(is_unread).take(LISTED_MAX).copied().cloned().collect();
        let first = sorted.into_iter().take(DIAGNOSTICS_MAX).cloned().collect();
        Self { first, policies, over_budget: over_budget.len(), others, unread }
    }

    /// The number of all diagnostics.
    #[must_use]
    pub fn count(&self) -> usize {
        let amounts = [self.policies, self.others].map(|amount| amount.errors + amount.warnings);
        self.over_budget + amounts.iter().sum::<usize>()
    }
}

fn is_about_policy(found: &Diagnostic) -> bool {
    found.about.object().is_some_and(|object| object.kind.is_policy())
}
