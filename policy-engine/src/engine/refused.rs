//! The pods whose rules exceed a budget, and the policies of a pod, for reports.

use std::sync::Arc;

use super::{Engine, Subject};
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
                    let policies = subject.policies_of(direction, *tier);
                    let largest = policies.max_by_key(|policy| size(policy, direction));
                    Refused { pod, direction, tier: *tier, exceeded: *exceeded, largest }
                })
            })
        })
    }

    /// The policies of one tier that select a subject and apply to a direction, as of the last
    /// [`Engine::flush`].
    pub fn policies_of(
        &self,
        pod: &PodKey,
        direction: Direction,
        tier: Tier,
    ) -> impl Iterator<Item = &Arc<Policy>> {
        let subject = self.subjects.get(pod).into_iter();
        subject.flat_map(move |subject| subject.policies_of(direction, tier))
    }
}

impl Subject {
    fn policies_of(&self, direction: Direction, tier: Tier) -> impl Iterator<Item = &Arc<Policy>> {
        let policies = self.policies.iter().map(|(policy, _)| policy);
        policies.filter(move |policy| policy.tier == tier && policy.applies(direction))
    }
}
