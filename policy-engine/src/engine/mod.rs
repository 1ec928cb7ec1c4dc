//! The incremental compiler: changes in, [`Compiled`] and what changed of it out.
//!
//! ```text
//! Change ─► World                 pods that the change concerns become dirty
//!        ─► identities, members   set members follow at once
//! flush  ─► dirty pods: policies that select them ─► a chain of rulesets per direction (shared)
//!        ─► rulesets and sets that nobody uses any more go
//! ```
//!
//! The same code serves one node (its pods are the subjects) and a whole cluster.

pub mod blame;
mod identities;
mod members;
pub mod selection;
mod slots;
mod terms;
pub mod tiers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::members::Members;
use self::tiers::{Key, SelectedPolicy, Selecting};
use crate::compiled::{Compiled, Endpoint, Update};
use crate::direction::{Direction, PerDirection};
use crate::id::{RulesetId, SetId};
use crate::labels::Str;
use crate::model::{Change, Node, Pod, PodKey};
use crate::object::ObjectRef;
use crate::policy::{Policy, Selected};
use crate::ruleset::DefinedRuleset;
use crate::tier::View;
use crate::world::{Options, World};

/// Whose rulesets are compiled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The pods of one node.
    Node(Str),
    /// All pods.
    Cluster,
}

/// Keeps [`Compiled`] true to a changing world.
///
/// Guarantee: after [`Engine::flush`], [`Engine::compiled`] is a function of the world as it is,
/// whatever changes led there, in whatever order.
#[derive(Debug)]
pub struct Engine {
    scope: Scope,
    world: World,
    members: Members,
    compiled: Compiled,
    subjects: BTreeMap<PodKey, Subject>,
    /// How many directions of subjects use a ruleset, and the sets that it refers to.
    rulesets: BTreeMap<RulesetId, (usize, Vec<SetId>)>,
    dirty: BTreeSet<PodKey>,
    /// Whether a flush since the last [`Engine::take_selection`] had subjects to compile.
    selection_changed: bool,
}

/// The rulesets of one subject.
#[derive(Clone, Default, Debug)]
struct Subject {
    /// `None` where all may pass.
    enforced: PerDirection<Option<RulesetId>>,
    audited: PerDirection<Option<RulesetId>>,
    /// Every ruleset that these lead to, as often as they do.
    uses: Vec<RulesetId>,
    endpoints: Vec<std::net::IpAddr>,
    /// What the rulesets were compiled from.
    policies: Arc<[SelectedPolicy]>,
}

/// What the policies that select a subject come to.
#[derive(Clone, Default)]
struct Verdicts {
    /// `None` where all may pass.
    enforced: PerDirection<Option<Arc<DefinedRuleset>>>,
    /// Where policies in audit would deny more.
    audited: PerDirection<Option<Arc<DefinedRuleset>>>,
    policies: Arc<[SelectedPolicy]>,
}

impl Verdicts {
    fn new(selecting: &Selecting<'_>) -> Self {
        let compile = |view| PerDirection::new(|direction| selecting.compile(direction, view));
        let enforced = compile(View::Enforced);
        let mut audited = PerDirection::default();
        if selecting.has_audit() {
            audited = compile(View::Audited);
            for direction in Direction::BOTH {
                let [one, other] = [&audited, &enforced].map(|found| found.get(direction));
                if one.as_ref().map(|found| found.id) == other.as_ref().map(|found| found.id) {
                    *audited.get_mut(direction) = None;
                }
            }
        }
        Self { enforced, audited, policies: selecting.selected() }
    }

    /// Every ruleset that is asked, as often as something leads to it.
    fn uses(&self) -> impl Iterator<Item = &DefinedRuleset> {
        let found = self.enforced.iter().chain(self.audited.iter());
        found.flatten().flat_map(|found| found.chain())
    }
}

impl Engine {
    /// An engine for a world without objects.
    #[must_use]
    pub fn new(scope: Scope, options: Options) -> Self {
        Self {
            scope,
            world: World::new(options),
            members: Members::default(),
            compiled: Compiled::default(),
            subjects: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            dirty: BTreeSet::new(),
            selection_changed: false,
        }
    }

