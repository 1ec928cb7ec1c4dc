//! The pods whose rules exceed a budget, for reports.

use std::sync::Arc;

use super::Engine;
use crate::budget::Exceeded;
use crate::direction::Direction;
use crate::model::PodKey;
use crate::policy::{Policy, Rule};
use crate::tier::Tier;

/// A tier that denies all traffic of a pod in one direction, because its rules exceed a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused<'e> {
    /// The pod.
    pub pod: &'e PodKey,
    /// The direction.
    pub direction: Direction,
    /// The tier.
    pub tier: Tier,
    /// The budget.
    pub exceeded: Exceeded,
    /// The policy with the most peers and ports.
    pub largest: Option<&'e Arc<Policy>>,
}

/// Roughly how much a policy costs: its peers, times their ports.
fn size(policy: &Policy, direction: Direction) -> usize {
    policy.rules(direction).map(Rule::size).sum()
}

impl Engine {
    /// [`Engine::refused`]; `None` when no flush since the last call changed it.
    pub fn take_refused(&mut self) -> Option<Vec<Refused<'_>>> {
        std::mem::take(&mut self.refused_changed).then(|| self.refused().collect())
    }

    /// The subjects of which a tier denies everything, because its rules exceed a budget, as of the
    /// last [`Engine::flush`].
    pub fn refused(&self) -> impl Iterator<Item = Refused<'_>> {
        self.subjects.iter().flat_map(|(pod, subject)| {
            Direction::BOTH.into_iter().flat_map(move |direction| {
                subject.refused.get(direction).iter().map(move |(tier, exceeded)| {
                    let of_tier =
                        |policy: &&Arc<Policy>| policy.tier == *tier && policy.applies(direction);
                    let policies = subject.policies.iter().map(|(policy, _)| policy);
                    let largest =
                        policies.filter(of_tier).max_by_key(|policy| size(policy, direction));
                    Refused { pod, direction, tier: *tier, exceeded: *exceeded, largest }
                })
            })
        })
    }
}
