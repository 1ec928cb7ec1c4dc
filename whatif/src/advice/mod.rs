//! What would allow a connection that is denied: new NetworkPolicies, tried before they are shown.
//!
//! ```text
//! part ──► for each direction that denies: one policy per namespace (select, yaml)
//!      ──► the YAML, read back ──► the world with it ──► evaluate: is the connection allowed?
//!                                                    └─► effects: what else changes?
//! ```
//!
//! A new policy allows connections without a change of existing policies or of the labels of pods.

mod concerned;
pub(crate) mod effects;
pub(crate) mod select;
pub(crate) mod yaml;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, RuleRef, evaluate};
use policy_engine::explain::PortMiss;
use policy_engine::flow::{Flow, Traffic};
use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::reach::{PortSet, Reach};
use policy_engine::tier::{Tier, View};
use policy_engine::world::World;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::manifest::{Document, Manifest};

use self::concerned::concerned;
pub use self::effects::{Effect, Effects};
use self::effects::{Wish, effects};
use self::yaml::{Peer, Proposal, Rule, document};
use crate::endpoint::Side;
use crate::judge::Part;
use crate::judge::groups::flows;
use crate::model::Cluster;

/// How many pairs of a part are tried; pods that policies treat alike need no more.
const PAIRS_TRIED: usize = 400;

/// The steps that would allow a connection that is denied.
#[derive(Clone, Debug)]
pub struct Advice {
    /// The rules that come before every NetworkPolicy, if one of them denies.
    pub blocked: Vec<Blocked>,
    /// The rule that lists the port of the Service, and the port of the pod.
    pub service_port: Option<(RuleRef, u16, u16)>,
    /// Nodes and hostNetwork pods of which a policy would need the address, which is not known.
    pub unknown: Vec<String>,
    /// NetworkPolicies that allow the directions that are not blocked; `None` if none was found.
    pub policies: Option<Policies>,
}

/// A rule that denies before NetworkPolicies are evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The rules.
    pub rules: Vec<RuleRef>,
    /// Whether the policy is evaluated first because it cannot be understood.
    pub misplaced: bool,
}

/// NetworkPolicies that were tried.
#[derive(Clone, Debug)]
pub struct Policies {
    /// The YAML documents.
    pub yaml: String,
    /// How many documents there are.
    pub count: usize,
    /// The other connections that the policies change.
    pub effects: Effects,
}

/// What would allow a part that is denied. `whole` is the reachability of the cluster, which is computed
/// only if the policies may change connections of any pod.
#[must_use]
pub fn advise<'c>(cluster: &'c Cluster, whole: &OnceCell<Reach<'c>>, part: &Part) -> Advice {
    let denies = |direction: &Direction| !part.decisions().decision(*direction).is_allowed();
    let (mut blocked, mut open) = (Vec::new(), Vec::new());
    for direction in Direction::BOTH.into_iter().filter(denies) {
        match blocking(cluster, part.decisions().decision(direction)) {
            // One rule may deny both directions.
            Some(by) if blocked.contains(&by) => {}
            Some(by) => blocked.push(by),
            None => open.push(direction),
        }
    }
    let policies = policies(cluster, whole, part, &open);
    let unknown = open.iter().flat_map(|direction| {
        let (_, others) = sides(part, *direction);
        others.iter().filter(|side| split(&cluster.world, &[(*side).clone()], None).is_none())
    });
    let unknown = unknown.map(|side| match side {
        Side::Pod(key, _) => cluster.pod_ref(key),
        Side::Node(name, _) => format!("node/{name}"),
        Side::Outside(_) => "external".to_owned(),
    });
    Advice { blocked, service_port: service_port(part), unknown: unknown.collect(), policies }
}

/// The rule that denies, if no NetworkPolicy is evaluated before it.
fn blocking(cluster: &Cluster, decision: &Decision) -> Option<Blocked> {
    if decision.reason != Reason::RuleDenies || decision.tier == Some(Tier::Baseline) {
        return None;
    }
    let misplaced = |rule: &RuleRef| {
        let policy = cluster.world.policy(&rule.policy);
        policy.is_some_and(|policy| policy.priority() == i32::MIN)
    };
    let rules = decision.decided_by.clone();
    Some(Blocked { misplaced: rules.iter().any(misplaced), rules })
}

