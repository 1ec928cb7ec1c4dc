//! Groups: the words by which a line of a case names many sources or destinations at once.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use policy_engine::object::Kind;
use policy_engine::port::Protocol;
use policy_engine::selector::Selector;
use portcullis_crds::convert::label_selector;
use serde_json::Value;

use super::file::{LabelsFile, Who};
use super::member::{Member, Place, Port, protocol_by_name};

/// A group of sources or destinations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Group {
    /// `*`: everything, services included.
    Everything,
    /// `x/a`, `x/*`, `*/a`, `*/*`: pods by namespace and name.
    Pods(Pattern, Pattern),
    /// `x/deploy/a`: the pods of a workload, by namespace, kind and name.
    Workload(Pattern, String, Pattern),
    /// `{namespaceSelector: …, podSelector: …}`: pods by their labels and their namespace's.
    Labels(Option<String>, Selector, Selector),
    /// `10.0.0.0/8`: every endpoint with an address in the network.
    Network(IpNet),
    /// `node/*`, `node/n1`: nodes and the hostNetwork pods there.
    Nodes(Pattern),
    /// `node/own`: the node of the peer, which is a pod, and hostNetwork pods on the node.
    OwnNode,
    /// `node/other`: all nodes but the node of the peer.
    OtherNodes,
    /// `self`: the pod that is the peer.
    Itself,
    /// `external`: the host outside of the cluster.
    External,
    /// `x/svc/web`, `x/svc/web:80`: the virtual address of a service.
    Service(String, String, Option<u16>),
    /// `node/n1:30080`: a port of a node, for a Service.
    NodePort(Pattern, u16),
}

/// A name, or `*` for every name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Any name.
    Any,
    /// This name.
    Exact(String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        if text == "*" { Self::Any } else { Self::Exact(text.to_owned()) }
    }

    /// Whether the pattern matches a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted == name,
        }
    }
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(network) = network(text) {
            return Ok(Self::Network(network));
        }
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
            (["node", name], None) => Self::Nodes(Pattern::new(name)),
            (["node", name], Some(port)) => Self::NodePort(Pattern::new(name), port),
            ([namespace, "svc", name], port) => {
                Self::Service((*namespace).to_owned(), (*name).to_owned(), port)
            }
            ([namespace, name], None) => Self::Pods(Pattern::new(namespace), Pattern::new(name)),
            ([namespace, kind, name], None) => {
                let kind = Kind::from_word(kind)
                    .with_context(|| format!("{text:?}: {kind:?} is no kind of workloads"))?;
                Self::Workload(Pattern::new(namespace), kind.lower().to_owned(), Pattern::new(name))
            }
            _ => bail!("{text:?} is no group"),
        })
    }
}

impl Group {
    /// The group of a word or of labels.
    pub(super) fn read(written: &Who) -> Result<Self> {
        let value = match written {
            Who::Word(word) => return word.parse(),
            Who::Labels(fields) => Value::Object(fields.clone()),
        };
        let group: LabelsFile = serde_json::from_value(value.clone())
            .with_context(|| format!("{value} is no group of pods"))?;
        ensure!(
            group.namespace_selector.is_some() || group.pod_selector.is_some(),
            "{value} needs a podSelector, a namespaceSelector or both"
        );
        let selector = |written: &Option<Value>, field: &str| match written {
            None => Ok(Selector::everything()),
            Some(value) => label_selector(value)
                .map_err(|problem| anyhow::anyhow!("{field} of a group: {problem}")),
        };
        let namespaces = selector(&group.namespace_selector, "namespaceSelector")?;
        let pods = selector(&group.pod_selector, "podSelector")?;
        Ok(Self::Labels(group.namespace, namespaces, pods))
    }
}

/// An end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

impl Group {
    /// Whether the group contains `this`, which is one end of a connection with `other`.
    #[must_use]
    pub fn holds_member(&self, this: &Member, other: &Member) -> bool {
        match self {
            Self::Everything => true,
            Self::Itself => this.place == other.place,
            Self::Service(..) | Self::NodePort(..) => false,
            Self::External => this.place == Place::External,
            Self::OwnNode => this.on_host && this.node == other.node,
            Self::OtherNodes => this.on_host && this.node != other.node,
            Self::Nodes(name) => {
                this.on_host && this.node.as_ref().is_some_and(|node| name.matches(node))
            }
            Self::Pods(namespace, name) => holds_pod(namespace, name, this),
            Self::Workload(namespace, kind, name) => holds_workload(namespace, kind, name, this),
            Self::Labels(namespace, namespaces, pods) => match &this.place {
                Place::Pod(key) => {
                    !this.on_host
                        && namespace.as_ref().is_none_or(|name| **name == *key.namespace)
                        && namespaces.matches(&this.namespace_labels)
                        && pods.matches(&this.labels)
                }
                Place::Node(_) | Place::External => false,
            },
            Self::Network(net) => this.addresses.iter().any(|address| net.contains(address)),
        }
    }

    /// Whether the group names pairs whose connections no policy can deny.
    #[must_use]
    pub fn names_exempt_pairs(&self, side: End) -> bool {
        match self {
            Self::Itself => true,
            Self::OwnNode => side == End::Source,
            _ => false,
        }
    }
}

/// A hostNetwork pod has the addresses of its node, so only its full name selects it.
fn holds_pod(namespace: &Pattern, name: &Pattern, endpoint: &Member) -> bool {
    let Place::Pod(key) = &endpoint.place else { return false };
    let wide = *namespace == Pattern::Any || *name == Pattern::Any;
    let workload = endpoint.workload.as_ref();
    let named = name.matches(&key.name) || workload.is_some_and(|(_, own)| name.matches(own));
    namespace.matches(&key.namespace) && named && !(wide && endpoint.on_host)
}

fn holds_workload(namespace: &Pattern, kind: &str, name: &Pattern, endpoint: &Member) -> bool {
    let Place::Pod(key) = &endpoint.place else { return false };
    let is_pod = kind == "pod" && name.matches(&key.name);
    let workload = endpoint.workload.as_ref();
    let is_of = workload.is_some_and(|(own, called)| **own == *kind && name.matches(called));
    namespace.matches(&key.namespace) && (is_pod || is_of)
}

fn network(text: &str) -> Option<IpNet> {
    let address = text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    address.or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// Ports as a line names them: `80/tcp`, `80`, `icmp`, or `tcp`, `udp`, `sctp` for all of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinePorts {
    /// One port.
    One(Port),
    /// A range of ports of a protocol, from the first to the last.
    Range(Protocol, u16, u16),
    /// All ports of a protocol.
    All(Protocol),
}

impl FromStr for LinePorts {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(protocol) = protocol_by_name(text) {
            return Ok(Self::All(protocol));
        }
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let Some((first, last)) = numbers.split_once('-') else {
            return Ok(Self::One(text.parse()?));
        };
        let number = |word: &str| word.parse::<u16>().with_context(|| format!("port {text:?}"));
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last, "{text:?} begins after its end");
        Ok(Self::Range(protocol_by_name(protocol)?, first, last))
    }
}

impl LinePorts {
    /// Whether this port is one of them.
    #[must_use]
    pub fn holds(self, port: Port) -> bool {
        match self {
            Self::One(wanted) => wanted == port,
            Self::Range(protocol, first, last) => {
                matches!(port, Port::Number(own, number) if own == protocol && (first..=last).contains(&number))
            }
            Self::All(protocol) => matches!(port, Port::Number(found, _) if found == protocol),
        }
    }
}
