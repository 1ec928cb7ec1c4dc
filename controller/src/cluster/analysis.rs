//! The objects of the cluster, and the findings about its policies.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use policy_engine::world::{Options, World};
use portcullis_crds::convert::{Meta, Object};
use tokio::time::Instant;
use tracing::debug;

use super::SHARE;
use super::events::ledger::ObjectFinding;
use super::findings::coverage::Coverage;
use super::findings::{Analyst, Findings, Reason};
use super::standing::Judged;
use crate::watch::Event;

/// The objects, and the findings about them.
pub struct Analysis {
    world: World,
    analyst: Analyst,
    synced: bool,
    /// The metadata and the status of each policy, as the API server sent them.
    policies: BTreeMap<ObjectRef, Meta>,
    /// The uid of each node.
    nodes: BTreeMap<Str, Str>,
    /// The findings about each policy of the cluster, and the pods that it selects.
    pub(super) judged: BTreeMap<ObjectRef, Judged>,
    /// Whether an object has changed since the findings were computed.
    changed: bool,
    /// The findings are not computed again before this moment.
    compute_at: Instant,
}

impl Analysis {
    /// An analysis without objects.
    #[must_use]
    pub fn new(options: Options, now: Instant) -> Self {
        Self {
            world: World::new(options),
            analyst: Analyst::default(),
            synced: false,
            policies: BTreeMap::new(),
            nodes: BTreeMap::new(),
            judged: BTreeMap::new(),
            changed: false,
            compute_at: now,
        }
    }

    /// Whether all objects that findings depend on are known.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Applies an event of the watch.
    pub fn take(&mut self, event: Event) {
        self.changed = true;
        match event {
            Event::Changes(objects) => objects.into_iter().for_each(|object| self.change(object)),
            Event::Synced => self.synced = true,
            Event::SyncedInPart => {}
            Event::Diagnostics(origin, found) => self.analyst.diagnose(origin, found),
        }
    }

    fn change(&mut self, Object { change, meta }: Object) {
        match (&change, meta) {
            (Change::Node(name, _), Some(meta)) => {
                self.nodes.insert(name.clone(), meta.uid);
            }
            (Change::Node(name, _), None) => {
                self.nodes.remove(name);
            }
            (Change::Policy(name, _), Some(meta)) => {
                self.policies.insert(name.clone(), *meta);
            }
            (Change::Policy(name, _), None) => {
                self.policies.remove(name);
            }
            (Change::Pod(..) | Change::Namespace(..) | Change::ApiServer(..), _) => {}
        }
        self.analyst.note(&change);
        self.world.apply(change);
    }

    /// Computes all findings if an object has changed; `None` if they are not computed now.
    pub fn round(&mut self, now: Instant) -> Option<BTreeSet<ObjectFinding>> {
        if !self.synced || !self.changed || now < self.compute_at {
            return None;
        }
        let findings = self.analyst.findings(&self.world);
        self.judged = judged(&self.world, &self.analyst, &findings);
        let mut object_findings = BTreeSet::new();
        for (policy, findings) in findings {
            let Some(meta) = self.policies.get(&policy) else { continue };
            let generation = self.generation(&policy).unwrap_or_default();
            object_findings.extend(findings.into_iter().map(|finding| ObjectFinding {
                object: policy.clone(),
                uid: meta.uid.to_string(),
                generation,
                finding,
            }));
        }
        self.changed = false;
        let took = now.elapsed();
        self.compute_at = now + took * SHARE;
        debug!(findings = object_findings.len(), took_ms = took.as_millis(), "looked at policies");
        Some(object_findings)
    }

    /// The uid and generation of a policy; `None` when there is no such policy.
    #[must_use]
    pub fn revision(&self, policy: &ObjectRef) -> Option<&Revision> {
        Some(&self.world.policy(policy)?.revision)
    }

    /// The `metadata.generation` of a policy; `None` when there is no such policy.
    #[must_use]
    pub fn generation(&self, policy: &ObjectRef) -> Option<i64> {
        Some(self.revision(policy)?.generation.unwrap_or_default())
    }

    /// The ClusterDefaultNetworkPolicies, with their metadata and status.
    pub fn defaults(&self) -> impl Iterator<Item = (&ObjectRef, &Meta)> {
        let kind = Kind::ClusterDefaultNetworkPolicy;
        self.policies.iter().filter(move |(policy, _)| policy.kind == kind)
    }

    /// The nodes of the pods that each policy in a namespace selects.
    #[must_use]
    pub fn concerned(&self) -> &BTreeMap<ObjectRef, BTreeSet<Str>> {
        self.analyst.nodes()
    }

    /// The uid of each node.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<Str, Str> {
        &self.nodes
    }
}

/// The findings about the policies of the cluster, and the pods that they select.
fn judged(world: &World, analyst: &Analyst, findings: &Findings) -> BTreeMap<ObjectRef, Judged> {
    let judge = |(name, coverage): (&ObjectRef, &Coverage)| {
        let policy = world.policy(name)?;
        let found = findings.get(name).into_iter().flatten();
        let failed = found.filter(|finding| finding.reason == Reason::FailedClosed);
        let judged = Judged {
            revision: policy.revision.clone(),
            mode: policy.mode,
            coverage: coverage.clone(),
            failed: failed.cloned().collect(),
        };
        Some((name.clone(), judged))
    };
    analyst.coverage().iter().filter_map(judge).collect()
}
