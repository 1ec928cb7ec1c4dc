//! Finds what the words of a user mean in a cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy_engine::cidr::CidrSet;
use policy_engine::flow;
use policy_engine::labels::Str;
use policy_engine::model::{Life, Pod, PodKey};
use policy_engine::port::Protocol;
use policy_engine::words::few;
use portcullis_lint::near;

use super::service::{API_SERVER, api_server, behind};
use super::{Endpoint, EndpointError, NumberOrName, PortWord, Target};
use crate::model::{Cluster, WorkloadRef};

/// How many names a note writes out.
const NAMES_SHOWN: usize = 5;

/// One side of a question, found in a cluster.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name of the side in answers.
    pub name: String,
    /// All pods, nodes and addresses that the side stands for; never empty.
    pub parties: Vec<Party>,
    /// Notes about the side, for people.
    pub notes: Vec<String>,
}

/// One pod, node or set of addresses that a side stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// The name of the party in answers.
    pub name: String,
    /// The endpoint of the engine.
    pub side: Side,
    /// The ports that are asked for; empty for every port.
    pub ports: Vec<PortAsked>,
}

/// A party as the engine knows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// A pod, by this address or by any of its addresses.
    Pod(PodKey, Option<IpAddr>),
    /// A node, by this address or by any of its addresses.
    Node(Str, Option<IpAddr>),
    /// External addresses.
    Outside(CidrSet),
}

impl Side {
    /// The pod, if it is one.
    #[must_use]
    pub fn pod(&self) -> Option<&PodKey> {
        match self {
            Self::Pod(key, _) => Some(key),
            Self::Node(..) | Self::Outside(_) => None,
        }
    }
}

/// A port of a destination.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortAsked {
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the pod.
    pub number: u16,
    /// The port of the Service that leads there.
    pub service_port: Option<u16>,
}

/// Finds what `endpoint` means; without a namespace it is in `default_namespace`.
///
/// # Errors
/// When nothing or more than one thing is meant; names candidates.
pub fn resolve(
    cluster: &Cluster,
    endpoint: &Endpoint,
    default_namespace: &str,
) -> Result<Resolved, EndpointError> {
    let port = endpoint.port.as_ref();
    match &endpoint.target {
        Target::Named { namespace, kind, name } => {
            let own = namespace.as_deref().unwrap_or(default_namespace).into();
            let found = named(cluster, &own, kind.as_deref(), name, port);
            match (found, namespace, kind) {
                // A pod, workload or Service of this name takes precedence.
                (Err(EndpointError::Missing { .. }), None, None) if name == API_SERVER => {
                    api_server(cluster, port)
                }
                (found, ..) => found,
            }
        }
        Target::KindOrNamespace { word, kind, name } => {
            let as_kind = named(cluster, &default_namespace.into(), Some(kind), name, port);
            if !cluster.world.namespaces().contains_key(word.as_str()) {
                return as_kind;
            }
            let as_namespace = named(cluster, &word.as_str().into(), None, name, port);
            match (as_kind, as_namespace) {
                (Ok(found), Err(_)) => Ok(found),
                (Ok(one), Ok(other)) => Err(EndpointError::Ambiguous {
                    text: format!("{word}/{name}"),
                    candidates: vec![one.name, other.name],
                }),
                (Err(_), found) => found,
            }
        }
        Target::Pods(namespace) => all_pods(cluster, namespace.as_deref(), port),
        Target::Node(name) => node(cluster, name, port),
        Target::Network(net) => network(cluster, *net, port),
        Target::External => {
            let side = Side::Outside(CidrSet::everything());
            single("external".to_owned(), side, port)
        }
    }
}

fn named(
    cluster: &Cluster,
    namespace: &Str,
    kind: Option<&str>,
    name: &str,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let name: Str = name.into();
    let pod = || cluster.world.pods().get(&PodKey::of(namespace.clone(), name.clone()));
    let service = || cluster.services.get(&(namespace.clone(), name.clone()));
    match kind {
        Some("pod") => {
            if let Some(pod) = pod() {
                return pods(cluster, cluster.pod_ref(&pod.key), [pod.key.clone()], port);
            }
        }
        Some("service") => {
            if let Some(service) = service() {
                return behind(cluster, service, port);
            }
        }
        Some(kind) => {
            let workload = WorkloadRef::new(namespace, kind, &name);
            if let Some(found) = cluster.workloads.get(&workload) {
                return pods(cluster, workload.to_string(), found.pods.iter().cloned(), port);
            }
        }
        None => {
            if let Some(pod) = pod() {
                return pods(cluster, cluster.pod_ref(&pod.key), [pod.key.clone()], port);
            }
            let same = |key: &&WorkloadRef| key.namespace == *namespace && key.name == name;
            let workloads: Vec<&WorkloadRef> = cluster.workloads.keys().filter(same).collect();
            if workloads.len() > 1 {
                let candidates = workloads.iter().map(ToString::to_string).collect();
                return Err(EndpointError::Ambiguous { text: name.to_string(), candidates });
            }
            let found = workloads.first().and_then(|key| cluster.workloads.get_key_value(key));
            if let Some((key, workload)) = found {
                return pods(cluster, key.to_string(), workload.pods.iter().cloned(), port);
            }
            if let Some(service) = service() {
                return behind(cluster, service, port);
            }
        }
    }
    Err(missing(cluster, namespace, kind, &name))
}

