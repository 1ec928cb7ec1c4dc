//! Trials for one pair of pods: which objects restore the old result when they are undone.
//!
//! Each policy contributes something to the pair. Objects with equal contributions, before and
//! after, are one kind: it makes no difference which of them is undone. So there are as many trials
//! as kinds.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::model::PodKey;
use policy_engine::object::ObjectRef;
use policy_engine::reach::{Contribution, PodPair, PortSet};
use policy_engine::world::World;

use super::Causes;
use super::causes::{Judge, Numbers};

/// The contributions of a policy before and after; `None` for none.
type Contributions = [Option<Contribution>; 2];

/// How many policies of a kind are undone: none, some, or all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Undone {
    Nothing,
    Some,
    All,
}

/// A pair of pods, and the objects that concern it.
pub(super) struct Trials<'a> {
    judge: &'a Judge<'a>,
    pods: (&'a PodKey, &'a PodKey),
    before: &'a PortSet,
    /// The objects that are not policies: undoing each makes another cluster.
    others: Numbers,
    policies: BTreeMap<usize, &'a ObjectRef>,
    /// Per policy its kind.
    kinds: BTreeMap<usize, usize>,
    /// The policies that contribute the same before and after.
    idle: Numbers,
    /// By kind: how many policies there are.
    sizes: Vec<usize>,
    known: BTreeMap<(Option<usize>, Vec<Undone>), bool>,
    /// The worlds by the object that is undone, if it is not a policy.
    worlds: BTreeMap<Option<usize>, Option<InWorld<'a>>>,
}

/// The contributions of policies in one world.
struct InWorld<'a> {
    pair: PodPair<'a>,
    /// The contributions of policies that are never undone.
    fixed: Vec<Contribution>,
    /// The contributions by kind.
    of_kinds: Vec<Contributions>,
}

impl<'a> Trials<'a> {
    pub(super) fn new(
        judge: &'a Judge<'a>,
        pods: (&'a PodKey, &'a PodKey),
        before: &'a PortSet,
        concerned: Numbers,
    ) -> Self {
        let mut trials = Self {
            judge,
            pods,
            before,
            others: Numbers::new(),
            policies: BTreeMap::new(),
            kinds: BTreeMap::new(),
            idle: Numbers::new(),
            sizes: Vec::new(),
            known: BTreeMap::new(),
            worlds: BTreeMap::new(),
        };
        for number in concerned {
            match judge.objects.get(number) {
                Some(object) if object.name.kind.is_policy() => {
                    trials.policies.insert(number, &object.name);
                }
                Some(_) | None => drop(trials.others.insert(number)),
            }
        }
        trials.sort_into_kinds();
        trials
    }

    /// Sorts policies by equal contributions. If trials need several worlds, each is a kind.
    fn sort_into_kinds(&mut self) {
        let alone = !self.others.is_empty();
        let pair = PodPair::new(&self.judge.after.world, self.pods.0, self.pods.1);
        let mut numbers: BTreeMap<(Option<usize>, Contributions), usize> = BTreeMap::new();
        for (number, name) in &self.policies {
            let contributions = pair.as_ref().map(|pair| self.contributions(pair, name));
            let contributions = contributions.unwrap_or_default();
            if !alone && contributions[0] == contributions[1] {
                self.idle.insert(*number);
            }
            let key = (alone.then_some(*number), contributions);
            let next = numbers.len();
            let kind = *numbers.entry(key).or_insert(next);
            self.kinds.insert(*number, kind);
            match self.sizes.get_mut(kind) {
                Some(size) => *size += 1,
                None => self.sizes.push(1),
            }
        }
    }

    fn contributions(&self, pair: &PodPair<'_>, name: &ObjectRef) -> Contributions {
        [&self.judge.before.world, &self.judge.after.world].map(|world: &World| {
            let policy = world.policy(name)?;
            pair.contribution(policy)
        })
    }

