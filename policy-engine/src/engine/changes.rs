//! What a change of an object does: members of sets are updated, and pods whose rulesets it may affect
//! are marked dirty.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Engine;
use super::live_set::Presence;
use crate::labels::Str;
use crate::model::{Change, Node, Pod, PodKey};
use crate::object::ObjectRef;
use crate::policy::{Policy, Selected};
use crate::world::World;
use crate::world::enforcement::Enforcement;
use crate::world::owner::Contest;

impl Engine {
    /// Applies one change. [`Compiled`](crate::compiled::Compiled) is inconsistent until the next flush.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(key, pod) => self.apply_pod(&key, pod),
            Change::Namespace(name, namespace) => {
                if self.world.namespaces().get(&name) == namespace.as_ref() {
                    return;
                }
                self.world.apply(Change::Namespace(name.clone(), namespace));
                self.members.rematch(&self.world, &mut self.compiled.sets, &name);
                let enforcement = &self.world.options.enforcement;
                if matches!(enforcement, Enforcement::Namespaces(_))
                    || self.world.policies_in("").next().is_some()
                {
                    self.dirty.extend(self.subjects_in(&name).cloned().collect::<Vec<_>>());
                }
            }
            Change::Node(name, node) => self.apply_node(name, node),
            Change::Policy(name, policy) => self.apply_policy(name, policy),
            change @ Change::ApiServer(..) => {
                let naming = |world: &World| -> Vec<Arc<Policy>> {
                    let policies = world.policies_in("").filter(|policy| policy.names_api_server());
                    policies.cloned().collect()
                };
                let before = naming(&self.world);
                self.world.apply(change);
                for (before, after) in before.iter().zip(naming(&self.world)) {
                    if *before != after {
                        self.mark_selected(&after.name, &[&after]);
                    }
                }
            }
        }
    }

    /// The subjects of one namespace.
    fn subjects_in<'a>(&'a self, namespace: &'a Str) -> impl Iterator<Item = &'a PodKey> {
        let first = PodKey::new(namespace, "");
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
        self.change_nodes(&addresses, Presence::Retract);
        self.world.apply(Change::Node(name, node));
        self.change_nodes(&addresses, Presence::Assert);
    }

    fn apply_pod(&mut self, key: &PodKey, pod: Option<Arc<Pod>>) {
        let old = self.world.pods().get(key);
        if old == pod.as_ref() {
            return;
        }
        if self.subjects.contains_key(key) {
            self.staging.note(key, old.map(Arc::as_ref), pod.as_deref());
        }
        // Other pods that claim one of the addresses may become its owner, or stop being it.
        let addresses = old.into_iter().chain(&pod).flat_map(|pod| &pod.addresses);
        let addresses: BTreeSet<IpAddr> = addresses.copied().collect();
        let mut affected: BTreeSet<PodKey> = addresses
            .iter()
            .flat_map(|address| self.world.claimants(*address))
            .map(|claimant| claimant.key.clone())
            .collect();
        affected.insert(key.clone());
        for pod in &affected {
            self.change(pod, Presence::Retract);
        }
        self.change_nodes(&addresses, Presence::Retract);
        self.contests_changed |= self.any_contested(&addresses);
        self.world.apply(Change::Pod(key.clone(), pod));
        self.contests_changed |= self.any_contested(&addresses);
        self.members.place(&self.world, key);
        for pod in &affected {
            self.change(pod, Presence::Assert);
        }
        self.change_nodes(&addresses, Presence::Assert);
        // A pod that is no longer a subject still has to release its rulesets.
        affected.retain(|pod| self.subjects.contains_key(pod) || self.subject(pod).is_some());
        self.dirty.extend(affected);
    }

    fn any_contested(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        addresses.iter().any(|address| self.world.is_contested(*address))
    }

    /// The first `limit` contested addresses and how many there are; `None` when no change since
    /// the last call affected a contested address.
    pub fn take_contests(&mut self, limit: usize) -> Option<(Vec<Contest>, usize)> {
        let changed = std::mem::take(&mut self.contests_changed);
        let world = &self.world;
        changed.then(|| (world.contests().take(limit).collect(), world.contested()))
    }

    /// See [`Members::change`].
    fn change(&mut self, pod: &PodKey, presence: Presence) {
        self.members.change(&self.world, &mut self.compiled.sets, pod, presence);
    }

    /// See [`Members::change_nodes`].
    fn change_nodes(&mut self, addresses: &BTreeSet<IpAddr>, presence: Presence) {
        self.members.change_nodes(&self.world, &mut self.compiled.sets, addresses, presence);
    }

    fn apply_policy(&mut self, name: ObjectRef, policy: Option<Arc<Policy>>) {
        let policy = policy.map(|policy| self.world.completed(policy));
        let old = self.world.policy(&name).cloned();
        if old == policy {
            return;
        }
        let versions: Vec<&Arc<Policy>> = old.iter().chain(&policy).collect();
        self.mark_selected(&name, &versions);
        self.world.apply(Change::Policy(name, policy));
    }

    /// Marks the subjects that one of these versions of a policy selects.
    fn mark_selected(&mut self, name: &ObjectRef, versions: &[&Arc<Policy>]) {
        let world = &self.world;
        let selects = |pod: &&PodKey| {
            let pod = world.pods().get(*pod);
            let mut policies = versions.iter();
            pod.is_some_and(|pod| policies.any(|p| world.selected(p, pod) != Selected::No))
        };
        let selected: Vec<PodKey> = if name.namespace.is_empty() {
            self.subjects.keys().filter(selects).cloned().collect()
        } else {
            self.subjects_in(&name.namespace).filter(selects).cloned().collect()
        };
        self.dirty.extend(selected);
    }
}
