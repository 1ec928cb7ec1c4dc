//! The state of the node: a small closed set, and the only function from facts to the state.
//!
//! ```text
//! Status (facts) ─► state() ─► State ─► readyz, condition and column of the report, metrics, Events
//! ```
//!
//! Probes, reports and metrics never read the facts. A new fact is a field of [`Status`] and a line
//! in [`Status::state`] or, if only a part is not enforced, of [`Unenforced`].

use std::fmt;

use policy_engine::cidr::Family;
use portcullis_crds::diagnostic::Diagnostic;

use crate::dataplane::conflict::Detected;
use crate::node::status::{Extent, Phase, Rules, Status};

/// What the node does for packets now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State<'a> {
    /// Not all objects are known, or the node was not examined yet. An earlier agent's rules stay.
    Loading,
    /// The kernel enforces the policies.
    Enforcing,
    /// The agent runs in audit mode: the kernel reports what the policies would deny.
    Auditing,
    /// The policies are applied, except for these parts.
    Degraded {
        /// What is not enforced: at least one.
        what: Vec<Unenforced<'a>>,
    },
    /// Packets can bypass the rules in the kernel, or be judged by rules of other software.
    Bypassed {
        /// The conflicts, the most important one first: at least one.
        how: &'a [Detected],
    },
    /// Changes are not applied: the kernel enforces the rules that were applied last.
    Failing {
        /// Why changes are not applied.
        why: FailureReason<'a>,
    },
}

/// A part of the policies that is not enforced, while the rest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unenforced<'a> {
    /// No Node has the name of this node, so no pod of it is known. Contains the message.
    NodeUnknown(&'a str),
    /// Changes are not applied to one IP family. Contains the error.
    Family(Family, &'a str),
    /// Objects that may contain policies or pods of this node cannot be read.
    Unread(&'a [Diagnostic]),
    /// The tools or the kernel refused a part of the rules, and the pods concerned are denied more
    /// connections. Contains what was refused.
    Refused(&'a str),
}

/// Why changes are not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureReason<'a> {
    /// The last round failed.
    Apply(&'a str, CurrentRules),
    /// The agent makes no progress, for example because a tool hangs.
    Stalled(&'a str),
    /// Objects cannot be read. The rules of an earlier agent enforce their last known contents.
    Unread(&'a [Diagnostic]),
}

/// The rules that judge packets while changes are not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CurrentRules {
    /// The rules that this agent applied last.
    Last,
    /// The rules of an earlier agent, if there are any.
    Earlier,
    /// The current rules, as far as they need no ipset.
    WithoutSets,
}

impl State<'_> {
    /// The names of all states in metrics and reports.
    pub const NAMES: [&'static str; 6] =
        ["Loading", "Enforcing", "Auditing", "Degraded", "Bypassed", "Failing"];

    /// The name of the state.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::Enforcing => "Enforcing",
            Self::Auditing => "Auditing",
            Self::Degraded { .. } => "Degraded",
            Self::Bypassed { .. } => "Bypassed",
            Self::Failing { .. } => "Failing",
        }
    }

    /// The most important reason, in one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Loading => "Loading",
            Self::Enforcing => "PoliciesEnforced",
            Self::Auditing => "AuditOnly",
            Self::Degraded { what } => what.first().map_or("Degraded", Unenforced::name),
            Self::Bypassed { how } => how.first().map_or("Bypassed", |found| found.conflict.name()),
            Self::Failing { why: FailureReason::Apply(..) } => "ApplyFailed",
            Self::Failing { why: FailureReason::Stalled(_) } => "Stalled",
            Self::Failing { why: FailureReason::Unread(_) } => UNREAD,
        }
    }

    /// Whether the node enforces the policies, or audits them as its flags ask. The error contains
    /// the state and the reasons, in one line.
    ///
    /// # Errors
    /// In all states except [`State::Enforcing`] and [`State::Auditing`].
    pub fn ready(&self) -> Result<(), String> {
        match self {
            Self::Enforcing | Self::Auditing => Ok(()),
            Self::Loading
            | Self::Degraded { .. }
            | Self::Bypassed { .. }
            | Self::Failing { .. } => Err(format!("{}: {self}", self.name())),
        }
    }
}

/// What the state means for packets and why, in one line.
impl fmt::Display for State<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => formatter.write_str(
                "the agent has not received all objects, or has not examined the node yet; rules of \
                 an earlier run stay, and without any all packets pass",
            ),
            Self::Enforcing => formatter.write_str("the kernel does what the policies say"),
            Self::Auditing => formatter.write_str(
                "the agent runs with --mode=audit: nothing is denied, and what policies would deny is \
                 logged and counted",
            ),
            Self::Degraded { what } => joined(formatter, what),
            Self::Bypassed { how } => joined(formatter, how),
            Self::Failing { why } => why.fmt(formatter),
        }
    }
}

