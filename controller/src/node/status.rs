//! The status of the agent: one value, replaced after each round. [`super::publisher`] writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use policy_engine::cidr::Family;
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

/// Where the agent stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// Whether the kernel does what the policies say.
    pub phase: Phase,
    /// Who is isolated by what: as it was applied last.
    pub selection: Arc<Selection>,
    /// When the kernel was last brought to, or found at, what the policies say.
    pub last_success: Option<SystemTime>,
    /// How long changes took, once one was applied.
    pub latency: Option<Latency>,
    /// What was changed by others and repaired, since the agent started.
    pub drift_repairs: u64,
    /// What is wrong with objects.
    pub diagnostics: Arc<Findings>,
    /// How many packets policies denied, and those in audit would have.
    pub denials: Arc<BTreeMap<Denial, Counts>>,
    /// Hooks of ours that are not in their place: one conflict, or none.
    pub displaced: Arc<[Detected]>,
    /// What else was found on the node; `None` before it was examined.
    pub examination: Option<Arc<Examination>>,
    /// Why no pods of this node can be known, if no Node has its name.
    pub node_unknown: Option<Arc<str>>,
    /// Since when the agent makes no progress, if that is too long. Only readers can notice it:
    /// [`Signals::latest`](super::signals::Signals::latest).
    pub stalled: Option<Arc<str>>,
    /// Which rules the tools or the kernel refused, in one line, if any.
    pub refused: Option<Arc<str>>,
    /// Where policies are enforced, by the flags of the agent.
    pub extent: Extent,
    /// How many nodes the cluster has: so many agents write reports.
    pub nodes: u32,
}

/// Where policies are enforced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Extent {
    /// In all namespaces.
    #[default]
    Everywhere,
    /// In those that the flags select.
    Namespaces,
    /// In none.
    Nowhere,
}

impl Extent {
    /// The names of all, as metrics have them.
    pub const NAMES: [&'static str; 3] = ["everywhere", "namespaces", "nowhere"];

    /// Its name.
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

/// Whether the kernel does what the policies say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing was applied yet.
    Loading,
    /// It does.
    Applied,
    /// A part of the policies is not applied.
    Failing {
        /// What went wrong, in one line.
        error: Arc<str>,
        /// The only family that failed.
        family: Option<Family>,
        /// What judges packets of what failed.
        rules: Rules,
    },
}

/// The rules that judge packets after a round that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    /// Those that were applied before.
    Last,
    /// Those of the policies, without ipsets: what needs one is denied.
    WithoutSets,
}

impl Rules {
    /// The rules that judge packets after this failure.
    #[must_use]
    pub fn after(failure: &dataplane::Error) -> Self {
        if failure.is_without_sets() { Self::WithoutSets } else { Self::Last }
    }

    /// What of the policies is applied, if `family` failed, or both, for log lines.
    #[must_use]
    pub fn effect(self, family: Option<Family>) -> &'static str {
        match (family, self) {
            (None, Self::Last) => "the last applied rules stay",
            (None, Self::WithoutSets) => "only what needs no ipset is applied",
            (Some(_), _) => "they are applied to the other IP family",
        }
    }
}

/// From when the oldest change of a round was received until it was enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Of the last round that changed the kernel.
    pub last: Duration,
    /// The median of the last 100.
    pub p50: Duration,
    /// The longest of the last 100.
    pub max: Duration,
    /// How many these are taken from.
    pub samples: usize,
}

/// What is wrong with objects: the first of it, and how much there is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// The first [`DIAGNOSTICS_MAX`], errors before warnings, then in the order of their objects.
    pub first: Vec<Diagnostic>,
    /// How many of them are about policies.
    pub policies: Amount,
    /// How many are about anything else: other objects, files, the node.
    pub others: Amount,
    /// The first [`LISTED_MAX`] about what cannot be read, so that it may be not enforced.
    pub unread: Vec<Diagnostic>,
}

/// How much is wrong.
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
    /// Who is isolated by what, when it may have changed.
    pub selection: Option<Selection>,
    /// How many rulesets are enforced.
    pub rulesets: usize,
    /// How many sets are enforced.
    pub sets: usize,
    /// How many nodes the cluster has.
    pub nodes: u32,
    /// How long the kernel took.
    pub apply: Duration,
    /// Since the oldest change was received; `None` when no change led to this round.
    pub latency: Option<Duration>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            phase: Phase::Loading,
            selection: Arc::default(),
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

/// An error at `field` for each of the `first` objects, and one about `others` for the rest if there
/// are any: their kind, and the message.
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

/// As [`errors`], for policies: why each of them is listed, in words that the names of the pods follow,
/// and the pods. `what` is the message for the rest.
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

/// What is about this node, not about an object.
#[must_use]
pub fn node_finding(severity: Severity, message: String) -> Diagnostic {
    let (about, field) = (About::Other("this node".to_owned()), FieldPath::default());
    Diagnostic { severity, source: None, about, field, message }
}

/// A warning that is about this node, not about an object.
#[must_use]
pub fn node_warning(message: String) -> Diagnostic {
    node_finding(Severity::Warning, message)
}

impl Findings {
    /// The findings among `all`.
    pub fn of<'a>(all: impl Iterator<Item = &'a Diagnostic>) -> Self {
        let mut sorted: Vec<&Diagnostic> = all.collect();
        sorted.sort_unstable();
        let (mut policies, mut others) = (Amount::default(), Amount::default());
        for found in &sorted {
            let amount = if is_about_policy(found) { &mut policies } else { &mut others };
            match found.severity {
                Severity::Error => amount.errors += 1,
                Severity::Warning => amount.warnings += 1,
            }
        }
        let is_unread = |found: &&&Diagnostic| matches!(found.about, About::Unread(_));
        let unread = sorted.iter().filter(is_unread).take(LISTED_MAX).copied().cloned().collect();
        let first = sorted.into_iter().take(DIAGNOSTICS_MAX).cloned().collect();
        Self { first, policies, others, unread }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        [self.policies, self.others].map(|amount| amount.errors + amount.warnings).iter().sum()
    }
}

fn is_about_policy(found: &Diagnostic) -> bool {
    found.about.object().is_some_and(|object| object.kind.is_policy())
}
