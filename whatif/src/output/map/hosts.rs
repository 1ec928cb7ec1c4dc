//! Nodes, and the pods that use the network of their node, in a matrix. Policies apply only to the
//! pods that are their peers.

use std::collections::BTreeMap;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::reach::{ClassId, PortSet, Reach};

use super::matrix::{Matrix, Numbered, Row};
use super::rows::About;
use crate::args::By;
use crate::endpoint::Side;
use crate::judge::groups::between;
use crate::model::{Cluster, Unit, Units};

/// A node, or a pod that uses the network of its node.
#[derive(Clone, Debug)]
pub struct Host {
    /// The endpoint of the engine.
    pub side: Side,
    /// The name in answers.
    pub name: String,
}

impl Host {
    /// The node, if it is known.
    fn node(&self, cluster: &Cluster) -> Option<Str> {
        match &self.side {
            Side::Node(name, _) => Some(name.clone()),
            Side::Pod(key, _) => cluster.world.pods().get(key)?.node.clone(),
            Side::Outside(_) => None,
        }
    }
}

impl Matrix {
    /// The connections that pods can open to hosts (`Egress`), or hosts to pods (`Ingress`).
    #[must_use]
    pub fn of_hosts(
        cluster: &Cluster,
        reach: &Reach<'_>,
        by: By,
        hosts: &[Host],
        direction: Direction,
        ports: Option<&PortSet>,
    ) -> Self {
        let cut = |set: PortSet| ports.map_or(set.clone(), |asked| set.intersection(asked));
        let nodes: Vec<Option<Str>> = hosts.iter().map(|host| host.node(cluster)).collect();
        // Pods of one class differ only in whether the host is their own node.
        let mut known: BTreeMap<(usize, ClassId, bool), PortSet> = BTreeMap::new();
        let mut alike: BTreeMap<Vec<PortSet>, Vec<&PodKey>> = BTreeMap::new();
        for (class, pod) in numbered_pods(reach) {
            let own = cluster.world.pods().get(pod).and_then(|pod| pod.node.as_ref());
            let allowed = hosts.iter().zip(&nodes).enumerate().map(|(at, (host, node))| {
                let is_own = own.is_some() && own == node.as_ref();
                let found = known.entry((at, class, is_own)).or_insert_with(|| {
                    let side = Side::Pod(pod.clone(), None);
                    cut(match direction {
                        Direction::Egress => between(reach, &cluster.world, &side, &host.side),
                        Direction::Ingress => between(reach, &cluster.world, &host.side, &side),
                    })
                });
                found.clone()
            });
            alike.entry(allowed.collect()).or_default().push(pod);
        }
        let classes: Vec<&[&PodKey]> = alike.values().map(Vec::as_slice).collect();
        let everyone = Units::of_classes(cluster, &classes, by);
        let rows: Vec<Vec<PortSet>> = alike.into_keys().collect();
        // Hosts that are treated alike are one class. Their classes follow those of the pods.
        let mut columns: BTreeMap<Vec<&PortSet>, Vec<&Host>> = BTreeMap::new();
        for (at, host) in hosts.iter().enumerate() {
            let column = rows.iter().filter_map(|row| row.get(at)).collect();
            columns.entry(column).or_default().push(host);
        }
        let first = rows.len();
        let mut subjects = vec![Vec::new(); first];
        let (mut found, mut outside) = (BTreeMap::new(), Vec::new());
        let mut numbered = Numbered::default();
        let names =
            host_names(cluster, by, &columns.values().map(Vec::as_slice).collect::<Vec<_>>());
        for (number, (column, units)) in columns.keys().zip(names).enumerate() {
            let host = first + number;
            subjects.push(units);
            let mut own: BTreeMap<usize, Vec<ClassId>> = BTreeMap::new();
            for (class, allowed) in column.iter().enumerate().filter(|(_, ports)| !ports.is_empty())
            {
                own.entry(numbered.number(allowed)).or_default().push(class);
            }
            let own: Row = own.into_iter().map(|(p, all)| (p, all.into_iter().collect())).collect();
            found.entry(own).or_insert_with(Vec::new).push(host);
            let all = (CidrSet::everything(), cut(PortSet::everything()));
            let of_host = match direction {
                Direction::Egress => Direction::Ingress,
                Direction::Ingress => Direction::Egress,
            };
            outside.push((host, of_host, vec![all]));
        }
        let about = match direction {
            Direction::Egress => About::Destinations,
            Direction::Ingress => About::Sources,
        };
        let (rows, ports) = (found, numbered.sets);
        Self { everyone, subjects, about, rows, ports, outside, by }
    }
}

fn numbered_pods<'r>(reach: &'r Reach<'_>) -> impl Iterator<Item = (ClassId, &'r PodKey)> {
    let classes = reach.classes().iter().enumerate();
    classes.flat_map(|(id, class)| class.pods.iter().map(move |pod| (id, pod)))
}

/// The names of hosts by class: the workload's name if all its pods are in one class.
fn host_names(cluster: &Cluster, by: By, classes: &[&[&Host]]) -> Vec<Vec<Unit>> {
    let keys = |hosts: &&[&Host]| -> Vec<PodKey> {
        let key = |host: &&Host| match &host.side {
            Side::Pod(key, _) => Some(key.clone()),
            Side::Node(..) | Side::Outside(_) => None,
        };
        hosts.iter().filter_map(key).collect()
    };
    let pods: Vec<Vec<PodKey>> = classes.iter().map(keys).collect();
    let slices: Vec<&[PodKey]> = pods.iter().map(Vec::as_slice).collect();
    let by = if by == By::Namespace { By::Workload } else { by };
    let mut of_pods = Units::of_classes(cluster, &slices, by).of_class;
    for (units, hosts) in of_pods.iter_mut().zip(classes) {
        let nodes = hosts.iter().filter(|host| matches!(host.side, Side::Node(..)));
        let node =
            |host: &&Host| Unit { namespace: "".into(), name: host.name.as_str().into(), pods: 1 };
        units.extend(nodes.map(node));
        // As peers, hosts are in no namespace: their packets have the addresses of nodes.
        units.iter_mut().for_each(|unit| unit.namespace = "".into());
    }
    of_pods
}