const UNREAD: &str = "ObjectsUnread";

impl Unenforced<'_> {
    /// The names of all parts in metrics and reports.
    pub const NAMES: [&'static str; 5] =
        ["NodeUnknown", "IPv4NotEnforced", "IPv6NotEnforced", UNREAD, "RulesRefused"];

    /// The name of the part.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NodeUnknown(_) => "NodeUnknown",
            Self::Family(Family::V4, _) => "IPv4NotEnforced",
            Self::Family(Family::V6, _) => "IPv6NotEnforced",
            Self::Unread(_) => UNREAD,
            Self::Refused(_) => "RulesRefused",
        }
    }
}

impl fmt::Display for Unenforced<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeUnknown(why) | Self::Refused(why) => formatter.write_str(why),
            Self::Family(family, error) => {
                write!(formatter, "changes are not applied to {}: {error}", family.as_str())
            }
            Self::Unread(found) => joined(formatter, found),
        }
    }
}

impl fmt::Display for FailureReason<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LAST: &str = "; the rules that were applied last stay";
        const NONE: &str = "; no rules were applied since the agent started: those of an earlier run \
                            stay, and without any all packets pass";
        const CLOSED: &str = "; everything else that policies deny is denied";
        match self {
            Self::Apply(error, CurrentRules::Last) => write!(formatter, "{error}{LAST}"),
            Self::Apply(error, CurrentRules::Earlier) => write!(formatter, "{error}{NONE}"),
            Self::Apply(error, CurrentRules::WithoutSets) => write!(formatter, "{error}{CLOSED}"),
            Self::Stalled(silence) => write!(formatter, "{silence}{LAST}"),
            Self::Unread(found) => {
                joined(formatter, found)?;
                formatter.write_str(NONE)
            }
        }
    }
}

/// Writes the values as sentences, in order.
fn joined(formatter: &mut fmt::Formatter<'_>, all: &[impl fmt::Display]) -> fmt::Result {
    all.iter().enumerate().try_for_each(|(number, one)| {
        write!(formatter, "{}{one}", if number == 0 { "" } else { ". " })
    })
}

impl Status {
    /// What the node does for packets now. The worst reason decides: first what lets packets bypass
    /// all rules, then what stops all changes, then what stops some changes.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        let stalled = self.stalled.as_deref().map(FailureReason::Stalled);
        if self.phase == Phase::Loading {
            let unread = Some(&*self.diagnostics.unread).filter(|unread| !unread.is_empty());
            let why = stalled.or_else(|| unread.map(FailureReason::Unread));
            return why.map_or(State::Loading, |why| State::Failing { why });
        }
        // Until a displaced hook is restored, packets may not reach the rules.
        let displaced = Some(&*self.displaced).filter(|displaced| !displaced.is_empty());
        let found = self.examination.as_ref().map(|found| found.conflicts.as_slice());
        if let Some(how @ [_, ..]) = displaced.or(found) {
            return State::Bypassed { how };
        }
        let failed = match &self.phase {
            Phase::Failing { error, family: None, rules } => {
                Some(FailureReason::Apply(error, self.current_rules(*rules)))
            }
            Phase::Failing { family: Some(_), .. } | Phase::Loading | Phase::Applied => None,
        };
        if let Some(why) = stalled.or(failed) {
            return State::Failing { why };
        }
        let what = self.unenforced();
        match &self.examination {
            _ if !what.is_empty() => State::Degraded { what },
            None => State::Loading,
            Some(_) if self.extent == Extent::Nowhere => State::Auditing,
            Some(_) => State::Enforcing,
        }
    }

    /// The rules that judge packets after a round that failed.
    fn current_rules(&self, rules: Rules) -> CurrentRules {
        match rules {
            Rules::WithoutSets => CurrentRules::WithoutSets,
            Rules::Last if self.last_success.is_some() => CurrentRules::Last,
            Rules::Last => CurrentRules::Earlier,
        }
    }

    /// The parts that are not enforced, in any state.
    #[must_use]
    pub fn unenforced(&self) -> Vec<Unenforced<'_>> {
        let node = self.node_unknown.as_deref().map(Unenforced::NodeUnknown);
        let family = match &self.phase {
            Phase::Failing { error, family: Some(family), .. } => {
                Some(Unenforced::Family(*family, error))
            }
            Phase::Failing { family: None, .. } | Phase::Loading | Phase::Applied => None,
        };
        let unread = Some(&*self.diagnostics.unread).filter(|unread| !unread.is_empty());
        let refused = self.refused.as_deref().map(Unenforced::Refused);
        [node, family, unread.map(Unenforced::Unread), refused].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