/// The closest rule, if only its port is wrong, and it is the Service's in place of the pod's.
fn service_port(part: &Part) -> Option<(RuleRef, u16, u16)> {
    let asked = part.asked.as_ref()?;
    let service = asked.service_port.filter(|service| *service != asked.number)?;
    let lists =
        |miss: &PortMiss| matches!(miss, PortMiss::OutsideRange(range) if range.contains(service));
    let mut closest = [&part.explanation.egress, &part.explanation.ingress]
        .into_iter()
        .filter_map(|misses| misses.first());
    let found = closest.find(|miss| miss.peers.is_empty() && miss.ports.iter().any(lists))?;
    Some((found.rule.clone(), service, asked.number))
}

fn policies<'c>(
    cluster: &'c Cluster,
    whole: &OnceCell<Reach<'c>>,
    part: &Part,
    open: &[Direction],
) -> Option<Policies> {
    let mut documents: Vec<String> = Vec::new();
    for direction in open {
        documents.extend(propose(cluster, part, *direction)?);
    }
    if documents.is_empty() {
        return None;
    }
    let yaml = documents.join("---\n");
    let changes = changes(&yaml)?;
    let concerned = concerned(&cluster.world, &changes);
    let mut world = cluster.world.clone();
    changes.into_iter().for_each(|change| world.apply(change));
    let allows = |flow: &Flow| {
        let verdict = evaluate(&world, flow);
        open.iter().all(|direction| verdict.decision(*direction).is_allowed())
    };
    let (sources, destinations) = &part.between;
    let pairs = sources.iter().flat_map(|from| destinations.iter().map(move |to| (from, to)));
    let others = pairs.filter(|(from, to)| {
        // Only some external addresses belong to the part.
        from != to && ![*from, *to].iter().any(|side| matches!(side, Side::Outside(_)))
    });
    let all_allowed = others.take(PAIRS_TRIED).all(|(from, to)| {
        let mut flows = flows(&world, from, to).into_iter().peekable();
        let none = flows.peek().is_none();
        none || flows.any(|(source, destination)| {
            allows(&Flow { source, destination, traffic: part.flow.traffic })
        })
    });
    if !allows(&part.flow) || !all_allowed {
        return None;
    }
    let wish = Wish {
        sources: sources.clone(),
        destinations: destinations.clone(),
        outside: part.outside.clone(),
        ports: PortSet::of(part.flow.traffic),
    };
    let effects = if let Some(pods) = concerned {
        let [before, after] =
            [&cluster.world, &world].map(|of| Reach::among(of, View::Enforced, &pods));
        effects(cluster, &before, (&world, &after), &[wish])
    } else {
        let before = whole.get_or_init(|| Reach::new(&cluster.world));
        effects(cluster, before, (&world, &Reach::new(&world)), &[wish])
    };
    Some(Policies { yaml, count: documents.len(), effects })
}

/// The world with the policies of a manifest; `None` if one of them is not read as it is meant.
pub(crate) fn with(world: &World, yaml: &str) -> Option<World> {
    let mut world = world.clone();
    changes(yaml)?.into_iter().for_each(|change| world.apply(change));
    Some(world)
}

/// The policies of a manifest; `None` if one of them is not read as it is meant.
pub(crate) fn changes(yaml: &str) -> Option<Vec<Change>> {
    let manifest = Manifest::parse("advice", yaml);
    if !manifest.diagnostics.is_empty() {
        return None;
    }
    let change = |document: &Document| {
        let (found, diagnostics) = item(document.value(), Some(document), "default");
        match found {
            Item::Object(change) if diagnostics.is_empty() => Some(change),
            _ => None,
        }
    };
    manifest.documents.iter().map(change).collect()
}

