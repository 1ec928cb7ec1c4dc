//! What becomes of a rule whose parts are not understood.

use policy_engine::tier::Action;

/// What a part other than an Accept rule's does when it is not understood.
pub(super) const EVERYTHING: &str = "this rule denies everything";

/// What becomes of what is not understood in a rule, as it is told.
pub(super) struct Effects {
    pub(super) rule: &'static str,
    pub(super) peer: &'static str,
    pub(super) port: &'static str,
}

impl Effects {
    /// `None` is an action that was not understood.
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
