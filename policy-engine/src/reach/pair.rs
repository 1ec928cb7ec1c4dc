//! Two pods, and the contribution of each policy to the ports on which one can connect to the
//! other. With contributions it costs little to evaluate other sets of policies.

use super::course::Course;
use super::ports::PortSet;
use super::rules::{Reading, ports_at};
use crate::allow_set::NamedPeers;
use crate::cidr::Family;
use crate::direction::{Direction, PerDirection};
use crate::evaluate::peer_matches;
use crate::flow::{Endpoint, Flow, Traffic};
use crate::model::{Pod, PodKey};
use crate::object::ObjectRef;
use crate::policy::{Policy, Selected};
use crate::tier::{Action, Tier, View};
use crate::world::World;

/// Two different pods that take part in policies.
pub struct PodPair<'w> {
    world: &'w World,
    source: &'w Pod,
    destination: &'w Pod,
    /// The flows: one for each pair of addresses that can connect.
    flows: Vec<Flow>,
}

/// The contribution of a policy to the ports that are allowed between two pods.
///
/// Contributions are equal if exchanging their policies makes no difference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Contribution {
    tier: Tier,
    priority: i32,
    /// The name, if it decides the order of rules.
    name: Option<ObjectRef>,
    isolates: PerDirection<bool>,
    /// For each direction and flow: what its rules match, in order.
    steps: PerDirection<Vec<Vec<(Action, PortSet)>>>,
}

impl<'w> PodPair<'w> {
    /// The pair; `None` if policies do not apply to both.
    #[must_use]
    pub fn new(world: &'w World, source: &PodKey, destination: &PodKey) -> Option<Self> {
        let pod = |key| world.pods().get(key).filter(|pod| pod.takes_part());
        let (source, destination) = pod(source).zip(pod(destination))?;
        let sides = [source, destination].map(|pod| {
            let addresses: Vec<_> = world.owned_addresses(pod).map(Some).collect();
            if addresses.is_empty() { vec![None] } else { addresses }
        });
        let [from, to] = &sides;
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        let meeting = pairs.filter(|(from, to)| {
            from.zip(*to).is_none_or(|(from, to)| Family::of(from) == Family::of(to))
        });
        let flow = |(from, to)| Flow {
            source: Endpoint::Pod(source.key.clone(), from),
            destination: Endpoint::Pod(destination.key.clone(), to),
            traffic: Traffic::Other,
        };
        Some(Self { world, source, destination, flows: meeting.map(flow).collect() })
    }

    /// All policies that apply to one of the pods.
    pub fn policies(&self) -> impl Iterator<Item = &'w Policy> {
        let of_source = self.world.selecting(self.source).into_iter();
        let of_destination = self.world.selecting(self.destination).into_iter();
        let found = of_source.chain(of_destination).map(|(policy, _)| policy.as_ref());
        let by_name: std::collections::BTreeMap<_, _> = found.map(|p| (&p.name, p)).collect();
        by_name.into_values()
    }

    /// The contribution of a policy, of the world or not; `None` if the policy has no effect.
    #[must_use]
    pub fn contribution(&self, policy: &Policy) -> Option<Contribution> {
        let selected = PerDirection::new(|direction| {
            let namespace = &self.subject(direction).key.namespace;
            let counts = View::Enforced.counts(self.world.mode(policy, namespace));
            let applies = counts && policy.applies(direction);
            if applies {
                self.world.selected(policy, self.subject(direction))
            } else {
                Selected::No
            }
        });
        let isolates = PerDirection::new(|direction| {
            *selected.get(direction) != Selected::No && policy.isolates(direction)
        });
        let steps = PerDirection::new(|direction| {
            let selected = *selected.get(direction);
            if selected == Selected::No {
                return Vec::new();
            }
            let of_flow = |flow| self.steps(policy, direction, selected, flow);
            self.flows.iter().map(of_flow).collect::<Vec<_>>()
        });
        let is_ordered = !Direction::BOTH.iter().any(|direction| policy.isolates(*direction));
        let matches = |direction| steps.get(direction).iter().any(|steps| !steps.is_empty());
        if !Direction::BOTH.iter().any(|d| *isolates.get(*d) || matches(*d)) {
            return None;
        }
        let name = is_ordered.then(|| policy.name.clone());
        let (tier, priority) = (policy.tier, policy.priority());
        Some(Contribution { tier, priority, name, isolates, steps })
    }

    /// The ports that are allowed with some contributions.
    #[must_use]
    pub fn allowed<'c>(
        &self,
        contributions: impl IntoIterator<Item = &'c Contribution>,
    ) -> PortSet {
        let mut contributions: Vec<&Contribution> = contributions.into_iter().collect();
        contributions.sort_unstable();
        let mut allowed = PortSet::default();
        for flow in 0..self.flows.len() {
            let [egress, ingress] = [Direction::Egress, Direction::Ingress]
                .map(|direction| of_flow(&contributions, direction, flow));
            allowed.add(&egress.intersection(&ingress));
        }
        allowed
    }

    fn subject(&self, direction: Direction) -> &'w Pod {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// The parts of the flow that the rules of a policy match.
    fn steps(
        &self,
        policy: &Policy,
        direction: Direction,
        selected: Selected,
        flow: &Flow,
    ) -> Vec<(Action, PortSet)> {
        let subject = self.subject(direction);
        let (_, peer) = flow.sides(direction);
        let peer = &*self.world.as_peer(peer);
        let destination = match direction {
            Direction::Ingress => Some(subject),
            Direction::Egress => self.world.participant(peer),
        };
        let named = destination.map_or(&[][..], |pod| &*pod.ports);
        let reading = Reading { direction, ports: named, named: NamedPeers::of(policy) };
        let steps = policy.effective(direction, selected).map(|found| {
            let rule = found.rule.in_namespace(&subject.key.namespace);
            let matches = |item: &_| peer_matches(self.world, item, peer);
            (found.action, ports_at(&rule, &reading, matches))
        });
        steps.filter(|(_, ports)| !ports.is_empty()).collect()
    }
}

/// The ports of a flow that the policies of one direction allow.
fn of_flow(contributions: &[&Contribution], direction: Direction, flow: usize) -> PortSet {
    let mut course = Course::start();
    for tier in contributions.chunk_by(|one, next| one.tier == next.tier) {
        let steps = tier.iter().filter_map(|found| found.steps.get(direction).get(flow)).flatten();
        if tier.iter().any(|found| *found.isolates.get(direction)) {
            let mut ports = PortSet::default();
            steps.for_each(|(_, more)| ports.add(more));
            course.isolate(&ports);
            break;
        }
        steps.for_each(|(action, ports)| course.step(*action, ports));
        course.leave();
    }
    course.end()
}
