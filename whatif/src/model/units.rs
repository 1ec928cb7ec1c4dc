//! Units: the workloads or pods of an entry of a map, each in one class of the engine.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::reach::{ClassId, Reach};

use super::Cluster;
use crate::args::By;

/// A workload, or a pod, that is treated as one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Unit {
    /// The namespace.
    pub namespace: Str,
    /// The name in answers.
    pub name: Arc<str>,
    /// The number of its pods in the world.
    pub pods: usize,
}

impl Unit {
    /// The units of pods with their names, in the order of these.
    pub(crate) fn count<'p>(pods: impl Iterator<Item = (&'p PodKey, String)>) -> Vec<Self> {
        let mut units: BTreeMap<String, Self> = BTreeMap::new();
        for (pod, name) in pods {
            let unit = units.entry(name).or_insert_with_key(|name| Self {
                namespace: pod.namespace.clone(),
                name: name.as_str().into(),
                pods: 0,
            });
            unit.pods += 1;
        }
        units.into_values().collect()
    }
}

/// All units, by the class of their pods.
pub struct Units {
    /// Per class: its units, sorted by name.
    pub of_class: Vec<Vec<Unit>>,
}

impl Units {
    /// The units of a cluster by the classes of `reach`.
    #[must_use]
    pub fn new(cluster: &Cluster, reach: &Reach<'_>, by: By) -> Self {
        let classes: Vec<_> = reach.classes().iter().map(|class| class.pods.as_slice()).collect();
        Self::of_classes(cluster, &classes, by)
    }

    /// The units of pods in classes. A workload with pods of different classes is listed pod by
    /// pod, because one name cannot stand for two answers.
    pub(crate) fn of_classes<P: Borrow<PodKey>>(
        cluster: &Cluster,
        classes: &[&[P]],
        by: By,
    ) -> Self {
        let mut classes_of: BTreeMap<&super::WorkloadRef, BTreeSet<ClassId>> = BTreeMap::new();
        for (id, pods) in classes.iter().enumerate() {
            for workload in pods.iter().filter_map(|pod| cluster.workload_of(pod.borrow())) {
                classes_of.entry(workload).or_default().insert(id);
            }
        }
        let name = |pod: &PodKey| match cluster.workload_of(pod) {
            Some(workload)
                if by != By::Pod && classes_of.get(workload).is_some_and(|ids| ids.len() == 1) =>
            {
                workload.to_string()
            }
            _ => cluster.pod_ref(pod),
        };
        let of_class = classes.iter().map(|pods| {
            let pods = pods.iter().map(Borrow::borrow);
            Unit::count(pods.map(|pod| (pod, name(pod))))
        });
        Self { of_class: of_class.collect() }
    }

    /// How many units there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of_class.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The units of a class.
    #[must_use]
    pub fn of(&self, class: ClassId) -> &[Unit] {
        self.of_class.get(class).map_or(&[], Vec::as_slice)
    }
}