fn missing(cluster: &Cluster, namespace: &Str, kind: Option<&str>, name: &Str) -> EndpointError {
    if !cluster.world.namespaces().contains_key(namespace) {
        let known = cluster.world.namespaces().keys().map(AsRef::as_ref);
        let candidates = near::names(namespace, known).into_iter().map(str::to_owned).collect();
        return EndpointError::Missing { what: format!("namespace {namespace}"), candidates };
    }
    let mut known: BTreeSet<(Str, Str, String)> = BTreeSet::new();
    for workload in cluster.workloads.keys() {
        let shown = workload.to_string();
        known.insert((workload.namespace.clone(), workload.name.clone(), shown));
    }
    for key in cluster.world.pods().keys().filter(|key| !key.name.contains('/')) {
        known.insert((key.namespace.clone(), key.name.clone(), cluster.pod_ref(key)));
    }
    for (namespace, name) in cluster.services.keys() {
        known.insert((namespace.clone(), name.clone(), format!("{namespace}/svc/{name}")));
    }
    // An equal name in another namespace is likelier than a similar name.
    let elsewhere = known.iter().filter(|(_, other, _)| other == name);
    let mut candidates: Vec<String> = elsewhere.map(|(.., shown)| shown.clone()).collect();
    if candidates.is_empty() {
        let here: Vec<_> = known.iter().filter(|(other, ..)| other == namespace).collect();
        let near = near::names(name, here.iter().map(|(_, other, _)| other.as_ref()));
        let shown = |near: &&str| {
            here.iter().find(|(_, other, _)| other.as_ref() == *near).map(|(.., s)| s.clone())
        };
        candidates = near.iter().filter_map(shown).collect();
    }
    candidates.dedup();
    candidates.truncate(5);
    let kind = kind.unwrap_or("pod, workload or service");
    EndpointError::Missing { what: format!("{kind} {namespace}/{name}"), candidates }
}

/// The pods that can take part in connections, with the port that was asked for.
fn pods(
    cluster: &Cluster,
    name: String,
    keys: impl IntoIterator<Item = PodKey>,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let (mut parties, mut notes, mut lacking) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        let Some(pod) = cluster.world.pods().get(&key) else { continue };
        if pod.life == Life::Finished {
            notes.push(format!(
                "{} has finished: NetworkPolicies do not apply to it",
                cluster.pod_ref(&key)
            ));
            continue;
        }
        let ports = port.map(|word| ports_of(pod, word)).unwrap_or_default();
        if port.is_some() && ports.is_empty() {
            lacking.push(pod);
            continue;
        }
        parties.push(party(cluster, key, ports));
    }
    if let (true, Some(pod), Some(port)) = (parties.is_empty(), lacking.first(), port) {
        let what = format!("port called {} at {}", port.port, cluster.pod_ref(&pod.key));
        let candidates = pod.ports.iter().map(|port| port.name.to_string()).collect();
        return Err(EndpointError::Missing { what, candidates });
    }
    if !lacking.is_empty() {
        let left = lacking.len();
        notes.push(format!("{left} pods of {name} lack the port and are left out"));
    }
    if parties.is_empty() {
        let what = format!("running pod of {name}");
        return Err(EndpointError::Missing { what, candidates: Vec::new() });
    }
    Ok(Resolved { name, parties, notes })
}

pub(super) fn party(cluster: &Cluster, key: PodKey, ports: Vec<PortAsked>) -> Party {
    let name = match cluster.workload_of(&key) {
        Some(workload) => workload.to_string(),
        None => cluster.pod_ref(&key),
    };
    Party { name, side: Side::Pod(key, None), ports }
}

