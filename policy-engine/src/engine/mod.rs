//! The incremental compiler: it takes changes, and keeps [`Compiled`] up to date.
//!
//! ```text
//! Change ─► World                 pods that the change may affect are marked dirty
//!        ─► identities, members   set members are updated immediately
//! flush  ─► dirty pods: policies that select them ─► a chain of rulesets per direction (shared)
//!        ─► large new sets: a slice of members (`staging`)
//!        ─► unreferenced rulesets and sets are removed
//! ```
//!
//! A subject is a pod that rulesets are compiled for. The same code serves one node, where the
//! subjects are the pods of the node, and a whole cluster.

pub mod blame;
mod changes;
pub mod hashes;
#[cfg(test)]
mod hostile;
mod identities;
mod inspect;
mod live_set;
mod members;
pub mod refused;
pub mod selection;
mod slots;
mod staging;
mod terms;
pub mod tiers;
mod verdicts;
mod weights;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use self::hashes::{Hashed, Hashes};
use self::members::Members;
use self::staging::Staging;
use self::tiers::{Key, ReadPolicies, SelectedPolicy, Selecting};
use self::verdicts::Verdicts;
use self::weights::{WeightId, Weights};
use crate::budget::Exceeded;
use crate::compiled::{Compiled, Endpoint, Update};
use crate::direction::PerDirection;
use crate::id::{RulesetId, SetId};
use crate::labels::Str;
use crate::model::{Pod, PodKey};
use crate::tier::Tier;
use crate::world::{Options, World};

/// The pods that rulesets are compiled for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The pods of one node.
    Node(Str),
    /// All pods.
    Cluster,
}

/// Keeps [`Compiled`] up to date with a changing world.
///
/// Guarantee: after [`Engine::flush`], [`Engine::compiled`] depends on the current world only, not
/// on the changes that led to it or their order; while [`Engine::is_filling`], this is true of pods
/// that do not wait for the members of new sets.
#[derive(Debug)]
pub struct Engine {
    scope: Scope,
    world: World,
    members: Members,
    compiled: Compiled,
    hashed: Hashed,
    subjects: BTreeMap<PodKey, Subject>,
    /// For each ruleset how many times subjects use it, and the sets that it refers to.
    rulesets: BTreeMap<RulesetId, (usize, Vec<SetId>)>,
    weights: Weights,
    staging: Staging,
    dirty: BTreeSet<PodKey>,
    /// Whether a flush since the last [`Engine::take_selection`] had subjects to compile.
    selection_changed: bool,
    /// Whether a change since the last [`Engine::take_contests`] affected a contested address.
    contests_changed: bool,
    /// Whether a flush since the last [`Engine::take_refused`] changed what is refused.
    refused_changed: bool,
}

/// The rulesets of one subject, and what they were compiled from.
#[derive(Clone, Default, Debug)]
struct Subject {
    /// `None` where all traffic is allowed.
    enforced: PerDirection<Option<RulesetId>>,
    audited: PerDirection<Option<RulesetId>>,
    /// Every ruleset in the chains of these, as many times as it is used.
    uses: Vec<RulesetId>,
    weights: Vec<WeightId>,
    /// The tiers that deny everything, because their rules exceed a budget.
    refused: PerDirection<Vec<(Tier, Exceeded)>>,
    endpoints: Vec<IpAddr>,
    /// The policies that the rulesets were compiled from.
    policies: Arc<[SelectedPolicy]>,
}

/// What the pods that are compiled together share.
#[derive(Default)]
struct Shared<'e> {
    verdicts: HashMap<Key<'e>, Verdicts>,
    read: ReadPolicies<'e>,
}

impl Engine {
    /// An engine for a world without objects.
    #[must_use]
    pub fn new(scope: Scope, options: Options) -> Self {
        let world = match &scope {
            Scope::Node(name) => World::of_node(name.clone(), options),
            Scope::Cluster => World::new(options),
        };
        let weights = Weights::new(&world.options.budgets);
        Self {
            scope,
            world,
            weights,
            members: Members::default(),
            compiled: Compiled::default(),
            hashed: Hashed::default(),
            subjects: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            staging: Staging::default(),
            dirty: BTreeSet::new(),
            selection_changed: false,
            contests_changed: false,
            refused_changed: false,
        }
    }

    /// The objects as they are now, including changes since the last [`Engine::flush`].
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The result of the last [`Engine::flush`].
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Hashes of [`Engine::compiled`].
    #[must_use]
    pub fn hashes(&self) -> Hashes {
        self.hashed.hashes
    }

