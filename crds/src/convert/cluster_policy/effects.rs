//! The effect of a rule with parts that were not understood.

use policy_engine::tier::Action;

/// The message for a part that was not understood, unless it is in an Accept rule.
pub(super) const EVERYTHING: &str = "this rule denies everything";

/// The messages for the parts of a rule that were not understood.
pub(super) struct Effects {
    pub(super) rule: &'static str,
    pub(super) peer: &'static str,
    pub(super) port: &'static str,
}

impl Effects {
    /// The messages for a rule; `None` is an action that was not understood.
    pub(super) fn of(action: Option<Action>) -> Self {
        match action {
            Some(Action::Accept) => Self {
                rule: "this rule matches nothing",
                peer: "this peer matches nothing",
                port: "this port matches nothing",
            },
            Some(Action::Deny | Action::Pass) | None => {
                Self { rule: EVERYTHING, peer: EVERYTHING, port: EVERYTHING }
            }
        }
    }
}
