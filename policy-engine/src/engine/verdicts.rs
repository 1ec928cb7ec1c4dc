//! The rulesets that the policies of one pod compile to.

use std::sync::Arc;

use super::tiers::{Chain, SelectedPolicy, Selecting};
use super::weights::{Weight, Weights};
use crate::budget::Budgets;
use crate::direction::{Direction, PerDirection};
use crate::ruleset::DefinedRuleset;
use crate::tier::View;

/// The rulesets that the policies of a subject compile to.
#[derive(Clone, Default)]
pub(super) struct Verdicts {
    pub(super) enforced: PerDirection<Chain>,
    /// The rulesets with policies in audit, where they differ from the enforced ones.
    pub(super) audited: PerDirection<Chain>,
    pub(super) policies: Arc<[SelectedPolicy]>,
}

impl Verdicts {
    pub(super) fn new(selecting: &Selecting<'_>, budgets: &Budgets, heavy: &Weights) -> Self {
        let compile = |view| {
            PerDirection::new(|direction| selecting.compile(direction, view, budgets, heavy))
        };
        let enforced = compile(View::Enforced);
        let mut audited = PerDirection::default();
        if selecting.has_audit() {
            audited = compile(View::Audited);
            for direction in Direction::BOTH {
                if audited.get(direction).id() == enforced.get(direction).id() {
                    *audited.get_mut(direction) = Chain::default();
                }
            }
        }
        Self { enforced, audited, policies: selecting.selected() }
    }

    fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.enforced.iter().chain(self.audited.iter())
    }

    /// Every ruleset in the chains, as many times as it is used.
    pub(super) fn uses(&self) -> impl Iterator<Item = &DefinedRuleset> {
        self.chains().filter_map(|chain| chain.top.as_ref()).flat_map(|top| top.reachable())
    }

    pub(super) fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.chains().flat_map(|chain| &chain.weights)
    }
}
