//! One question between two sides: verdict, decisions, near misses.
//!
//! ```text
//! parties ──► groups: pods of one class, nodes, addresses that rules treat alike
//! each pair of groups × family × port ──► Part: flow, verdict, allowed ports, explanation
//! parts ──► Answer: Allowed when all are, Denied when all are, else Mixed
//! ```

mod gaps;
pub(crate) mod groups;

use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Verdict as Flowed, evaluate};
use policy_engine::explain::{Explanation, explain, explain_as};
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::Pod;
use policy_engine::policy::{PortMatch, Selected};
use policy_engine::port::Protocol;
use policy_engine::reach::{PortSet, Reach};
use policy_engine::tier::View;
use policy_engine::world::World;
use schemars::JsonSchema;
use serde::Serialize;

use self::groups::{Pair, pairs};
use crate::endpoint::{PortAsked, Resolved, Side};
use crate::model::Cluster;

/// A verdict in one word.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[schemars(rename = "Word")]
#[allow(missing_docs)]
pub enum Verdict {
    Allowed,
    Denied,
    // Some of what was asked for is allowed, some is not.
    Mixed,
    // Something that decides it is not known.
    Undetermined,
}

/// The answer to one question.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name of the source.
    pub source: String,
    /// The name of the destination.
    pub destination: String,
    /// The verdict of all parts together.
    pub verdict: Verdict,
    /// One part for each pair of groups that policies distinguish; never empty.
    pub parts: Vec<Part>,
    /// Assumptions and warnings.
    pub notes: Vec<String>,
}

/// The answer for sources and destinations that policies treat alike.
#[derive(Clone, Debug)]
pub struct Part {
    /// The names of the sources.
    pub sources: Vec<String>,
    /// The names of the destinations.
    pub destinations: Vec<String>,
    /// The port that was asked for; `None` for every port.
    pub asked: Option<PortAsked>,
    /// The verdict.
    pub verdict: Verdict,
    /// What is allowed of all that was asked for.
    pub allowed: PortSet,
    /// The flow that stands for the part.
    pub flow: Flow,
    /// The reasons for the verdict.
    pub explanation: Explanation,
    /// The addresses that an external side stands for, if one is external.
    pub outside: Option<CidrSet>,
    /// The sources, and the destinations.
    pub between: (Arc<[Side]>, Arc<[Side]>),
    /// The addresses that the answer holds for, if other addresses of the pods are treated
    /// differently.
    pub over: Option<Over>,
    /// The result if policies in audit were enforced; `None` when it is the same.
    pub would_be: Option<WouldBe>,
    /// Assumptions and warnings about the part.
    pub notes: Vec<String>,
}

/// The addresses that an answer holds for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// All of one family.
    Family(Family),
    /// These two addresses: others of the same family are treated differently.
    Addresses(IpAddr, IpAddr),
}

/// The result of a part if policies in audit were enforced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WouldBe {
    /// The verdict.
    pub verdict: Verdict,
    /// What would be allowed of all that was asked for.
    pub allowed: PortSet,
    /// A flow with another result: that of the part, if its result differs.
    pub flow: Flow,
    /// The reasons for the verdict.
    pub explanation: Explanation,
    /// The directions with another decision.
    pub changed: Vec<Direction>,
}

/// The reachability by the enforced policies, and with the policies in audit as if enforced.
#[derive(Clone, Copy)]
pub struct Views<'r, 'w> {
    /// By the enforced policies.
    pub enforced: &'r Reach<'w>,
    /// By all policies; `None` when no policy is in audit, or the question does not need it.
    pub audited: Option<&'r Reach<'w>>,
}

impl<'r, 'w> From<&'r Reach<'w>> for Views<'r, 'w> {
    fn from(enforced: &'r Reach<'w>) -> Self {
        Self { enforced, audited: None }
    }
}

impl Part {
    /// The decisions of both directions.
    #[must_use]
    pub fn decisions(&self) -> &Flowed {
        &self.explanation.verdict
    }
}

