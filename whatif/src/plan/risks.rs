//! Risks that a reviewer has to know first: DNS is lost, ports are opened to external addresses,
//! policies are removed.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::flow::Traffic;
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::port::Protocol;
use policy_engine::reach::{Group, GroupId, IdSet, PortSet, Reach};

use portcullis_lint::{ClosedBackend, Input, Names, closed_backends};

use super::causes::Judge;
use super::{Causes, Change, Found};
use crate::model::Cluster;

/// A change that is probably not intended.
#[derive(Clone, Debug)]
pub struct Risk {
    /// The kind of the risk.
    pub kind: RiskKind,
    /// The pods at risk.
    pub group: GroupId,
    /// The objects that cause it.
    pub because: Causes,
}

/// A kind of risk, with its details.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RiskKind {
    /// DNS look-ups are no longer possible: these ports are no longer allowed.
    DnsLost(PortSet),
    /// External addresses can connect that could not before: the addresses, and the ports.
    ExternalOpened(CidrSet, PortSet),
    /// None of its clients can connect any more to these ports, to which this object leads
    /// connections; the pods, which can be some of those of the group.
    BackendLost(ObjectRef, PortSet, BTreeSet<PodKey>),
    /// No policy isolates the pods in this direction any more.
    IsolationLost(Direction),
}

/// All risks, the worst kind first.
pub(super) fn find(
    found: &Found<'_>,
    clusters: [&Cluster; 2],
    reaches: [&Reach<'_>; 2],
    judge: &Judge<'_>,
) -> Vec<Risk> {
    let mut risks = dns(found, clusters, reaches);
    risks.extend(backends(found, clusters));
    risks.extend(external(found));
    risks.extend(isolation(found, reaches, judge));
    risks
}

/// The protocols over which a group can do DNS look-ups.
type Lookups = BTreeSet<Protocol>;

fn dns(found: &Found<'_>, clusters: [&Cluster; 2], [old, new]: [&Reach<'_>; 2]) -> Vec<Risk> {
    let groups = &found.difference.groups;
    let resolvers: BTreeSet<GroupId> = groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.pods.iter().any(|pod| is_resolver(clusters, pod)))
        .map(|(id, _)| id)
        .collect();
    // A cluster whose DNS pods are not known may have them anywhere, or DNS at external addresses.
    let answers = |group: GroupId| resolvers.is_empty() || resolvers.contains(&group);
    let mut lookups: BTreeMap<GroupId, [Lookups; 2]> = BTreeMap::new();
    let rows = [found.difference.rows_before(old), found.difference.rows_after(new)];
    for (at, mut rows) in rows.into_iter().enumerate() {
        let mut sources: BTreeMap<Protocol, IdSet> = BTreeMap::new();
        for destination in (0..groups.len()).filter(|group| answers(*group)) {
            // That a lone pod is its own peer has no meaning.
            let own = groups.get(destination).filter(|group| group.pods.len() < 2);
            let own: IdSet = own.map(|_| destination).into_iter().collect();
            for (ports, others) in rows.row(destination) {
                for protocol in dns_of(rows.ports(ports)) {
                    let known = sources.entry(protocol).or_default();
                    *known = known.union(&others.difference(&own));
                }
            }
        }
        for (protocol, sources) in sources {
            for source in sources.iter() {
                lookups.entry(source).or_default()[at].insert(protocol);
            }
        }
    }
    if resolvers.is_empty() {
        for (id, group) in groups.iter().enumerate() {
            let [before, after] = lookups.entry(id).or_default();
            for (_, ports) in group.outside_before(old, Direction::Egress).parts {
                before.extend(dns_of(&ports));
            }
            for (_, ports) in group.outside_after(new, Direction::Egress).parts {
                after.extend(dns_of(&ports));
            }
        }
    }
    let stays = |group: &Group| group.before.is_some() && group.after.is_some();
    let mut changes: BTreeMap<GroupId, Vec<&Change>> = BTreeMap::new();
    for change in found.changes.iter().filter(|change| answers(change.destination)) {
        changes.entry(change.source).or_default().push(change);
    }
    let mut risks = Vec::new();
    for (group, [before, after]) in lookups {
        // Every look-up tries UDP first. The loss of TCP alone matters only if no protocol is left.
        let udp = before.contains(&Protocol::Udp) && !after.contains(&Protocol::Udp);
        let all = !before.is_empty() && after.is_empty();
        if (udp || all) && !resolvers.contains(&group) && groups.get(group).is_some_and(stays) {
            let mut lost = PortSet::default();
            for protocol in before.difference(&after) {
                lost.add(&PortSet::of(Traffic::Port(*protocol, DNS)));
            }
            let changes = changes.get(&group).map_or(&[] as &[_], Vec::as_slice);
            let because = lost_by(found, group, &lost, changes);
            risks.push(Risk { kind: RiskKind::DnsLost(lost), group, because });
        }
    }
    risks
}

const DNS: u16 = 53;

fn dns_of(ports: &PortSet) -> impl Iterator<Item = Protocol> {
    let protocols = [Protocol::Udp, Protocol::Tcp].into_iter();
    protocols.filter(|protocol| ports.contains(Traffic::Port(*protocol, DNS)))
}

