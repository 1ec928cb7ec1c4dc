//! Groups: the words by which a line of a case names many sources or destinations at once.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use policy_engine::port::Protocol;

use super::probe::{Port, Probe, Via, protocol_by_name};
use super::world::{Endpoint, Place};

/// A group of sources or destinations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Group {
    /// `*`: everything, services included.
    Everything,
    /// `x/a`, `x/*`, `*/a`, `*/*`: pods by namespace and name.
    Pods(Word, Word),
    /// `node/*`, `node/n1`: nodes and the hostNetwork pods there.
    Nodes(Word),
    /// `node/own`: the node of the pod on the other side, and hostNetwork pods there.
    OwnNode,
    /// `node/other`: all nodes but that one.
    OtherNodes,
    /// `self`: the pod on the other side.
    Itself,
    /// `external`: the host outside of the cluster.
    External,
    /// `x/svc/web`, `x/svc/web:80`: the virtual address of a service.
    Service(String, String, Option<u16>),
    /// `node/n1:30080`: a port of a node, as a service has it.
    NodePort(Word, u16),
}

/// A name, or `*` for every name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Any,
    Exact(String),
}

impl Word {
    fn new(text: &str) -> Self {
        if text == "*" { Self::Any } else { Self::Exact(text.to_owned()) }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted == name,
        }
    }
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (path, port) = match text.split_once(':') {
            Some((path, port)) => {
                (path, Some(port.parse().with_context(|| format!("the port of {text:?}"))?))
            }
            None => (text, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        Ok(match (parts.as_slice(), port) {
            (["*"], None) => Self::Everything,
            (["self"], None) => Self::Itself,
            (["external"], None) => Self::External,
            (["node", "own"], None) => Self::OwnNode,
            (["node", "other"], None) => Self::OtherNodes,
            (["node", name], None) => Self::Nodes(Word::new(name)),
            (["node", name], Some(port)) => Self::NodePort(Word::new(name), port),
            ([namespace, "svc", name], port) => {
                Self::Service((*namespace).to_owned(), (*name).to_owned(), port)
            }
            ([namespace, name], None) => Self::Pods(Word::new(namespace), Word::new(name)),
            _ => bail!("{text:?} is no group"),
        })
    }
}

/// Which side of a probe is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Source,
    Destination,
}

impl Group {
    /// Whether the group holds one side of a probe.
    pub(super) fn holds(&self, side: Side, probe: &Probe) -> bool {
        let (this, other) = match side {
            Side::Source => (&probe.source, &probe.destination),
            Side::Destination => (&probe.destination, &probe.source),
        };
        // What is reached through a service is called by the service's name.
        let via = probe.via.as_ref().filter(|_| side == Side::Destination);
        match (self, via) {
            (Self::Everything, _) => true,
            (Self::Service(namespace, name, port), Some(Via::ClusterIp { service })) => {
                (namespace, name) == (&service.0, &service.1) && is_port(probe.port, *port)
            }
            (Self::NodePort(node, port), Some(Via::NodePort { node: asked, .. })) => {
                node.matches(asked) && is_port(probe.port, Some(*port))
            }
            (Self::Service(..) | Self::NodePort(..), _) | (_, Some(_)) => false,
            (Self::Itself, None) => probe.is_to_itself(),
            (Self::External, None) => this.place == Place::External,
            (Self::OwnNode, None) => this.on_host && this.node == other.node,
            (Self::OtherNodes, None) => this.on_host && this.node != other.node,
            (Self::Nodes(name), None) => {
                this.on_host && this.node.as_ref().is_some_and(|node| name.matches(node))
            }
            (Self::Pods(namespace, name), None) => holds_pod(namespace, name, this),
        }
    }

    /// Whether the group is one of those that speak of pairs which no policy can forbid.
    pub(super) fn names_exempt_pairs(&self, side: Side) -> bool {
        match self {
            Self::Itself => true,
            Self::OwnNode => side == Side::Source,
            _ => false,
        }
    }
}

/// A hostNetwork pod is its node to every policy, so only its full name means it.
fn holds_pod(namespace: &Word, name: &Word, endpoint: &Endpoint) -> bool {
    let Place::Pod(key) = &endpoint.place else { return false };
    let wide = *namespace == Word::Any || *name == Word::Any;
    namespace.matches(&key.namespace) && name.matches(&key.name) && !(wide && endpoint.on_host)
}

fn is_port(port: Port, wanted: Option<u16>) -> bool {
    match (port, wanted) {
        (_, None) => true,
        (Port::Number(_, number), Some(wanted)) => number == wanted,
        (Port::Icmp, Some(_)) => false,
    }
}

/// Ports as a line names them: `80/tcp`, `80`, `icmp`, or `tcp`, `udp`, `sctp` for all of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ports {
    One(Port),
    All(Protocol),
}

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match protocol_by_name(text) {
            Ok(protocol) => Ok(Self::All(protocol)),
            Err(_) => Ok(Self::One(text.parse()?)),
        }
    }
}

impl Ports {
    pub(super) fn holds(self, port: Port) -> bool {
        match self {
            Self::One(wanted) => wanted == port,
            Self::All(protocol) => matches!(port, Port::Number(found, _) if found == protocol),
        }
    }
}
