//! One connection that can be tried, in terms that a lab can execute and the engine can judge.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use policy_engine::cidr::Family;
use policy_engine::flow::Traffic;
use policy_engine::port::Protocol;
use portcullis_whatif::policytest::member::{Member, PORTS, Place, Port};

use super::service::Service;
use super::world::World;

/// A connection to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The family of all its addresses.
    pub family: Family,
    /// Who connects.
    pub source: Arc<Member>,
    /// The client's address.
    pub source_address: IpAddr,
    /// Who answers.
    pub destination: Arc<Member>,
    /// What the client connects to: an address of the destination, or of a service.
    pub target: IpAddr,
    /// The protocol, and the port that the client connects to.
    pub port: Port,
    /// The service between them.
    pub via: Option<Via>,
    /// What the policies are asked about it.
    pub judged: Judged,
}

impl Probe {
    /// Whether a pod connects to itself, directly or through a service.
    #[must_use]
    pub fn is_to_itself(&self) -> bool {
        self.source.place == self.destination.place
    }

    /// Whether a node, or a hostNetwork pod, connects to a pod of the same node.
    #[must_use]
    pub fn is_from_own_node(&self) -> bool {
        self.is_on_one_node() && self.source.on_host && !self.destination.on_host
    }

    /// Whether a pod connects to its node, or to a hostNetwork pod there.
    #[must_use]
    pub fn is_to_own_node(&self) -> bool {
        self.is_on_one_node() && !self.source.on_host && self.destination.on_host
    }

    fn is_on_one_node(&self) -> bool {
        self.source.node.is_some() && self.source.node == self.destination.node
    }

    /// Whether the connection is allowed whatever the policies say.
    #[must_use]
    pub fn is_exempt(&self) -> bool {
        self.is_to_itself() || self.is_from_own_node()
    }
}

/// A connection as the node sees it that enforces policy: after the translation of service
/// addresses, before masquerading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// Protocol and destination port.
    pub traffic: Traffic,
}

/// How a service is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// By its virtual address.
    ClusterIp {
        /// `namespace/name`.
        service: (String, String),
    },
    /// By a port of a node.
    ///
    /// A node masquerades what it forwards to a pod elsewhere, so that the pod's node sees the
    /// receiving node as the source. For a pod of its own it does so after the policies judged.
    NodePort {
        /// `namespace/name`.
        service: (String, String),
        /// The node that is asked.
        node: String,
    },
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} → ", self.source.place)?;
        match &self.via {
            None => write!(formatter, "{} {}", self.destination.place, self.port)?,
            Some(Via::ClusterIp { service: (namespace, name) }) => {
                write!(formatter, "{namespace}/svc/{name} {}", self.port)?;
                write!(formatter, " → {}", self.destination.place)?;
            }
            Some(Via::NodePort { node, .. }) => {
                write!(formatter, "node/{node} {} → {}", self.port, self.destination.place)?;
            }
        }
        write!(formatter, " ({:?})", self.family)
    }
}

/// Every probe of a world in one family: each pair with a pod in it × each port, then services.
/// Pods are asked for `more` ports too.
pub(super) fn all(world: &World, family: Family, more: &[Port]) -> Result<Vec<Probe>> {
    let endpoints: Vec<_> = world.endpoints().into_iter().map(Arc::new).collect();
    let mut probes = Vec::new();
    for source in &endpoints {
        for destination in &endpoints {
            let [from_pod, to_pod] = [source, destination].map(|side| is_own_pod(side));
            if !from_pod && !to_pod {
                continue;
            }
            let Some(direct) = direct(source, destination, family) else { continue };
            let sctp = |port: &Port| matches!(port, Port::Number(Protocol::Sctp, _));
            let asked = PORTS.iter().filter(|port| to_pod || !sctp(port));
            let more = more.iter().filter(|_| to_pod);
            probes.extend(asked.chain(more).map(|port| {
                let judged = Judged { traffic: port.traffic(), ..direct.judged };
                Probe { port: *port, judged, ..direct.clone() }
            }));
        }
    }
    for service in world.services()? {
        probes.extend(through(&service, &endpoints, family));
    }
    Ok(probes)
}

/// Whether this is a pod with addresses of its own.
fn is_own_pod(endpoint: &Member) -> bool {
    matches!(endpoint.place, Place::Pod(_)) && !endpoint.on_host
}

fn direct(source: &Arc<Member>, destination: &Arc<Member>, family: Family) -> Option<Probe> {
    let source_address = source.address(family)?;
    let target = destination.address(family)?;
    let judged =
        Judged { source: source_address, destination: target, traffic: Port::Icmp.traffic() };
    Some(Probe {
        family,
        source: Arc::clone(source),
        source_address,
        destination: Arc::clone(destination),
        target,
        port: Port::Icmp,
        via: None,
        judged,
    })
}

/// Pods to the virtual address, the host outside to each node port.
fn through(service: &Service, endpoints: &[Arc<Member>], family: Family) -> Vec<Probe> {
    let name = (service.namespace.clone(), service.name.clone());
    let backend = Arc::new(service.backend.clone());
    let mut probes = Vec::new();
    for port in &service.ports {
        let traffic = Traffic::Port(port.protocol, port.target);
        let ip = service.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family);
        for source in endpoints.iter().filter(|source| is_own_pod(source)) {
            let (Some(ip), Some(probe)) = (ip, direct(source, &backend, family)) else {
                continue;
            };
            probes.push(Probe {
                target: ip,
                port: Port::Number(port.protocol, port.port),
                via: Some(Via::ClusterIp { service: name.clone() }),
                judged: Judged { traffic, ..probe.judged },
                ..probe
            });
        }
        let Some(node_port) = port.node_port else { continue };
        let external = endpoints.iter().find(|endpoint| endpoint.place == Place::External);
        for node in endpoints {
            let (Place::Node(asked), Some(target)) = (&node.place, node.address(family)) else {
                continue;
            };
            let Some(probe) = external.and_then(|ext| direct(ext, &backend, family)) else {
                continue;
            };
            let local = service.backend.node.as_ref() == Some(asked);
            let seen = if local { probe.source_address } else { target };
            probes.push(Probe {
                target,
                port: Port::Number(port.protocol, node_port),
                via: Some(Via::NodePort { service: name.clone(), node: asked.clone() }),
                judged: Judged { source: seen, traffic, ..probe.judged },
                ..probe
            });
        }
    }
    probes
}
