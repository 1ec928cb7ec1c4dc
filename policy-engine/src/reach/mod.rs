//! Who reaches whom, on which ports: for all pods at once, as all tiers have it.
//!
//! ```text
//! pods ──► classes: equal rules, matched by the same peers, in the same blocks, same named ports
//! rules ──► stages, one per tier ──► row: the classes that they treat unlike the others
//! edge  = row of the source's egress ∩ row of the destination's ingress
//! ```
//!
//! The cost follows the number of classes and of edges that exist, not of pairs of pods. It is a
//! third road to each verdict beside [`crate::evaluate`] and the compiled sets; property tests
//! hold them together.

mod atoms;
mod classes;
mod course;
mod difference;
mod edges;
mod external;
mod ports;
mod rows;
mod rules;
mod sets;
mod subjects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use self::atoms::{Atom, AtomId, Atoms};
use self::course::Course;
use self::external::Courses;
use self::rules::{Rules, RulesId, Stage};
use crate::cidr::Family;
use crate::direction::{Direction, PerDirection};
use crate::flow::Endpoint;
use crate::model::{NamedPort, Pod, PodKey};
use crate::tier::{Tier, View};
use crate::world::World;
pub use difference::{Difference, Group, GroupId, Pair, Piece, outside_difference};
pub use edges::Edges;
pub use external::Outside;
pub use ports::PortSet;

/// The number of a class, from 0, in [`Reach::classes`].
pub type ClassId = usize;

/// Pods that no policy tells apart: each of them reaches, and is reached by, the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// The pods by name; never empty.
    pub pods: Vec<PodKey>,
    rules: PerDirection<RulesId>,
    isolated_by: PerDirection<Option<Tier>>,
    peers: Vec<AtomId>,
    /// One address of each kind that policies tell apart, of the first pod; `None`: it has none.
    addresses: Vec<Option<IpAddr>>,
    ports: Vec<NamedPort>,
}

impl Class {
    /// Whether the pods are isolated in `direction`: see [`Class::isolated_by`].
    #[must_use]
    pub fn is_isolated(&self, direction: Direction) -> bool {
        self.isolated_by(direction).is_some()
    }

    /// The tier that isolates the pods in `direction`, NetworkPolicy or Default: what neither its
    /// rules nor those of a tier above admit is denied. A ClusterNetworkPolicy isolates nobody,
    /// whatever its rules deny.
    #[must_use]
    pub fn isolated_by(&self, direction: Direction) -> Option<Tier> {
        *self.isolated_by.get(direction)
    }

    fn rules(&self, direction: Direction) -> RulesId {
        *self.rules.get(direction)
    }
}

/// What pods of one class may open at other pods of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge<'r> {
    /// Who connects.
    pub source: ClassId,
    /// Who is asked; may be the same class, for two different pods of it.
    pub destination: ClassId,
    /// On which ports; never empty.
    pub allowed: &'r PortSet,
}

/// Reachability of a world, by the policies of a view.
///
/// A pod without an address counts as one that will get one of any family, which no `ipBlock`
/// matches. Pods with several addresses reach each other when one pair of addresses of one family
/// does. A pod always reaches itself, which is not said. hostNetwork and finished pods have no
/// class: they are no pods to any policy.
pub struct Reach<'w> {
    world: &'w World,
    atoms: Atoms,
    stages: Vec<Stage>,
    rules: Vec<Rules>,
    classes: Vec<Class>,
    class_of: BTreeMap<PodKey, ClassId>,
    courses: Courses,
}

