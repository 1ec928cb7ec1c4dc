//! Reachability as rows for every output: who, to whom, on which ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::model::PodKey;
use policy_engine::reach::{ClassId, Edges, PortSet, Reach};

use super::json::{Entry, External};
use super::rows::{About, is_alone};
use crate::args::By;
use crate::model::{Cluster, Unit, Units};
use crate::output::json::{self, Ports};
use crate::output::words;

/// What of all reachability is asked for.
#[derive(Clone, Default, Debug)]
pub struct Focus {
    /// Only from these pods.
    pub sources: Option<BTreeSet<PodKey>>,
    /// Only to these pods.
    pub destinations: Option<BTreeSet<PodKey>>,
    /// Only these external addresses, and no pods.
    pub outside: Option<CidrSet>,
    /// The directions in which external addresses are looked at.
    pub outside_directions: Vec<Direction>,
    /// Only these ports.
    pub ports: Option<PortSet>,
}

/// External addresses, with what is allowed between them and a class.
pub type Part = (CidrSet, PortSet);

/// All edges that are asked for, between units.
pub struct Matrix {
    /// Everyone there is, by class.
    pub everyone: Units,
    /// Who may connect, by class.
    pub sources: Vec<Vec<Unit>>,
    /// Who may be asked, by class.
    pub destinations: Vec<Vec<Unit>>,
    /// Per pair of classes what is allowed, by source.
    pub edges: Vec<(ClassId, ClassId, PortSet)>,
    /// Per class and direction what is allowed between it and external addresses.
    pub outside: Vec<(ClassId, Direction, Vec<Part>)>,
    /// What one entry stands for.
    pub by: By,
}

impl Matrix {
    /// The part of all reachability that `focus` asks for.
    #[must_use]
    pub fn new(cluster: &Cluster, reach: &Reach<'_>, by: By, focus: &Focus) -> Self {
        let everyone = Units::new(cluster, reach, by);
        let sources = restricted(cluster, reach, &everyone, focus.sources.as_ref(), by);
        let destinations = restricted(cluster, reach, &everyone, focus.destinations.as_ref(), by);
        let cut = |ports: &PortSet| match &focus.ports {
            Some(asked) => ports.intersection(asked),
            None => ports.clone(),
        };
        let present = |units: &[Vec<Unit>], class: ClassId| {
            units.get(class).is_some_and(|units| !units.is_empty())
        };
        let found = if focus.outside.is_some() { Edges::default() } else { reach.edges() };
        let edges = found
            .iter()
            .filter(|edge| {
                present(&sources, edge.source) && present(&destinations, edge.destination)
            })
            .map(|edge| (edge.source, edge.destination, cut(edge.allowed)))
            .filter(|(.., ports)| !ports.is_empty())
            .collect();
        let mut outside = Vec::new();
        for class in 0..reach.classes().len() {
            for direction in &focus.outside_directions {
                let subjects = match direction {
                    Direction::Ingress => &destinations,
                    Direction::Egress => &sources,
                };
                if !present(subjects, class) {
                    continue;
                }
                let parts = reach.outside(class, *direction).parts.into_iter();
                let parts = parts.map(|(addresses, ports)| match &focus.outside {
                    Some(asked) => (addresses.intersection(asked), cut(&ports)),
                    None => (addresses, cut(&ports)),
                });
                let parts: Vec<_> =
                    parts.filter(|(a, ports)| !a.is_empty() && !ports.is_empty()).collect();
                if !parts.is_empty() {
                    outside.push((class, *direction, parts));
                }
            }
        }
        Self { everyone, sources, destinations, edges, outside, by }
    }

