//! Who reaches whom, on which ports: for all pods at once.
//!
//! ```text
//! pods ──► classes: equal rules, matched by the same peers, in the same blocks, same named ports
//! rules ──► row: the classes that they admit, with the ports        (sparse: only who is admitted)
//! edge  = row of the source's egress ∩ row of the destination's ingress
//! ```
//!
//! The cost follows the number of classes and of edges that exist, not of pairs of pods. It is a
//! third road to each verdict beside [`crate::evaluate`] and the compiled sets; property tests
//! hold them together.

mod classes;
mod difference;
mod external;
mod ports;
mod rows;
mod rules;

use std::collections::BTreeMap;
use std::net::IpAddr;

use self::rules::{AtomId, Atoms, Rules};
use crate::cidr::Family;
use crate::flow::Endpoint;
use crate::model::{Direction, NamedPort, Pod, PodKey};
use crate::world::World;
pub use difference::{Difference, Group, GroupId, Pair, Piece, outside_difference};
pub use external::Outside;
pub use ports::PortSet;
pub use rows::Edges;

/// The number of a class, from 0, in [`Reach::classes`].
pub type ClassId = usize;

type RulesId = usize;

/// Pods that no policy tells apart: each of them reaches, and is reached by, the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// The pods by name; never empty.
    pub pods: Vec<PodKey>,
    ingress: Option<RulesId>,
    egress: Option<RulesId>,
    peers: Vec<AtomId>,
    /// One address of each kind that policies tell apart, of the first pod; `None`: it has none.
    addresses: Vec<Option<IpAddr>>,
    ports: Vec<NamedPort>,
}

impl Class {
    /// Whether some policy isolates the pods in `direction`.
    #[must_use]
    pub fn is_isolated(&self, direction: Direction) -> bool {
        self.rules(direction).is_some()
    }

    fn rules(&self, direction: Direction) -> Option<RulesId> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
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

/// Reachability of a world.
///
/// A pod without an address counts as one that will get one of any family, which no `ipBlock`
/// matches. Pods with several addresses reach each other when one pair of addresses of one family
/// does. A pod always reaches itself, which is not said. hostNetwork and finished pods have no
/// class: they are no pods to any policy.
pub struct Reach<'w> {
    world: &'w World,
    atoms: Atoms<'w>,
    rules: Vec<Rules>,
    classes: Vec<Class>,
    class_of: BTreeMap<PodKey, ClassId>,
}

impl<'w> Reach<'w> {
    /// Puts the pods of `world` into classes.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        let classes::Classified { atoms, rules, classes } = classes::classify(world);
        let numbered = classes.iter().enumerate();
        let class_of =
            numbered.flat_map(|(id, class)| class.pods.iter().map(move |pod| (pod.clone(), id)));
        Self { world, atoms, rules, class_of: class_of.collect(), classes }
    }

    /// All classes, in the order of their first pods.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Finds every pair of classes between which something is allowed.
    #[must_use]
    pub fn edges(&self) -> Edges {
        Edges::new(&self.atoms, &self.rules, &self.classes)
    }

    /// What a class may open outside the cluster, or what outside may open at it.
    #[must_use]
    pub fn outside(&self, class: ClassId, direction: Direction) -> Outside {
        let rules = self.classes.get(class).and_then(|class| class.rules(direction));
        match rules.and_then(|id| self.rules.get(id)) {
            Some(rules) => external::outside(rules, &self.atoms),
            None => Outside::everything(),
        }
    }

    /// The ports that one side may open at the other, as [`crate::evaluate`] would say for each.
    #[must_use]
    pub fn between(&self, source: &Endpoint, destination: &Endpoint) -> PortSet {
        let mut asked = self.admitted(Direction::Egress, source, destination, destination);
        if !asked.is_empty() {
            let ingress = self.admitted(Direction::Ingress, destination, source, destination);
            asked = asked.intersection(&ingress);
        }
        asked
    }

    fn admitted(
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
        let class = self.class(pod);
        let rules = class.and_then(|class| class.rules(direction));
        let Some(rules) = rules.and_then(|id| self.rules.get(id)).filter(|_| !exempt) else {
            return PortSet::everything();
        };
        let class_of = |side| self.participant(side).and_then(|pod| self.class(pod));
        let peers = class_of(peer).map_or(&[] as &[_], |class| &class.peers);
        let ports = class_of(destination).map_or(&[] as &[_], |class| &class.ports);
        rules.admitted(&self.atoms, peers, peer.address(), ports)
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
