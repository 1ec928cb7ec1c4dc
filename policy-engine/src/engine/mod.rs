//! The incremental compiler: changes in, [`Compiled`] and what changed of it out.
//!
//! ```text
//! Change ─► World                 pods that the change concerns become dirty
//!        ─► identities, members   set members follow at once
//! flush  ─► dirty pods: policies that select them ─► AllowSet ─► ruleset (shared)
//!        ─► rulesets and sets that nobody uses any more go
//! ```
//!
//! The same code serves one node (its pods are the subjects) and a whole cluster.

mod identities;
mod members;
pub mod selection;
mod slots;
mod terms;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::members::Members;
use crate::allow_set::AllowSet;
use crate::compiled::{Compiled, Endpoint, Update};
use crate::id::{RulesetId, SetId};
use crate::labels::Str;
use crate::model::{Change, Direction, NamedPort, Pod, PodKey};
use crate::policy::{NetworkPolicy, PolicyKey};
use crate::ruleset::DefinedRuleset;
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
    ingress: Option<RulesetId>,
    egress: Option<RulesetId>,
    endpoints: Vec<std::net::IpAddr>,
    /// What the rulesets were compiled from.
    policies: Arc<[Arc<NetworkPolicy>]>,
}

/// What the policies that select a subject come to.
#[derive(Clone, Default)]
struct Verdicts {
    rulesets: [Option<Arc<DefinedRuleset>>; 2],
    policies: Arc<[Arc<NetworkPolicy>]>,
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

    /// The rulesets of a subject for ingress and egress, as of the last [`Engine::flush`].
    #[must_use]
    pub fn rulesets_of(&self, pod: &PodKey) -> (Option<&RulesetId>, Option<&RulesetId>) {
        let subject = self.subjects.get(pod);
        (
            subject.and_then(|subject| subject.ingress.as_ref()),
            subject.and_then(|subject| subject.egress.as_ref()),
        )
    }

    /// Takes in one change. Nothing of [`Compiled`] may be relied on until the next flush.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(key, pod) => self.apply_pod(&key, pod),
            Change::Namespace(name, namespace) => {
                self.world.apply(Change::Namespace(name.clone(), namespace));
                self.members.rematch(&self.world, &mut self.compiled.sets, &name);
            }
            Change::Node(..) => self.world.apply(change),
            Change::NetworkPolicy(key, policy) => self.apply_policy(key, policy),
        }
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
        let mut concerned: BTreeSet<PodKey> = addresses
            .flat_map(|address| self.world.claimants(*address))
            .map(|claimant| claimant.key.clone())
            .collect();
        concerned.insert(key.clone());
        for pod in &concerned {
            self.members.retract(&self.world, &mut self.compiled.sets, pod);
        }
        self.world.apply(Change::Pod(key.clone(), pod));
        self.members.place(&self.world, key);
        for pod in &concerned {
            self.members.assert(&self.world, &mut self.compiled.sets, pod);
        }
        // A pod that is no subject any more still has to give its rulesets back.
        concerned.retain(|pod| self.subjects.contains_key(pod) || self.subject(pod).is_some());
        self.dirty.extend(concerned);
    }

    fn apply_policy(&mut self, key: PolicyKey, policy: Option<Arc<NetworkPolicy>>) {
        let old = self.world.policies().get(&key).cloned();
        if old == policy {
            return;
        }
        let first = PodKey { namespace: key.namespace.clone(), name: Str::from("") };
        let in_namespace = self
            .subjects
            .range(first..)
            .map(|(pod, _)| pod)
            .take_while(|pod| pod.namespace == key.namespace);
        let selected = in_namespace.filter(|pod| {
            self.world.pods().get(pod).is_some_and(|pod| {
                [&old, &policy].into_iter().flatten().any(|p| p.subject.matches(&pod.labels))
            })
        });
        self.dirty.extend(selected.cloned());
        self.world.apply(Change::NetworkPolicy(key, policy));
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
    fn compile(
        &self,
        key: &PodKey,
        shared: &mut HashMap<(Vec<PolicyKey>, Vec<NamedPort>), Verdicts>,
    ) -> Verdicts {
        let Some(pod) = self.subject(key) else { return Verdicts::default() };
        let policies: Vec<&Arc<NetworkPolicy>> = self
            .world
            .policies_in(&key.namespace)
            .filter(|policy| policy.subject.matches(&pod.labels))
            .collect();
        let names = policies.iter().map(|policy| policy.key.clone()).collect();
        shared
            .entry((names, pod.ports.clone()))
            .or_insert_with(|| Verdicts {
                rulesets: Direction::BOTH
                    .map(|direction| compile(&policies, direction, &pod.ports)),
                policies: policies.iter().map(|policy| Arc::clone(policy)).collect(),
            })
            .clone()
    }

    /// Counts the users of the rulesets to come, and makes those that are new.
    fn acquire(&mut self, compiled: &[(PodKey, Verdicts)]) -> bool {
        let mut created = Vec::new();
        for defined in compiled.iter().flat_map(|(_, verdicts)| &verdicts.rulesets).flatten() {
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
        let Verdicts { rulesets, policies } = verdicts;
        let [ingress, egress] = rulesets.each_ref().map(|side| side.as_ref().map(|found| found.id));
        let old = self.subjects.remove(&key).unwrap_or_default();
        released.extend(old.ingress.into_iter().chain(old.egress));
        let owned = match self.subject(&key) {
            Some(pod) => self.world.owned_addresses(pod).collect(),
            None => Vec::new(),
        };
        let isolated = ingress.is_some() || egress.is_some();
        let endpoints = if isolated { owned } else { Vec::new() };
        let changed = (ingress, egress, &endpoints) != (old.ingress, old.egress, &old.endpoints);
        let subject = Subject { ingress, egress, endpoints, policies };
        for address in &old.endpoints {
            // Another pod may have taken the address over in the same flush.
            if self.compiled.endpoints.get(address).is_some_and(|found| found.pod == key) {
                self.compiled.endpoints.remove(address);
            }
        }
        for address in &subject.endpoints {
            let endpoint = Endpoint { pod: key.clone(), ingress, egress };
            self.compiled.endpoints.insert(*address, endpoint);
        }
        if self.subject(&key).is_some() {
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

/// The ruleset of the pods that exactly these policies select; `None` when all may pass.
fn compile(
    policies: &[&Arc<NetworkPolicy>],
    direction: Direction,
    ports: &[NamedPort],
) -> Option<Arc<DefinedRuleset>> {
    let isolating: Vec<_> = policies.iter().filter_map(|policy| policy.rules(direction)).collect();
    if isolating.is_empty() {
        return None;
    }
    let allowed = AllowSet::fold(isolating.into_iter().flatten(), direction, ports);
    DefinedRuleset::new(&allowed, direction).map(Arc::new)
}