    /// Every pair of units between which something is allowed.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        if self.by == By::Namespace {
            return self.entries_of_namespaces();
        }
        let mut shared = Shared::default();
        let mut entries = Vec::new();
        for block in self.blocks(About::Destinations) {
            for (allowed, sources) in &block.peers {
                let allowed = shared.ports(allowed);
                // The contract has no word for protocols without ports alone.
                if allowed.is_empty() {
                    continue;
                }
                for from in sources {
                    for to in &block.subjects {
                        // A pod always reaches itself; that is not said.
                        if from.name == to.name && is_alone(from) {
                            continue;
                        }
                        let (source, destination) = (from.name.clone(), to.name.clone());
                        entries.push(Entry { source, destination, allowed: allowed.clone() });
                    }
                }
            }
        }
        entries.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
        entries
    }

    fn entries_of_namespaces(&self) -> Vec<Entry> {
        let mut united: BTreeMap<(Arc<str>, Arc<str>), PortSet> = BTreeMap::new();
        for block in self.blocks(About::Destinations) {
            let to = namespaces(block.subjects.iter().copied());
            for (allowed, sources) in &block.peers {
                for (from, sources) in namespaces(sources.iter().copied()) {
                    for (to, destinations) in &to {
                        // One pod that always reaches itself is not two pods of a namespace.
                        if sources == *destinations && matches!(sources[..], [one] if is_alone(one))
                        {
                            continue;
                        }
                        united.entry((from.clone(), to.clone())).or_default().add(allowed);
                    }
                }
            }
        }
        let mut shared = Shared::default();
        let entry = |((source, destination), allowed): ((Arc<str>, Arc<str>), PortSet)| Entry {
            source,
            destination,
            allowed: shared.ports(&allowed),
        };
        united.into_iter().map(entry).filter(|entry| !entry.allowed.is_empty()).collect()
    }

    /// What is allowed between every unit and external addresses.
    #[must_use]
    pub fn external(&self) -> Vec<External> {
        let mut shared = Shared::default();
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (class, direction, parts) in &self.outside {
            let units = match direction {
                Direction::Ingress => of(&self.destinations, *class),
                Direction::Egress => of(&self.sources, *class),
            };
            let names: Vec<Arc<str>> = match self.by {
                By::Namespace => namespaces(units.iter()).into_keys().collect(),
                By::Pod | By::Workload => units.iter().map(|unit| unit.name.clone()).collect(),
            };
            for (addresses, ports) in parts {
                let (cidrs, allowed) = (shared.cidrs(addresses), shared.ports(ports));
                if allowed.is_empty() {
                    continue;
                }
                for workload in &names {
                    let key = (workload.clone(), *direction, addresses.clone(), ports.clone());
                    // Two classes of one namespace may say the same.
                    if self.by != By::Namespace || seen.insert(key) {
                        all.push(External {
                            workload: workload.clone(),
                            direction: (*direction).into(),
                            cidrs: cidrs.clone(),
                            allowed: allowed.clone(),
                        });
                    }
                }
            }
        }
        all.sort_by(|a, b| a.workload.cmp(&b.workload));
        all
    }
}

/// The units of one class.
pub(crate) fn of(units: &[Vec<Unit>], class: ClassId) -> &[Unit] {
    units.get(class).map_or(&[], Vec::as_slice)
}

/// Units by their namespaces; a node, which is in none, by its name.
fn namespaces<'u>(units: impl Iterator<Item = &'u Unit>) -> BTreeMap<Arc<str>, Vec<&'u Unit>> {
    let mut found: BTreeMap<Arc<str>, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        let name = match unit.namespace.as_ref() {
            "" => unit.name.clone(),
            namespace => format!("{namespace}/*").as_str().into(),
        };
        found.entry(name).or_default().push(unit);
    }
    found
}

/// Units of these pods only; a unit that is asked for in part is told as a whole.
fn restricted(
    cluster: &Cluster,
    reach: &Reach<'_>,
    everyone: &Units,
    only: Option<&BTreeSet<PodKey>>,
    by: By,
) -> Vec<Vec<Unit>> {
    let Some(only) = only else { return everyone.of_class.clone() };
    let each = reach.classes().iter().enumerate().map(|(id, class)| {
        let pods = class.pods.iter().filter(|pod| only.contains(*pod));
        let names: BTreeSet<String> = pods
            .flat_map(|pod| {
                let workload = cluster.workload_of(pod).map(ToString::to_string);
                [Some(cluster.pod_ref(pod)), workload.filter(|_| by != By::Pod)]
            })
            .flatten()
            .collect();
        let units = everyone.of(id).iter().filter(|unit| names.contains(unit.name.as_ref()));
        units.cloned().collect()
    });
    each.collect()
}

/// Values that many rows have in common.
#[derive(Default)]
struct Shared {
    ports: BTreeMap<PortSet, Arc<[Ports]>>,
    cidrs: BTreeMap<CidrSet, Arc<[String]>>,
}

impl Shared {
    fn ports(&mut self, set: &PortSet) -> Arc<[Ports]> {
        if let Some(known) = self.ports.get(set) {
            return known.clone();
        }
        let made: Arc<[Ports]> = json::ports(set).into();
        self.ports.insert(set.clone(), made.clone());
        made
    }

    fn cidrs(&mut self, set: &CidrSet) -> Arc<[String]> {
        let made = || words::networks(set).into();
        self.cidrs.entry(set.clone()).or_insert_with(made).clone()
    }
}