/// One policy for each namespace of the pods whose policies deny; `None` if their peers cannot be
/// written down.
fn propose(cluster: &Cluster, part: &Part, direction: Direction) -> Option<Vec<String>> {
    let (subjects, others) = sides(part, direction);
    // Only a rule for every port allows protocols without ports.
    let ports = match part.flow.traffic {
        Traffic::Port(..) => PortSet::of(part.flow.traffic),
        Traffic::Other => PortSet::everything(),
    };
    let outside = part.outside.as_ref();
    let (pods, _) = split(&cluster.world, subjects, outside)?;
    let (peers, addresses) = split(&cluster.world, others, outside)?;
    let mut documents = Vec::new();
    for (namespace, pods) in by_namespace(pods) {
        let mut all = Vec::new();
        for (of, peers) in by_namespace(peers.clone()) {
            let selectors = select::selectors(&cluster.world, &of, &peers);
            let other = (of != namespace).then_some(of);
            all.extend(selectors.into_iter().map(|pods| Peer::Pods(other.clone(), pods)));
        }
        all.extend(blocks(&addresses).into_iter().map(|(cidr, except)| Peer::Block(cidr, except)));
        for subject in select::selectors(&cluster.world, &namespace, &pods) {
            let wish = name(cluster, direction, subjects, others);
            let taken = |name: &str| {
                let policy = ObjectRef::new(Kind::NetworkPolicy, namespace.clone(), name);
                cluster.world.policy(&policy).is_some()
                    || documents.iter().any(|(other, of, _)| *of == namespace && other == name)
            };
            let mut numbered = (2..).map(|number| format!("{wish}-{number}"));
            let name = if taken(&wish) { numbered.find(|name| !taken(name))? } else { wish };
            let rules = vec![Rule { peers: all.clone(), ports: ports.clone() }];
            let (namespace, text_name) = (namespace.clone(), name.clone());
            let proposal = Proposal { namespace, name: text_name, subject, direction, rules };
            documents.push((name, proposal.namespace.clone(), document(&proposal)));
        }
    }
    Some(documents.into_iter().map(|(_, _, text)| text).collect())
}

/// The subjects of the policies of a direction, and their peers.
fn sides(part: &Part, direction: Direction) -> (&[Side], &[Side]) {
    let (sources, destinations) = &part.between;
    match direction {
        Direction::Ingress => (destinations, sources),
        Direction::Egress => (sources, destinations),
    }
}

/// The pods of sides that labels match, and the addresses of the others, `outside` for external ones;
/// `None` if an address is not known.
pub(crate) fn split(
    world: &World,
    sides: &[Side],
    outside: Option<&CidrSet>,
) -> Option<(BTreeSet<PodKey>, CidrSet)> {
    let (mut pods, mut addresses) = (BTreeSet::new(), CidrSet::default());
    let mut add = |all: &[IpAddr]| {
        all.iter().for_each(|address| addresses.insert((*address).into()));
        (!all.is_empty()).then_some(())
    };
    for side in sides {
        match side {
            Side::Pod(key, _) => {
                let pod = world.pods().get(key)?;
                if pod.takes_part() {
                    pods.insert(key.clone());
                } else {
                    pod.node.as_ref()?;
                    add(&pod.addresses)?;
                }
            }
            Side::Node(_, Some(address)) => add(&[*address])?,
            Side::Node(name, None) => add(&world.nodes().get(name)?.addresses)?,
            Side::Outside(_) => {}
        }
    }
    if let (Some(set), true) = (outside, sides.iter().any(|s| matches!(s, Side::Outside(_)))) {
        addresses.add(set);
    }
    Some((pods, addresses))
}

pub(crate) fn by_namespace(pods: BTreeSet<PodKey>) -> BTreeMap<Str, BTreeSet<PodKey>> {
    let mut found: BTreeMap<Str, BTreeSet<PodKey>> = BTreeMap::new();
    for pod in pods {
        found.entry(pod.namespace.clone()).or_default().insert(pod);
    }
    found
}

/// A set of addresses as `ipBlock`s: the fewest networks, or one with exceptions if that is shorter.
pub(crate) fn blocks(set: &CidrSet) -> Vec<(ipnet::IpNet, Vec<ipnet::IpNet>)> {
    let mut found = Vec::new();
    for family in Family::BOTH {
        let networks = set.networks(family);
        let Some(around) = crate::output::words::around(&networks) else { continue };
        let holes = CidrSet::network(around).difference(set).networks(family);
        if networks.len() > 1 + holes.len() {
            found.push((around, holes));
        } else {
            found.extend(networks.into_iter().map(|net| (net, Vec::new())));
        }
    }
    found
}

/// A name that describes the policy: `db-1-from-cleanup`.
fn name(cluster: &Cluster, direction: Direction, subjects: &[Side], others: &[Side]) -> String {
    const LONGEST: usize = 100;
    let of = |sides: &[Side]| match sides.first() {
        Some(Side::Pod(key, _)) => match cluster.workload_of(key) {
            Some(workload) => workload.name.to_string(),
            None => key.name.to_string(),
        },
        Some(Side::Node(name, _)) => name.to_string(),
        Some(Side::Outside(_)) | None => "external".to_owned(),
    };
    let word = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    format!("{}-{word}-{}", cut(&of(subjects), LONGEST), cut(&of(others), LONGEST))
}

/// The part of a text that the name of an object can have.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '.');
    let kept: String = kept.take(longest).collect();
    kept.trim_matches(|c| c == '-' || c == '.').to_lowercase()
}
