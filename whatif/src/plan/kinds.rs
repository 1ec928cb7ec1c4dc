//! Kinds of objects: objects of a kind have the same effect on external addresses. It makes no
//! difference which objects of a kind are undone.

use std::collections::BTreeMap;

use policy_engine::direction::Direction;
use policy_engine::model::Pod;
use policy_engine::object::ObjectRef;
use policy_engine::policy::{Peer, Peers, Policy, Rule, Selected};
use policy_engine::tier::{Action, Mode, Tier};
use policy_engine::world::World;

use super::causes::Numbers;

/// Objects by kind.
pub(super) struct Kinds {
    of: BTreeMap<usize, usize>,
    sizes: BTreeMap<usize, usize>,
}

/// The decisions of a policy about external addresses for a pod. Two policies have equal values if
/// exchanging them makes no difference.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Decides {
    tier: Tier,
    priority: i32,
    /// The name, where it decides the order of rules.
    name: Option<ObjectRef>,
    selected: Selected,
    rules: Vec<(Action, Rule)>,
}

impl Kinds {
    /// The kinds of policies; each has its versions before and after, for a pod of the world after.
    pub(super) fn new<'p>(
        world: &World,
        pod: &Pod,
        direction: Direction,
        policies: impl Iterator<Item = (usize, [Option<&'p Policy>; 2])>,
    ) -> Self {
        let mut numbers: BTreeMap<[Option<Decides>; 2], usize> = BTreeMap::new();
        let of_policy = policies.map(|(number, versions)| {
            let decides = versions.map(|policy| decides(world, policy?, pod, direction));
            let next = numbers.len();
            (number, *numbers.entry(decides).or_insert(next))
        });
        Self::of(of_policy.collect())
    }

    /// Kinds with one object each.
    pub(super) fn alone(objects: &Numbers) -> Self {
        Self::of(objects.iter().map(|number| (*number, *number)).collect())
    }

    fn of(of: BTreeMap<usize, usize>) -> Self {
        let mut sizes = BTreeMap::new();
        for kind in of.values() {
            *sizes.entry(*kind).or_default() += 1;
        }
        Self { of, sizes }
    }

    /// The kinds of the objects that are undone, and whether these are all objects of the kind.
    pub(super) fn undone(&self, numbers: &Numbers) -> Vec<(usize, bool)> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for kind in numbers.iter().filter_map(|number| self.of.get(number)) {
            *counts.entry(*kind).or_default() += 1;
        }
        let is_all = |kind: &usize, count: usize| self.sizes.get(kind) == Some(&count);
        counts.into_iter().map(|(kind, count)| (kind, is_all(&kind, count))).collect()
    }
}

fn decides(world: &World, policy: &Policy, pod: &Pod, direction: Direction) -> Option<Decides> {
    let selected = world.selected(policy, pod);
    if policy.mode != Mode::Enforce || selected == Selected::No || !policy.applies(direction) {
        return None;
    }
    let outside = |peer: &Peer| matches!(peer, Peer::Block(_));
    let rules = policy.effective(direction, selected).filter_map(|found| {
        let mut rule = found.rule.clone();
        if let Peers::Listed(items) = &mut rule.peers {
            items.retain(outside);
            if items.is_empty() {
                return None;
            }
        }
        Some((found.action, rule))
    });
    let name = (!policy.isolates(direction)).then(|| policy.name.clone());
    let (tier, priority) = (policy.tier, policy.priority());
    Some(Decides { tier, priority, name, selected, rules: rules.collect() })
}