    /// The rulesets of a subject, as of the last [`Engine::flush`].
    #[must_use]
    pub fn rulesets_of(&self, pod: &PodKey) -> PerDirection<Option<RulesetId>> {
        self.subjects.get(pod).map(|subject| subject.enforced).unwrap_or_default()
    }

    /// Whether rulesets are compiled for a pod, as of the last [`Engine::flush`].
    #[must_use]
    pub fn is_subject(&self, pod: &PodKey) -> bool {
        self.subjects.contains_key(pod)
    }

    /// The addresses of all subjects, as of the last [`Engine::flush`]. Visits all subjects.
    pub fn subject_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let pods = self.subjects.keys().filter_map(|key| self.world.pods().get(key));
        pods.flat_map(|pod| self.world.owned_addresses(pod))
    }

    /// Brings [`Compiled`] up to date and returns what changed since the last flush.
    pub fn flush(&mut self) -> Update {
        let crossed = self.weights.compare(&self.members);
        if !crossed.is_empty() {
            let of = |subject: &Subject| subject.weights.iter().any(|id| crossed.contains(id));
            let concerned = self.subjects.iter().filter(|(_, subject)| of(subject));
            let concerned = concerned.map(|(key, _)| key);
            self.dirty.extend(concerned.chain(self.staging.with_weights(&crossed)).cloned());
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.selection_changed |= !dirty.is_empty();
        let compiled = self.compile_within_budgets(dirty.into_iter().collect());
        // New rulesets come first: a set that old and new rulesets share must not be created again.
        let mut rules_changed = self.acquire(&compiled);
        let slice = self.staging.limit.unwrap_or(usize::MAX);
        self.members.fill(&self.world, &mut self.compiled.sets, slice);
        let (mut released, mut weights) = (Vec::new(), Vec::new());
        for (key, verdicts) in compiled {
            let (uses_before, weights_before) = self.staging.take(&key);
            released.extend(uses_before);
            weights.extend(weights_before);
            if self.waits(&key, &verdicts) {
                self.staging.hold(key, &verdicts);
            } else {
                rules_changed |= self.settle(key, verdicts, &mut released, &mut weights);
            }
        }
        let waiting = std::mem::replace(&mut self.compiled.waiting, self.staging.top());
        rules_changed |= waiting != self.compiled.waiting;
        self.release(&released);
        self.staging.end(|set| self.compiled.sets.contains_key(set));
        self.weights.release(&self.world, &mut self.members, weights);
        let update = Update { rules_changed, ..self.members.take_update(&self.compiled.sets) };
        self.hashed.update(&update, &self.compiled.sets);
        update
    }

    /// Compiles pods and acquires the weights of their rules. If a weight exceeds its limit, pods
    /// are compiled again, to rules that may have other weights.
    fn compile_within_budgets(&mut self, mut keys: Vec<PodKey>) -> Vec<(PodKey, Verdicts)> {
        let (mut done, mut superseded) = (Vec::new(), Vec::new());
        while !keys.is_empty() {
            let compiled = self.compile_all(keys);
            let weights = compiled.iter().flat_map(|(_, verdicts)| verdicts.weights());
            let exceed = self.weights.acquire(&self.world, &mut self.members, weights);
            let is_within =
                |verdicts: &Verdicts| verdicts.weights().all(|weight| !exceed.contains(&weight.id));
            let (within, again): (Vec<_>, Vec<_>) =
                compiled.into_iter().partition(|(_, verdicts)| is_within(verdicts));
            done.extend(within);
            superseded.extend(again.iter().flat_map(|(_, v)| v.weights()).map(|weight| weight.id));
            keys = again.into_iter().map(|(key, _)| key).collect();
        }
        self.weights.release(&self.world, &mut self.members, superseded);
        done
    }

    fn compile_all(&self, keys: Vec<PodKey>) -> Vec<(PodKey, Verdicts)> {
        let mut shared = Shared::default();
        let compile = |key: PodKey| {
            let verdicts = self.compile(&key, &mut shared);
            (key, verdicts)
        };
        keys.into_iter().map(compile).collect()
    }

    /// The pod, when it is a subject.
    fn subject(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        let pod = self.world.pods().get(key).filter(|pod| pod.takes_part())?;
        match &self.scope {
            Scope::Node(name) => (pod.node.as_ref() == Some(name)).then_some(pod),
            Scope::Cluster => Some(pod),
        }
    }

    /// The addresses for which the policies of a pod are enforced; no other pod has them.
    fn enforced_addresses(&self, pod: &Pod) -> Vec<IpAddr> {
        let subject = |address: &IpAddr| self.world.subject(*address);
        let owned = pod.addresses.iter().filter(|a| subject(a).is_some_and(|s| s.key == pod.key));
        owned.copied().collect()
    }

    /// Compiles the rulesets of a pod. Pods with the same policies and the same named ports are
    /// compiled once.
    fn compile<'e>(&'e self, key: &PodKey, shared: &mut Shared<'e>) -> Verdicts {
        let Some(pod) = self.subject(key) else { return Verdicts::default() };
        let selecting = Selecting::new(&self.world, pod, &mut shared.read);
        let compile = || Verdicts::new(&selecting, &self.world.options.budgets, &self.weights);
        shared.verdicts.entry(selecting.key()).or_insert_with(compile).clone()
    }

    /// Counts the uses of the new rulesets and creates those that did not exist. Returns whether
    /// there were any.
    fn acquire(&mut self, compiled: &[(PodKey, Verdicts)]) -> bool {
        let mut created = Vec::new();
        for defined in compiled.iter().flat_map(|(_, verdicts)| verdicts.uses()) {
            let sets = || defined.sets.keys().copied().collect();
            let (uses, _) = self.rulesets.entry(defined.id).or_insert_with(|| (0, sets()));
            *uses += 1;
            if *uses == 1 {
                self.compiled.rulesets.insert(defined.id, defined.ruleset.clone());
                created.push(defined);
            }
        }
        let sets = created.iter().flat_map(|defined| defined.sets.keys().copied());
        let (compiled, limit) = (&mut self.compiled.sets, self.staging.limit);
        let in_slices = self.members.acquire(&self.world, compiled, sets, limit);
        self.staging.begin(in_slices);
        !created.is_empty()
    }

    /// Sets the new rulesets and addresses of a pod. Returns whether an endpoint changed.
    fn settle(
        &mut self,
        key: PodKey,
        verdicts: Verdicts,
        released: &mut Vec<RulesetId>,
        released_weights: &mut Vec<WeightId>,
    ) -> bool {
        let uses: Vec<RulesetId> = verdicts.uses().map(|found| found.id).collect();
        let weights = verdicts.weights().map(|weight| weight.id).collect();
        let Verdicts { enforced, audited, policies } = verdicts;
        let audited = audited.map(|chain| chain.id());
        let refused = PerDirection::new(|direction| enforced.get(direction).refused.clone());
        let enforced = enforced.map(|chain| chain.id());
        let old = self.subjects.remove(&key).unwrap_or_default();
        self.refused_changed |= refused != old.refused;
        released.extend(old.uses);
        released_weights.extend(old.weights);
        let owned = match self.subject(&key) {
            Some(pod) => self.enforced_addresses(pod),
            None => Vec::new(),
        };
        let endpoints = if uses.is_empty() { Vec::new() } else { owned };
        let changed =
            (enforced, audited, &endpoints) != (old.enforced, old.audited, &old.endpoints);
        for address in &old.endpoints {
            // Another pod may have become the owner of the address in the same flush.
            if let Entry::Occupied(found) = self.compiled.endpoints.entry(*address)
                && found.get().pod == key
            {
                self.hashed.toggle(*address, &found.remove());
            }
        }
        let endpoint = Endpoint { pod: key.clone(), enforced, audited };
        for address in &endpoints {
            self.hashed.toggle(*address, &endpoint);
            if let Some(old) = self.compiled.endpoints.insert(*address, endpoint.clone()) {
                self.hashed.toggle(*address, &old);
            }
        }
        if self.subject(&key).is_some() {
            let subject =
                Subject { enforced, audited, uses, weights, refused, endpoints, policies };
            self.subjects.insert(key, subject);
        }
        changed
    }

    /// Counts down the uses of rulesets and removes those that are unreferenced.
    fn release(&mut self, released: &[RulesetId]) {
        let mut sets = Vec::new();
        for id in released {
            let Some((uses, _)) = self.rulesets.get_mut(id) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.compiled.rulesets.remove(id);
                sets.extend(self.rulesets.remove(id).into_iter().flat_map(|(_, sets)| sets));
            }
        }
        self.members.release(&mut self.compiled.sets, sets);
    }
}