/// Judges every connection between two sides that was asked for.
#[must_use]
pub fn judge(
    cluster: &Cluster,
    views: Views<'_, '_>,
    source: &Resolved,
    destination: &Resolved,
) -> Answer {
    let mut parts: Vec<Part> = Vec::new();
    let mut notes: Vec<String> = source.notes.iter().chain(&destination.notes).cloned().collect();
    for pair in pairs(cluster, views, source, destination) {
        if !pair.meets {
            let (from, to) = (pair.sources.join(", "), pair.destinations.join(", "));
            notes.push(format!("{from} and {to} have no address family in common"));
        }
        for part in judge_pair(cluster, views, &pair) {
            // Families with the same result are one part.
            let same = parts.iter_mut().find(|known| {
                (&known.sources, &known.destinations) == (&part.sources, &part.destinations)
                    && known.asked == part.asked
                    && known.allowed == part.allowed
                    && known.explanation == part.explanation
                    && known.would_be == part.would_be
            });
            if same.is_none() {
                parts.push(part);
            }
        }
    }
    name_addresses(&mut parts);
    let verdict = overall(&parts);
    let (source, destination) = (source.name.clone(), destination.name.clone());
    notes.dedup();
    Answer { source, destination, verdict, parts, notes }
}

/// Sets the addresses that each part holds for, where several parts have the same pods.
fn name_addresses(parts: &mut [Part]) {
    let same = |one: &Part, other: &Part| {
        (&one.sources, &one.destinations, &one.asked)
            == (&other.sources, &other.destinations, &other.asked)
    };
    let family = |part: &Part| {
        let (source, destination) = (part.flow.source.address(), part.flow.destination.address());
        source.or(destination).map(Family::of)
    };
    let found: Vec<Option<Over>> = parts
        .iter()
        .map(|part| {
            let others = || parts.iter().filter(|other| same(part, other));
            let own = family(part)?;
            let alike = others().filter(|other| family(other) == Some(own)).count();
            match (others().count(), alike) {
                (1, _) => None,
                (_, 1) => Some(Over::Family(own)),
                _ => {
                    let (from, to) = (&part.flow.source, &part.flow.destination);
                    Some(Over::Addresses(from.address()?, to.address()?))
                }
            }
        })
        .collect();
    for (part, over) in parts.iter_mut().zip(found) {
        part.over = over;
    }
}

fn overall(parts: &[Part]) -> Verdict {
    let has = |verdict| parts.iter().any(|part| part.verdict == verdict);
    let (allowed, denied) = (has(Verdict::Allowed), has(Verdict::Denied));
    match (has(Verdict::Mixed) || (allowed && denied), has(Verdict::Undetermined)) {
        (true, _) => Verdict::Mixed,
        (false, true) => Verdict::Undetermined,
        (false, false) if allowed => Verdict::Allowed,
        // Without a pair of addresses of one family, no connection can be opened.
        (false, false) => Verdict::Denied,
    }
}

fn judge_pair(cluster: &Cluster, views: Views<'_, '_>, pair: &Pair) -> Vec<Part> {
    let mut parts = Vec::new();
    for (source, destination) in &pair.flows {
        let between = |reach: &Reach<'_>| {
            if pair.meets { reach.between(source, destination) } else { PortSet::default() }
        };
        let reachable = between(views.enforced);
        let audited = views.audited.map(between);
        let asked: Vec<Option<&PortAsked>> =
            if pair.ports.is_empty() { vec![None] } else { pair.ports.iter().map(Some).collect() };
        for port in asked {
            let traffic = match port {
                Some(port) => Traffic::Port(port.protocol, port.number),
                None => explaining_port(&cluster.world, source, destination, &reachable),
            };
            let flow = Flow { source: source.clone(), destination: destination.clone(), traffic };
            let explanation = explain(&cluster.world, &flow);
            let allowed = match port {
                Some(_) => reachable.intersection(&PortSet::of(traffic)),
                None => reachable.clone(),
            };
            let would_be = audited.as_ref().and_then(|audited| {
                let then = match port {
                    Some(_) => audited.intersection(&PortSet::of(traffic)),
                    None => audited.clone(),
                };
                would_be(&cluster.world, &flow, &allowed, then, port.is_some())
            });
            let mut part = Part {
                sources: pair.sources.clone(),
                destinations: pair.destinations.clone(),
                asked: port.cloned(),
                verdict: verdict(&allowed, port.is_some()),
                allowed,
                flow,
                explanation,
                outside: pair.outside.clone(),
                between: pair.between.clone(),
                over: None,
                would_be,
                notes: Vec::new(),
            };
            qualify(&cluster.world, &mut part);
            gaps::qualify(cluster, &mut part);
            parts.push(part);
        }
    }
    parts
}

fn verdict(allowed: &PortSet, one_port: bool) -> Verdict {
    if allowed.is_empty() {
        Verdict::Denied
    } else if one_port || Protocol::ALL.iter().all(|protocol| allowed.is_whole(*protocol)) {
        Verdict::Allowed
    } else {
        Verdict::Mixed
    }
}