impl<'w> Reach<'w> {
    /// Puts the pods of `world` into classes, by the policies that are in force.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        Self::new_as(world, View::Enforced)
    }

    /// Puts the pods of `world` into classes, by the policies of a view.
    #[must_use]
    pub fn new_as(world: &'w World, view: View) -> Self {
        let classes::Classified { atoms, stages, rules, classes } = classes::classify(world, view);
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
        Edges::new(&self.atoms, &self.stages, &self.rules, &self.classes)
    }

    /// What a class may open outside the cluster, or what outside may open at it.
    #[must_use]
    pub fn outside(&self, class: ClassId, direction: Direction) -> Outside {
        let rules = self.classes.get(class).map(|class| class.rules(direction));
        let rules = rules.and_then(|id| self.rules.get(id)).map_or(&[] as &[_], Vec::as_slice);
        self.courses.outside(rules, &self.stages, &self.atoms)
    }

    /// The ports that one side may open at the other, as [`crate::evaluate`] would say for each.
    #[must_use]
    pub fn between(&self, source: &Endpoint, destination: &Endpoint) -> PortSet {
        let mut allowed = self.allowed(Direction::Egress, source, destination, destination);
        if !allowed.is_empty() {
            let ingress = self.allowed(Direction::Ingress, destination, source, destination);
            allowed = allowed.intersection(&ingress);
        }
        allowed
    }

    fn allowed(
        &self,
        direction: Direction,
        subject: &Endpoint,
        peer: &Endpoint,
        destination: &Endpoint,
    ) -> PortSet {
        let Some(pod) = self.participant(subject) else { return PortSet::everything() };
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
        let destination = self.participant(destination).and_then(|pod| self.class(pod));
        let named = destination.map_or(&[] as &[_], |class| &class.ports);
        let rules = self.class(pod).map(|class| class.rules(direction));
        let peers = self.participant(peer).and_then(|pod| self.class(pod));
        let mut course = Course::start();
        for stage in self.stages(rules) {
            let mut atoms: Vec<Atom> = stage.atoms().into_iter().collect();
            atoms.retain(|atom| self.matches(*atom, peer, peers));
            stage.pass(&mut course, &atoms, named);
        }
        course.end()
    }

    /// Whether an atom matches a peer; a pod has a class.
    fn matches(&self, atom: Atom, peer: &Endpoint, class: Option<&Class>) -> bool {
        match atom {
            Atom::Any => true,
            Atom::Pods(id) => class.is_some_and(|class| class.peers.binary_search(&id).is_ok()),
            Atom::Nodes(id) => match peer {
                Endpoint::Node(name, _) => {
                    let node = self.world.nodes().get(name);
                    let selector = self.atoms.nodes(id);
                    selector.zip(node).is_some_and(|(nodes, node)| nodes.matches(&node.labels))
                }
                Endpoint::Pod(..) | Endpoint::External(_) => false,
            },
            Atom::Block(id) => peer.address().is_some_and(|address| {
                self.atoms.block(id).is_some_and(|block| block.contains(address))
            }),
        }
    }

    fn stages(&self, rules: Option<RulesId>) -> impl Iterator<Item = &Stage> {
        let stages = rules.and_then(|id| self.rules.get(id)).into_iter().flatten();
        stages.filter_map(|stage| self.stages.get(*stage))
    }

    /// The class of a pod; `None` for pods that no policy is about.
    #[must_use]
    pub fn class_of(&self, pod: &PodKey) -> Option<ClassId> {
        self.class_of.get(pod).copied()
    }

    fn class(&self, pod: &Pod) -> Option<&Class> {
        self.classes.get(self.class_of(&pod.key)?)
    }

    fn participant(&self, side: &Endpoint) -> Option<&'w Pod> {
        match side {
            Endpoint::Pod(key, _) => {
                self.world.pods().get(key).map(AsRef::as_ref).filter(|pod| pod.takes_part())
            }
            Endpoint::Node(..) | Endpoint::External(_) => None,
        }
    }
}

/// The addresses of two sides that can meet: of one family, or not known yet.
pub(super) fn can_meet(source: Option<IpAddr>, destination: Option<IpAddr>) -> bool {
    match (source, destination) {
        (Some(source), Some(destination)) => Family::of(source) == Family::of(destination),
        _ => true,
    }
}