/// Every cause of a change that removed some of these ports from a group, which is the source of
/// `changes`.
fn lost_by(found: &Found<'_>, group: GroupId, lost: &PortSet, changes: &[&Change]) -> Causes {
    let takes =
        |before: &PortSet, after: &PortSet| !before.difference(after).intersection(lost).is_empty();
    let pairs = changes.iter().filter(|change| takes(&change.before, &change.after));
    let mut causes: BTreeSet<usize> =
        pairs.flat_map(|change| change.because.iter().copied()).collect();
    if causes.is_empty() {
        let outside = found.external.iter().filter(|change| {
            change.group == group
                && change.direction == Direction::Egress
                && takes(&change.before, &change.after)
        });
        causes = outside.flat_map(|change| change.because.iter().copied()).collect();
    }
    causes.into_iter().collect()
}

/// Whether a pod is a DNS server of the cluster, by the labels of common distributions.
fn is_resolver(clusters: [&Cluster; 2], key: &PodKey) -> bool {
    const LABELS: [(&str, &str); 4] = [
        ("k8s-app", "kube-dns"),
        ("k8s-app", "coredns"),
        ("k8s-app", "node-local-dns"),
        ("app.kubernetes.io/name", "coredns"),
    ];
    let labelled = |pod: &Pod| {
        let mut labels = pod.labels.iter();
        labels.any(|(name, value)| LABELS.contains(&(name.as_ref(), value.as_ref())))
    };
    clusters.into_iter().any(|cluster| {
        let service = cluster.services.get(&("kube-system".into(), "kube-dns".into()));
        cluster
            .world
            .pods()
            .get(key)
            .is_some_and(|pod| labelled(pod) || service.is_some_and(|service| service.selects(pod)))
    })
}

/// Backends that objects lead connections to before and after, and that are closed only after.
fn backends(found: &Found<'_>, [before, after]: [&Cluster; 2]) -> Vec<Risk> {
    let names = Names::new();
    let closed = |cluster: &Cluster| {
        closed_backends(Input {
            world: &cluster.world,
            services: &cluster.services,
            frontends: &cluster.frontends,
            api_server: &[],
            api_clients: &BTreeSet::new(),
            names: &names,
            documents: &cluster.documents,
        })
    };
    let is_closed = closed(after);
    if is_closed.is_empty() {
        return Vec::new();
    }
    let was_closed = closed(before);
    let existed = |one: &ClosedBackend| {
        before.services.contains_key(&one.service)
            && (one.object.kind == Kind::Service
                || before.frontends.iter().any(|frontend| frontend.object == one.object))
    };
    let is_same = |one: &ClosedBackend, other: &ClosedBackend| {
        (&one.object, &one.service, one.traffic) == (&other.object, &other.service, other.traffic)
    };
    let mut risks = Vec::new();
    for lost in is_closed.iter().filter(|one| existed(one)) {
        if was_closed.iter().any(|other| is_same(lost, other)) {
            continue;
        }
        for (group, pods) in found.difference.groups.iter().enumerate() {
            let stays = pods.before.is_some() && pods.after.is_some();
            let at_risk = pods.pods.iter().filter(|pod| lost.pods.contains(*pod));
            let at_risk: BTreeSet<PodKey> = at_risk.cloned().collect();
            if stays && !at_risk.is_empty() {
                let ports = PortSet::of(lost.traffic);
                let because = closed_by(found, group, &ports);
                let kind = RiskKind::BackendLost(lost.object.clone(), ports, at_risk);
                risks.push(Risk { kind, group, because });
            }
        }
    }
    risks
}

/// Every cause of a change that removed some of these ports from clients of a group.
fn closed_by(found: &Found<'_>, group: GroupId, lost: &PortSet) -> Causes {
    let takes =
        |before: &PortSet, after: &PortSet| !before.difference(after).intersection(lost).is_empty();
    let pairs = found.changes.iter().filter(|change| change.destination == group);
    let pairs = pairs.filter(|change| takes(&change.before, &change.after));
    let outside = found.external.iter().filter(|change| {
        change.group == group
            && change.direction == Direction::Ingress
            && takes(&change.before, &change.after)
    });
    let causes = pairs.map(|change| &change.because).chain(outside.map(|change| &change.because));
    let causes: BTreeSet<usize> = causes.flat_map(|causes| causes.iter().copied()).collect();
    causes.into_iter().collect()
}

fn external(found: &Found<'_>) -> Vec<Risk> {
    let incoming = found.external.iter().filter(|c| c.direction == Direction::Ingress);
    let opened = incoming.filter_map(|change| {
        let gained = change.after.difference(&change.before);
        (!gained.is_empty()).then(|| Risk {
            kind: RiskKind::ExternalOpened(change.addresses.clone(), gained),
            group: change.group,
            because: change.because.clone(),
        })
    });
    opened.collect()
}

fn isolation(found: &Found<'_>, [old, new]: [&Reach<'_>; 2], judge: &Judge<'_>) -> Vec<Risk> {
    let mut risks = Vec::new();
    for (id, group) in found.difference.groups.iter().enumerate() {
        let classes = group.before.and_then(|class| old.classes().get(class));
        let Some((was, is)) = classes.zip(group.after.and_then(|class| new.classes().get(class)))
        else {
            continue;
        };
        for direction in Direction::BOTH {
            if was.is_isolated(direction) && !is.is_isolated(direction) {
                let because = judge.of_group(id, direction).iter().copied().collect();
                risks.push(Risk { kind: RiskKind::IsolationLost(direction), group: id, because });
            }
        }
    }
    risks
}