/// The result with policies in audit, which allow `then`; `None` if that is the same as `now`.
fn would_be(
    world: &World,
    flow: &Flow,
    now: &PortSet,
    then: PortSet,
    one_port: bool,
) -> Option<WouldBe> {
    if *now == then {
        return None;
    }
    let mut differing = now.difference(&then);
    differing.add(&then.difference(now));
    let first = differing.iter().next();
    let other =
        first.map_or(Traffic::Other, |(protocol, ports)| Traffic::Port(protocol, ports.first()));
    let traffic = if differing.contains(flow.traffic) { flow.traffic } else { other };
    let flow = Flow { traffic, ..flow.clone() };
    let enforced = evaluate(world, &flow);
    let explanation = explain_as(world, &flow, View::Audited);
    let changed = Direction::BOTH.into_iter().filter(|direction| {
        let decisions = [&enforced, &explanation.verdict].map(|one| one.decision(*direction));
        decisions[0].is_allowed() != decisions[1].is_allowed()
    });
    let changed = changed.collect();
    Some(WouldBe { verdict: verdict(&then, one_port), allowed: then, flow, explanation, changed })
}

/// The port that explains most when no port was asked for: an allowed port; else the port that the
/// destination has a name for with the fewest denials; else a port that a rule lists.
fn explaining_port(
    world: &World,
    source: &Endpoint,
    destination: &Endpoint,
    allowed: &PortSet,
) -> Traffic {
    if let Some((protocol, range)) = allowed.iter().next().filter(|_| !allowed.is_everything()) {
        return Traffic::Port(protocol, range.first());
    }
    let pod = match destination {
        Endpoint::Pod(key, _) => world.pods().get(key),
        Endpoint::Node(..) | Endpoint::External(_) => None,
    };
    let named = pod.into_iter().flat_map(|pod| pod.ports.iter());
    let named = named.map(|port| Traffic::Port(port.protocol, port.number));
    let denials = |traffic: &Traffic| {
        let (source, destination) = (source.clone(), destination.clone());
        let verdict = evaluate(world, &Flow { source, destination, traffic: *traffic });
        let decisions = [verdict.egress, verdict.ingress];
        decisions.into_iter().filter(|decision| !decision.is_allowed()).count()
    };
    if let Some(traffic) = named.min_by_key(denials) {
        return traffic;
    }
    let rules = pod.into_iter().flat_map(|pod| rules_of(world, pod));
    let mut numbers = rules.filter_map(|ports| match ports {
        PortMatch::Numbers(protocol, range) => Some((*protocol, range.first().max(1))),
        PortMatch::Named(..) | PortMatch::Invalid => None,
    });
    let (protocol, port) = numbers.next().unwrap_or((Protocol::Tcp, 80));
    Traffic::Port(protocol, port)
}

fn rules_of<'w>(world: &'w World, pod: &'w Pod) -> impl Iterator<Item = &'w PortMatch> {
    let policies = world.policies_in(&pod.key.namespace).chain(world.policies_in(""));
    let selecting = policies.filter(|policy| world.selected(policy, pod) == Selected::Yes);
    let rules = selecting.flat_map(|policy| policy.rules(Direction::Ingress));
    rules.flat_map(|rule| rule.ports.listed())
}

/// Adds notes about unknown facts that the answer depends on.
fn qualify(world: &World, part: &mut Part) {
    let pod = |side: &Endpoint| match side {
        Endpoint::Pod(key, _) => world.pods().get(key),
        Endpoint::Node(..) | Endpoint::External(_) => None,
    };
    let (source, destination) = (pod(&part.flow.source), pod(&part.flow.destination));
    let on_host = |pod: Option<&std::sync::Arc<Pod>>| pod.is_some_and(|pod| pod.host_network);
    if on_host(source) || on_host(destination) {
        part.notes.push(
            "a hostNetwork pod that is on no node yet: policies will see its node's address"
                .to_owned(),
        );
    }
    if matches!(part.flow.source, Endpoint::Node(..))
        && part.verdict != Verdict::Allowed
        && destination.is_some_and(|pod| pod.takes_part() && pod.node.is_none())
    {
        part.verdict = Verdict::Undetermined;
        part.notes.push("the pod is on no node yet; a node always reaches its own pods".to_owned());
    }
    let misses = part.explanation.egress.iter().chain(&part.explanation.ingress);
    let unaddressed = misses
        .flat_map(|miss| &miss.peers)
        .any(|peer| matches!(peer, policy_engine::explain::PeerMiss::NoAddress));
    if unaddressed {
        part.notes.push(
            "a pod has no address yet, so no ipBlock matches it; with one, a rule may allow it"
                .to_owned(),
        );
    }
}
