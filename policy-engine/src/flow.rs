//! The questions that the engine answers: can one endpoint connect to another?

use std::fmt;
use std::net::IpAddr;

use crate::direction::Direction;
use crate::labels::Str;
use crate::model::PodKey;
use crate::port::Protocol;

/// A new connection, or the first packet of one. Ports are those of the pod, after Service
/// translation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Flow {
    /// The endpoint that connects.
    pub source: Endpoint,
    /// The endpoint that it connects to.
    pub destination: Endpoint,
    /// The protocol and port.
    pub traffic: Traffic,
}

impl Flow {
    /// The endpoint whose policies restrict `direction`, and its peer.
    #[must_use]
    pub fn sides(&self, direction: Direction) -> (&Endpoint, &Endpoint) {
        match direction {
            Direction::Ingress => (&self.destination, &self.source),
            Direction::Egress => (&self.source, &self.destination),
        }
    }
}

/// One side of a flow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Endpoint {
    /// A pod. While it is pending it has no address, and no `ipBlock` matches it.
    Pod(PodKey, Option<IpAddr>),
    /// A node, or a hostNetwork pod on it.
    Node(Str, Option<IpAddr>),
    /// An address that no pod and no node owns.
    External(IpAddr),
}

impl Endpoint {
    /// The address, where it is known.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Pod(_, address) | Self::Node(_, address) => *address,
            Self::External(address) => Some(*address),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key, _) => key.fmt(formatter),
            Self::Node(name, _) => write!(formatter, "node/{name}"),
            Self::External(address) => address.fmt(formatter),
        }
    }
}

/// Protocol and destination port of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Traffic {
    /// A protocol with ports, and the destination port.
    Port(Protocol, u16),
    /// ICMP or any other protocol without ports: only rules without ports allow it.
    Other,
}

impl fmt::Display for Traffic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(formatter, "{protocol} {port}"),
            Self::Other => formatter.write_str("a protocol without ports"),
        }
    }
}
