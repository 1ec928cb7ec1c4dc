//! The reachability of one world, and the questions that it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::atoms::{Atom, Atoms};
use super::classes::{Class, ClassId, Classified, classify};
use super::course::Course;
use super::edges::Edges;
use super::external::{Courses, Outside};
use super::ports::PortSet;
use super::rows::Rows;
use super::rules::{self, Stage};
use crate::direction::Direction;
use crate::flow::Endpoint;
use crate::model::{Pod, PodKey};
use crate::tier::View;
use crate::world::World;

/// Reachability of a world, by the policies of a view.
///
/// A pod without an address counts as a pod that will get an address of any family, which no
/// `ipBlock` matches. A pod with several addresses can connect to another one when it can do so
/// between one pair of addresses of one family. A pod can always connect to itself, without an
/// edge. hostNetwork pods and finished pods have no class: no policy selects or matches them.
pub struct Reach<'w> {
    pub(super) world: &'w World,
    atoms: Atoms,
    stages: Vec<Stage>,
    pub(super) rules: Vec<rules::Rules>,
    classes: Vec<Class>,
    pub(super) class_of: BTreeMap<PodKey, ClassId>,
    courses: Courses,
}

impl<'w> Reach<'w> {
    /// Puts the pods of `world` into classes, by the policies that are enforced.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        Self::new_as(world, View::Enforced)
    }

    /// Puts the pods of `world` into classes, by the policies of a view.
    #[must_use]
    pub fn new_as(world: &'w World, view: View) -> Self {
        Self::of(world, view, world.pods().values().map(AsRef::as_ref))
    }

    /// Reachability between some pods of `world`, and of each of them with anything that is not a
    /// pod, by the policies of a view. The other pods are in no class.
    #[must_use]
    pub fn among(world: &'w World, view: View, pods: &BTreeSet<PodKey>) -> Self {
        let found = pods.iter().filter_map(|key| world.pods().get(key));
        // As a peer, an address can belong to another pod that claims it.
        let addresses: BTreeSet<IpAddr> = found.flat_map(|pod| &pod.addresses).copied().collect();
        let others = addresses.iter().flat_map(|address| world.claimants(*address));
        let all: BTreeSet<&PodKey> = pods.iter().chain(others.map(|pod| &pod.key)).collect();
        let all = all.into_iter().filter_map(|key| world.pods().get(key));
        Self::of(world, view, all.map(AsRef::as_ref))
    }

    fn of(world: &'w World, view: View, pods: impl Iterator<Item = &'w Pod>) -> Self {
        let Classified { atoms, stages, rules, classes } = classify(world, view, pods);
        let numbered = classes.iter().enumerate();
        let class_of =
            numbered.flat_map(|(id, class)| class.pods.iter().map(move |pod| (pod.clone(), id)));
        let (class_of, courses) = (class_of.collect(), Courses::default());
        Self { world, atoms, stages, rules, classes, class_of, courses }
    }

    /// All classes, in the order of their first pods.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Finds every pair of classes between which something is allowed.
    #[must_use]
    pub fn edges(&self) -> Edges {
        Edges::new(self)
    }

    /// The rows of classes: of destinations for `Ingress`, of sources for `Egress`.
    #[must_use]
    pub fn rows(&self, direction: Direction) -> Rows<'_> {
        self.rows_of(direction, (0..self.classes.len()).map(Some).collect())
    }

    /// The rows of places, which have these classes; `None` for a place without pods.
    pub(super) fn rows_of(&self, direction: Direction, places: Vec<Option<ClassId>>) -> Rows<'_> {
        let rules = (&self.atoms, self.stages.as_slice(), self.rules.as_slice());
        Rows::new(rules, &self.classes, direction, places)
    }

    /// The connections between a class and addresses outside the cluster that are allowed.
    #[must_use]
    pub fn outside(&self, class: ClassId, direction: Direction) -> Outside {
        let rules = self.classes.get(class).map(|class| class.rules(direction));
        let rules = rules.map_or(&[] as &[_], |id| self.rules[id].as_slice());
        self.courses.outside(rules, &self.stages, &self.atoms)
    }

    /// The ports on which `source` can connect to `destination`: those for which
    /// [`crate::evaluate`] allows the flow.
    #[must_use]
    pub fn between(&self, source: &Endpoint, destination: &Endpoint) -> PortSet {
        let mut allowed = self.allowed(Direction::Egress, source, destination);
        if !allowed.is_empty() {
            let ingress = self.allowed(Direction::Ingress, destination, source);
            allowed = allowed.intersection(&ingress);
        }
        allowed
    }

    /// The ports that the policies of `subject` allow in `direction`, whatever those of `peer` do.
    #[must_use]
    pub fn allowed(&self, direction: Direction, subject: &Endpoint, peer: &Endpoint) -> PortSet {
        let Some((pod, class)) = self.participant(subject) else { return PortSet::everything() };
        let own_node = |name| pod.node.as_ref() == Some(name);
        let exempt = match (peer, direction) {
            (Endpoint::Pod(key, _), _) => *key == pod.key,
            (Endpoint::Node(name, _), Direction::Ingress) => own_node(name),
            (Endpoint::Node(name, _), Direction::Egress) => {
                self.world.options.allow_egress_to_own_node && own_node(name)
            }
            (Endpoint::External(_), _) => false,
        };
        if exempt {
            return PortSet::everything();
        }
        let peer = &*self.world.as_peer(peer);
        let destination = match direction {
            Direction::Ingress => subject,
            Direction::Egress => peer,
        };
        let destination = self.participant(destination);
        let named = destination.map_or(&[] as &[_], |(_, class)| &class.ports);
        let peers = self.participant(peer).map(|(_, class)| class);
        let mut course = Course::start();
        for stage in self.rules[class.rules(direction)].iter().map(|id| &self.stages[*id]) {
            let mut atoms: Vec<Atom> = stage.atoms().into_iter().collect();
            atoms.retain(|atom| self.matches(*atom, peer, peers));
            stage.apply(&mut course, &atoms, named);
        }
        course.end()
    }

    /// Whether an atom matches a peer; `class` is the peer's class when the peer is a pod.
    fn matches(&self, atom: Atom, peer: &Endpoint, class: Option<&Class>) -> bool {
        match atom {
            Atom::Any => true,
            Atom::Pods(id) => class.is_some_and(|class| class.peers.binary_search(&id).is_ok()),
            Atom::Nodes(id) => match peer {
                Endpoint::Node(name, _) => {
                    let node = self.world.nodes().get(name);
                    node.is_some_and(|node| self.atoms.nodes(id).matches(&node.labels))
                }
                Endpoint::Pod(..) | Endpoint::External(_) => false,
            },
            Atom::Block(id) => {
                peer.address().is_some_and(|address| self.atoms.block(id).contains(address))
            }
        }
    }

    /// The class of a pod; `None` for pods that no policy can select or match.
    #[must_use]
    pub fn class_of(&self, pod: &PodKey) -> Option<ClassId> {
        self.class_of.get(pod).copied()
    }

    /// The pod behind an endpoint with its class, when policies can select and match the pod.
    fn participant(&self, endpoint: &Endpoint) -> Option<(&'w Pod, &Class)> {
        let pod = self.world.participant(endpoint)?;
        Some((pod, &self.classes[self.class_of(&pod.key)?]))
    }
}