    /// The objects as they are, pending changes included.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What is to be enforced, as of the last [`Engine::flush`].
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// The rulesets of a subject, as of the last [`Engine::flush`].
    #[must_use]
    pub fn rulesets_of(&self, pod: &PodKey) -> PerDirection<Option<RulesetId>> {
        self.subjects.get(pod).map(|subject| subject.enforced).unwrap_or_default()
    }

    /// Takes in one change. Nothing of [`Compiled`] may be relied on until the next flush.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(key, pod) => self.apply_pod(&key, pod),
            Change::Namespace(name, namespace) => {
                if self.world.namespaces().get(&name) == namespace.as_ref() {
                    return;
                }
                self.world.apply(Change::Namespace(name.clone(), namespace));
                self.members.rematch(&self.world, &mut self.compiled.sets, &name);
                if self.world.policies_in("").next().is_some() {
                    self.dirty.extend(self.subjects_in(&name).cloned().collect::<Vec<_>>());
                }
            }
            Change::Node(name, node) => self.apply_node(name, node),
            Change::Policy(name, policy) => self.apply_policy(name, policy),
        }
    }

    /// The subjects of one namespace.
    fn subjects_in<'a>(&'a self, namespace: &'a Str) -> impl Iterator<Item = &'a PodKey> {
        let first = PodKey { namespace: namespace.clone(), name: Str::from("") };
        let from = self.subjects.range(first..).map(|(pod, _)| pod);
        from.take_while(move |pod| pod.namespace == *namespace)
    }

    fn apply_node(&mut self, name: Str, node: Option<Node>) {
        let old = self.world.nodes().get(&name);
        if old == node.as_ref() {
            return;
        }
        let mut addresses = self.members.addresses_on(&self.world, &name);
        let own = old.into_iter().chain(&node).flat_map(|node| &node.addresses);
        addresses.extend(own.copied());
        self.members.retract_nodes(&self.world, &mut self.compiled.sets, &addresses);
        self.world.apply(Change::Node(name, node));
        self.members.assert_nodes(&self.world, &mut self.compiled.sets, &addresses);
    }

    /// Brings [`Compiled`] up to date and says what changed of it since the last flush.
    pub fn flush(&mut self) -> Update {
        let dirty = std::mem::take(&mut self.dirty);
        self.selection_changed |= !dirty.is_empty();
        let mut shared = HashMap::new();
        let compiled: Vec<(PodKey, Verdicts)> = dirty
            .into_iter()
            .map(|key| {
                let verdicts = self.compile(&key, &mut shared);
                (key, verdicts)
            })
            .collect();
        // New rulesets first: a set that old and new rulesets share must not be made anew.
        let mut rules_changed = self.acquire(&compiled);
        let mut released = Vec::new();
        for (key, verdicts) in compiled {
            rules_changed |= self.settle(key, verdicts, &mut released);
        }
        self.release(&released);
        Update { rules_changed, ..self.members.take_update(&self.compiled.sets) }
    }

    fn apply_pod(&mut self, key: &PodKey, pod: Option<Arc<Pod>>) {
        let old = self.world.pods().get(key);
        if old == pod.as_ref() {
            return;
        }
        // Whoever claims one of the same addresses may win or lose it.
        let addresses = old.into_iter().chain(&pod).flat_map(|pod| &pod.addresses);
        let addresses: BTreeSet<std::net::IpAddr> = addresses.copied().collect();
        let mut concerned: BTreeSet<PodKey> = addresses
            .iter()
            .flat_map(|address| self.world.claimants(*address))
            .map(|claimant| claimant.key.clone())
            .collect();
        concerned.insert(key.clone());
        for pod in &concerned {
            self.members.retract(&self.world, &mut self.compiled.sets, pod);
        }
        self.members.retract_nodes(&self.world, &mut self.compiled.sets, &addresses);
        self.world.apply(Change::Pod(key.clone(), pod));
        self.members.place(&self.world, key);
        for pod in &concerned {
            self.members.assert(&self.world, &mut self.compiled.sets, pod);
        }
        self.members.assert_nodes(&self.world, &mut self.compiled.sets, &addresses);
        // A pod that is no subject any more still has to give its rulesets back.
        concerned.retain(|pod| self.subjects.contains_key(pod) || self.subject(pod).is_some());
        self.dirty.extend(concerned);
    }

    fn apply_policy(&mut self, name: ObjectRef, policy: Option<Arc<Policy>>) {
        let world = &self.world;
        let old = world.policy(&name);
        if old == policy.as_ref() {
            return;
        }
        let selects = |pod: &&PodKey| {
            let pod = world.pods().get(*pod);
            let mut policies = old.into_iter().chain(&policy);
            pod.is_some_and(|pod| policies.any(|p| world.selected(p, pod) != Selected::No))
        };
        let selected: Vec<PodKey> = if name.namespace.is_empty() {
            self.subjects.keys().filter(selects).cloned().collect()
        } else {
            self.subjects_in(&name.namespace).filter(selects).cloned().collect()
        };
        self.dirty.extend(selected);
        self.world.apply(Change::Policy(name, policy));
    }

    /// The pod, when rulesets are compiled for it.
    fn subject(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        let pod = self.world.pods().get(key).filter(|pod| pod.takes_part())?;
        match &self.scope {
            Scope::Node(name) => (pod.node.as_ref() == Some(name)).then_some(pod),
            Scope::Cluster => Some(pod),
        }
    }

    /// The rulesets of a pod. Pods that the same policies select, with the same named ports,
    /// share the work.
    fn compile<'e>(&'e self, key: &PodKey, shared: &mut HashMap<Key<'e>, Verdicts>) -> Verdicts {
        let Some(pod) = self.subject(key) else { return Verdicts::default() };
        let selecting = Selecting::new(&self.world, pod);
        shared.entry(selecting.key()).or_insert_with(|| Verdicts::new(&selecting)).clone()
    }

    /// Counts the users of the rulesets to come, and makes those that are new.
    fn acquire(&mut self, compiled: &[(PodKey, Verdicts)]) -> bool {
        let mut created = Vec::new();
        for defined in compiled.iter().flat_map(|(_, verdicts)| verdicts.uses()) {
            let sets = || defined.sets.keys().copied().collect();
            let (users, _) = self.rulesets.entry(defined.id).or_insert_with(|| (0, sets()));
            *users += 1;
            if *users == 1 {
                self.compiled.rulesets.insert(defined.id, defined.ruleset.clone());
                created.push(defined);
            }
        }
        let definitions = created
            .iter()
            .flat_map(|defined| defined.sets.iter().map(|(id, definition)| (*id, definition)));
        self.members.acquire(&self.world, &mut self.compiled.sets, definitions);
        !created.is_empty()
    }

    /// Gives a pod its new rulesets and addresses. Tells whether an endpoint changed.
    fn settle(&mut self, key: PodKey, verdicts: Verdicts, released: &mut Vec<RulesetId>) -> bool {
        let uses: Vec<RulesetId> = verdicts.uses().map(|found| found.id).collect();
        let Verdicts { enforced, audited, policies } = verdicts;
        let ids = |rulesets: PerDirection<Option<Arc<DefinedRuleset>>>| {
            rulesets.map(|found| found.map(|found| found.id))
        };
        let (enforced, audited) = (ids(enforced), ids(audited));
        let old = self.subjects.remove(&key).unwrap_or_default();
        released.extend(old.uses);
        let owned = match self.subject(&key) {
            Some(pod) => self.world.owned_addresses(pod).collect(),
            None => Vec::new(),
        };
        let endpoints = if uses.is_empty() { Vec::new() } else { owned };
        let changed =
            (enforced, audited, &endpoints) != (old.enforced, old.audited, &old.endpoints);
        for address in &old.endpoints {
            // Another pod may have taken the address over in the same flush.
            if self.compiled.endpoints.get(address).is_some_and(|found| found.pod == key) {
                self.compiled.endpoints.remove(address);
            }
        }
        let endpoint = Endpoint { pod: key.clone(), enforced, audited };
        for address in &endpoints {
            self.compiled.endpoints.insert(*address, endpoint.clone());
        }
        if self.subject(&key).is_some() {
            let subject = Subject { enforced, audited, uses, endpoints, policies };
            self.subjects.insert(key, subject);
        }
        changed
    }

    fn release(&mut self, released: &[RulesetId]) {
        let mut sets = Vec::new();
        for id in released {
            let Some((users, _)) = self.rulesets.get_mut(id) else { continue };
            *users -= 1;
            if *users == 0 {
                self.compiled.rulesets.remove(id);
                sets.extend(self.rulesets.remove(id).into_iter().flat_map(|(_, sets)| sets));
            }
        }
        self.members.release(&self.world, &mut self.compiled.sets, sets);
    }
}