fn ports_of(pod: &Pod, word: &PortWord) -> Vec<PortAsked> {
    let asked = |number| PortAsked { protocol: word.protocol, number, service_port: None };
    match &word.port {
        NumberOrName::Number(number) => vec![asked(*number)],
        NumberOrName::Name(name) => {
            let named = pod.ports.iter();
            let named = named.filter(|p| p.name.as_ref() == name && p.protocol == word.protocol);
            named.map(|port| asked(port.number)).collect()
        }
    }
}

fn all_pods(
    cluster: &Cluster,
    namespace: Option<&str>,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    if let Some(name) = namespace
        && !cluster.world.namespaces().contains_key(name)
    {
        return Err(missing(cluster, &name.into(), None, &"*".into()));
    }
    let inside = |pod: &Pod| namespace.is_none_or(|name| *name == *pod.key.namespace);
    let all = cluster.world.pods().values().filter(|pod| inside(pod) && pod.takes_part());
    let name = format!("{}/*", namespace.unwrap_or("*"));
    pods(cluster, name, all.map(|pod| pod.key.clone()), port)
}

fn node(cluster: &Cluster, name: &str, port: Option<&PortWord>) -> Result<Resolved, EndpointError> {
    let on_node = |pod: &Pod| pod.node.as_deref() == Some(name);
    let known = cluster.world.nodes().contains_key(name)
        || cluster.world.pods().values().any(|pod| on_node(pod));
    if !known {
        let names = cluster.world.nodes().keys().map(AsRef::as_ref);
        let candidates =
            near::names(name, names).into_iter().map(|n| format!("node/{n}")).collect();
        return Err(EndpointError::Missing { what: format!("node {name}"), candidates });
    }
    single(format!("node/{name}"), Side::Node(name.into(), None), port)
}

pub(super) fn network(
    cluster: &Cluster,
    net: IpNet,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let address = net.addr();
    if net.prefix_len() != net.max_prefix_len() {
        let holders = holders(cluster, net);
        if holders.is_empty() {
            return single(net.to_string(), Side::Outside(CidrSet::network(net)), port);
        }
        let name = format!("external addresses in {net}");
        let mut found = single(name, Side::Outside(CidrSet::network(net)), port)?;
        found.notes.push(format!(
            "this answer is not about the addresses in {net} that pods and nodes have: ask by name \
             for {}",
            few(holders, NAMES_SHOWN)
        ));
        return Ok(found);
    }
    if let Some(service) = cluster.services.values().find(|s| s.addresses.contains(&address)) {
        return behind(cluster, service, port);
    }
    if let Some(contest) = cluster.world.contest(address) {
        return Err(EndpointError::Contested(Box::new(contest)));
    }
    match cluster.world.endpoint(address) {
        flow::Endpoint::Pod(key, _) => {
            let mut found = pods(cluster, cluster.pod_ref(&key), [key.clone()], port)?;
            for party in &mut found.parties {
                party.side = Side::Pod(key.clone(), Some(address));
            }
            Ok(found)
        }
        flow::Endpoint::Node(name, _) => {
            single(format!("node/{name}"), Side::Node(name, Some(address)), port)
        }
        flow::Endpoint::External(_) => {
            single(address.to_string(), Side::Outside(CidrSet::network(net)), port)
        }
    }
}

/// The pods and nodes that have addresses in a network, by name.
fn holders(cluster: &Cluster, net: IpNet) -> BTreeSet<String> {
    let world = &cluster.world;
    let has = |pod: &&Arc<Pod>| {
        let own = pod.host_network.then_some(&pod.addresses).into_iter().flatten().copied();
        let found = world.owned_addresses(pod).chain(own).any(|address| net.contains(&address));
        found && pod.life != Life::Finished
    };
    let pods = world.pods().values().filter(has).map(|pod| cluster.pod_ref(&pod.key));
    let nodes = world
        .nodes()
        .iter()
        .filter(|(_, node)| node.addresses.iter().any(|address| net.contains(address)));
    pods.chain(nodes.map(|(name, _)| format!("node/{name}"))).collect()
}

/// A side that is not a pod: it has no port names.
fn single(name: String, side: Side, port: Option<&PortWord>) -> Result<Resolved, EndpointError> {
    let ports = match port.map(|word| (&word.port, word.protocol)) {
        None => Vec::new(),
        Some((NumberOrName::Number(number), protocol)) => {
            vec![PortAsked { protocol, number: *number, service_port: None }]
        }
        Some((NumberOrName::Name(port), _)) => {
            let what = format!("port called {port} at {name}: only pods and Services name ports");
            return Err(EndpointError::Missing { what, candidates: Vec::new() });
        }
    };
    let party = Party { name: name.clone(), side, ports };
    Ok(Resolved { name, parties: vec![party], notes: Vec::new() })
}
