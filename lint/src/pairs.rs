//! Connections of which one side allows what the peer denies.

use std::collections::BTreeSet;
use std::rc::Rc;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, evaluate};
use policy_engine::flow::{Flow, Traffic};
use policy_engine::model::Pod;
use policy_engine::policy::{Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule};
use policy_engine::port::PortRange;
use policy_engine::reach::{ClassId, PortSet, Reach};
use policy_engine::tier::{Mode, Tier};
use policy_engine::words;

use crate::pods::Group;
use crate::{Code, Context, Finding, Place, few, finding, places, sides};

/// The most pairs of classes that are evaluated for a peer. Of more pairs, one probably passes.
const PAIRS: usize = 1000;

/// Peers that a policy allows, and whose own policies deny the connection.
pub(super) fn half_open<'c>(context: &Context<'c>, policy: &'c Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    // A policy in audit allows nothing.
    if policy.mode == Mode::Audit {
        return found;
    }
    let subject = policy.subject.any_pods();
    let selected: Vec<&Group> = context.pods.matching(&policy.name.namespace, subject).collect();
    if selected.is_empty() {
        return found;
    }
    for place in places(policy) {
        let Peers::Listed(peers) = &place.rule.peers else { continue };
        for (number, peer) in peers.iter().enumerate() {
            match peer {
                // A selector of a whole namespace does not name particular pods.
                Peer::Pods(peer) if !peer.pods.is_everything() => {
                    found.extend(closed(context, place, number, peer, &selected));
                }
                Peer::Pods(_) | Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => {}
            }
        }
    }
    found
}

fn closed<'c>(
    context: &Context<'c>,
    place: Place<'c>,
    number: usize,
    peer: &'c PodPeer,
    selected: &[&'c Group],
) -> Option<Finding> {
    let others = context.peer(peer);
    let sides = |view| {
        let (own, others) = (context.classes_in(selected, view), context.peer_classes(peer, view));
        match place.direction {
            Direction::Ingress => [others, own.into()],
            Direction::Egress => [own.into(), others],
        }
    };
    let mut views = context.views().enumerate();
    let (first, enforced) = views.next()?;
    let (asked, first) = all_closed(context, enforced, place.rule, &sides(first))?;
    // What passes once policies in audit are enforced is not a mistake.
    for (view, reach) in views {
        all_closed(context, reach, place.rule, &sides(view))?;
    }
    let denial = other_side(context, place.direction, first, &ports(place.rule, first.1))?;
    let names = context.names(others.iter().copied());
    let opened = words::ports(&asked);
    let mine = context.names(selected.iter().copied());
    let isolating: BTreeSet<String> = others
        .iter()
        .flat_map(|group| {
            let policies = context.world.policies_in(group.namespace());
            policies.filter(|policy| policy.subject.any_pods().matches(&group.labels))
        })
        .filter(|policy| policy.isolates(place.direction.opposite()))
        .filter(|policy| policy.mode == Mode::Enforce)
        .map(|policy| policy.name.short())
        .collect();
    let there = match (denial.reason, denial.tier) {
        (_, Some(Tier::NetworkPolicy)) => format!("isolated by {}", few(&isolating)),
        (Reason::RuleDenies, _) => words::decided(&denial),
        _ => words::isolated(&denial),
    };
    let other = place.direction.opposite().field();
    let message = match place.direction {
        Direction::Egress => format!(
            "lets {mine} open {opened} at {names}, which does not let it in: {there}; \
             add an {other} rule there, or remove this peer"
        ),
        Direction::Ingress => format!(
            "lets {names} open {opened} at {mine}, and {names} may not open it: {there}; \
             add an {other} rule there, or remove this peer"
        ),
    };
    Some(finding(Code::HalfOpen, &place.policy.name, place.peer(number), message))
}

/// The ports that the rule allows and that are denied for all pairs of classes, and the first such
/// pair of pods; `None` when some pair passes, or this is not known.
fn all_closed<'a>(
    context: &'a Context<'_>,
    reach: &Reach<'_>,
    rule: &Rule,
    [sources, destinations]: &[Rc<BTreeSet<ClassId>>; 2],
) -> Option<(PortSet, (&'a Pod, &'a Pod))> {
    if sources.len() * destinations.len() > PAIRS {
        return None;
    }
    let pairs = sources.iter().flat_map(|from| destinations.iter().map(move |to| (*from, *to)));
    let mut asked = PortSet::default();
    let mut first = None;
    for (from, to) in pairs {
        let (Some(from), Some(to)) = pods(context, reach, from, to) else { continue };
        let ports = ports(rule, to);
        if passes(context, reach, from, to, &ports)? {
            return None;
        }
        first = first.or(Some((from, to)));
        asked.add(&ports);
    }
    first.filter(|_| !asked.is_empty()).map(|first| (asked, first))
}

/// The denial by the peer's policies for the first of the ports; `None` when they allow it.
fn other_side(
    context: &Context<'_>,
    direction: Direction,
    (from, to): (&Pod, &Pod),
    ports: &PortSet,
) -> Option<Decision> {
    let first = ports.iter().next();
    let traffic =
        first.map_or(Traffic::Other, |(protocol, range)| Traffic::Port(protocol, range.first()));
    let sources = sides(context.world, from).into_iter();
    let flows = sources.flat_map(|source| {
        let each = sides(context.world, to).into_iter();
        each.map(move |destination| Flow { source: source.clone(), destination, traffic })
    });
    let mut denials =
        flows.map(|flow| evaluate(context.world, &flow).decision(direction.opposite()).clone());
    denials.find(|decision| !decision.is_allowed())
}

/// A pod of each class; two different pods if the classes are the same.
fn pods<'a>(
    context: &'a Context<'_>,
    reach: &Reach<'_>,
    from: ClassId,
    to: ClassId,
) -> (Option<&'a Pod>, Option<&'a Pod>) {
    let world = context.world;
    let pod = |class: ClassId, number: usize| {
        let key = reach.classes().get(class)?.pods.get(number)?;
        world.pods().get(key).map(AsRef::as_ref)
    };
    (pod(from, 0), pod(to, usize::from(from == to)))
}

/// The ports of a rule at a destination.
pub(super) fn ports(rule: &Rule, destination: &Pod) -> PortSet {
    let Ports::Listed(items) = &rule.ports else { return PortSet::everything() };
    let mut set = PortSet::default();
    for item in items {
        match item {
            PortMatch::Numbers(protocol, range) => set.insert(*protocol, *range),
            PortMatch::Named(protocol, name) => {
                let known = destination.ports.iter();
                known
                    .filter(|port| port.name == *name && port.protocol == *protocol)
                    .for_each(|port| set.insert(*protocol, PortRange::single(port.number)));
            }
            PortMatch::Invalid => {}
        }
    }
    set
}

/// Whether any of the ports can be opened; `None` when the pods have no family in common.
fn passes(
    context: &Context<'_>,
    reach: &Reach<'_>,
    from: &Pod,
    to: &Pod,
    ports: &PortSet,
) -> Option<bool> {
    let mut met = None;
    for source in sides(context.world, from) {
        for destination in sides(context.world, to) {
            let families = [&source, &destination].map(|side| side.address().map(Family::of));
            if let [Some(one), Some(other)] = families
                && one != other
            {
                continue;
            }
            let open = reach.between(&source, &destination).intersection(ports);
            met = Some(met.unwrap_or(false) || !open.is_empty());
        }
    }
    met
}
