//! The endpoints and ports that a line of a test can name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result};
use policy_engine::cidr::Family;
use policy_engine::flow::Traffic;
use policy_engine::labels::{Labels, Str};
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;

/// An endpoint that can open and accept connections: a running pod, a node, or the external host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The place where it runs.
    pub place: Place,
    /// The node that it is on, or its own name if it is a node.
    pub node: Option<String>,
    /// Whether it has its node's addresses: a node, or a pod with hostNetwork.
    pub on_host: bool,
    /// Its addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// The labels of a pod.
    pub labels: Labels,
    /// The labels of a pod's namespace.
    pub namespace_labels: Labels,
    /// Kind in lower case and name of what controls a pod.
    pub workload: Option<(Str, Str)>,
}

/// The place where a connection starts or ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A pod, in the network namespace that it has.
    Pod(PodKey),
    /// A node itself.
    Node(String),
    /// The host outside of the cluster.
    External,
}

impl Member {
    /// A member without addresses, labels and a node.
    #[must_use]
    pub fn nobody(place: Place) -> Self {
        Self {
            place,
            node: None,
            on_host: false,
            addresses: Vec::new(),
            labels: Labels::default(),
            namespace_labels: Labels::default(),
            workload: None,
        }
    }

    /// The address of one family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => key.fmt(formatter),
            Self::Node(name) => write!(formatter, "node/{name}"),
            Self::External => formatter.write_str("external"),
        }
    }
}

/// A port or protocol: written `80/tcp`, `80/udp`, `80/sctp` or `icmp`; `80` is `80/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Port {
    /// A protocol with ports.
    Number(Protocol, u16),
    /// An echo request of the family.
    Icmp,
}

impl Port {
    /// The traffic of such a flow in the engine.
    #[must_use]
    pub fn traffic(self) -> Traffic {
        match self {
            Self::Number(protocol, number) => Traffic::Port(protocol, number),
            Self::Icmp => Traffic::Other,
        }
    }
}

impl FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol_by_name(protocol).with_context(|| format!("port {text:?}"))?;
        let number = number.parse().with_context(|| format!("port {text:?}"))?;
        Ok(Self::Number(protocol, number))
    }
}

/// The protocol that a case file calls `tcp`, `udp` or `sctp`.
pub(super) fn protocol_by_name(name: &str) -> Result<Protocol> {
    let mut all = Protocol::ALL.into_iter();
    all.find(|protocol| protocol.as_str().to_lowercase() == name)
        .with_context(|| format!("unknown protocol {name:?}: there are tcp, udp, sctp and icmp"))
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(protocol, number) => {
                write!(formatter, "{number}/{}", protocol.as_str().to_lowercase())
            }
            Self::Icmp => formatter.write_str("icmp"),
        }
    }
}

/// The probes that steps send to every pod, besides the `ports` of their file.
///
/// Nodes, hostNetwork pods and the external host are not probed with SCTP.
pub const PORTS: [Port; 6] = [
    Port::Number(Protocol::Tcp, 80),
    Port::Number(Protocol::Tcp, 81),
    Port::Number(Protocol::Udp, 80),
    Port::Number(Protocol::Udp, 81),
    Port::Number(Protocol::Sctp, 80),
    Port::Icmp,
];