    /// The objects that are causes each alone; if there are none, those that are a cause together.
    pub(super) fn causes(mut self) -> Causes {
        let all: Vec<usize> = self.policies.keys().chain(&self.others).copied().collect();
        let mut all: Numbers = all.into_iter().collect();
        let (mut alone, mut known) = (Vec::new(), BTreeMap::new());
        for number in &all {
            let kind = self.kinds.get(number).copied();
            let restores = match kind.and_then(|kind| known.get(&kind).copied()) {
                Some(restores) => restores,
                None => self.restores(&[*number].into()),
            };
            known.extend(kind.map(|kind| (kind, restores)));
            if restores {
                alone.push(*number);
            }
        }
        if !alone.is_empty() {
            return alone.into();
        }
        all.retain(|number| !self.idle.contains(number));
        // An object may become unneeded when others are removed: repeat until all that remain are
        // needed.
        while let Some(unneeded) = self.unneeded(&all) {
            all.remove(&unneeded);
        }
        all.into_iter().collect()
    }

    /// The first object that need not be undone.
    fn unneeded(&mut self, undone: &Numbers) -> Option<usize> {
        let mut needed = Numbers::new();
        for number in undone {
            let kind = self.kinds.get(number).copied();
            if kind.is_some_and(|kind| needed.contains(&kind)) {
                continue;
            }
            let mut fewer = undone.clone();
            fewer.remove(number);
            if self.restores(&fewer) {
                return Some(*number);
            }
            needed.extend(kind);
        }
        None
    }

    /// Whether undoing these objects restores the old result.
    fn restores(&mut self, numbers: &Numbers) -> bool {
        let mut others = numbers.intersection(&self.others).copied();
        let other = others.next();
        if others.next().is_some() {
            // Each of them needs a cluster of its own.
            return false;
        }
        let mut counts = vec![0; self.sizes.len()];
        for kind in numbers.iter().filter_map(|number| self.kinds.get(number)) {
            counts[*kind] += 1;
        }
        let undone = counts.iter().zip(&self.sizes).map(|(count, size)| match count {
            0 => Undone::Nothing,
            all if all == size => Undone::All,
            _ => Undone::Some,
        });
        let key = (other, undone.collect::<Vec<_>>());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let restores = self.allowed(other, &key.1) == *self.before;
        self.known.insert(key, restores);
        restores
    }

    fn allowed(&mut self, other: Option<usize>, undone: &[Undone]) -> PortSet {
        if !self.worlds.contains_key(&other) {
            let world = self.in_world(other);
            self.worlds.insert(other, world);
        }
        let Some(Some(world)) = self.worlds.get(&other) else { return PortSet::default() };
        let of_kinds = world.of_kinds.iter().zip(undone).flat_map(|([before, after], undone)| {
            let before = before.as_ref().filter(|_| *undone != Undone::Nothing);
            let after = after.as_ref().filter(|_| *undone != Undone::All);
            before.into_iter().chain(after)
        });
        world.pair.allowed(world.fixed.iter().chain(of_kinds))
    }

    /// The contributions of policies in the world after, without the change of `other`.
    fn in_world(&self, other: Option<usize>) -> Option<InWorld<'a>> {
        let world = match other {
            Some(number) => &self.judge.cluster_without(number)?.world,
            None => &self.judge.after.world,
        };
        let pair = PodPair::new(world, self.pods.0, self.pods.1)?;
        let names: BTreeSet<&ObjectRef> = self.policies.values().copied().collect();
        let fixed = pair.policies().filter(|policy| !names.contains(&policy.name));
        let fixed = fixed.filter_map(|policy| pair.contribution(policy)).collect();
        let mut of_kinds = vec![Contributions::default(); self.sizes.len()];
        let mut made = Numbers::new();
        for (number, name) in &self.policies {
            let Some(kind) = self.kinds.get(number).filter(|kind| made.insert(**kind)) else {
                continue;
            };
            of_kinds[*kind] = self.contributions(&pair, name);
        }
        Some(InWorld { pair, fixed, of_kinds })
    }
}
