//! The objects that policies speak about, and how they change.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::labels::{Labels, Str};
use crate::policy::{NetworkPolicy, PolicyKey};
use crate::port::Protocol;
use crate::tier::{ClusterDefaultNetworkPolicy, ClusterNetworkPolicy};

/// Whose traffic a rule restricts: what arrives at the pod, or what it sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both, in canonical order.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name that the Kubernetes API uses in `policyTypes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The name of a pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: Str,
    /// Its name there.
    pub name: Str,
}

impl PodKey {
    /// The key of `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, cut down to what policies can see of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<Str>,
    /// `status.podIPs`: none while pending.
    pub addresses: Vec<IpAddr>,
    /// Container ports that have a name, of containers and sidecars.
    pub ports: Vec<NamedPort>,
    /// `spec.hostNetwork`: its traffic is its node's; neither subject nor peer.
    pub host_network: bool,
    /// Where it stands in its life.
    pub life: Life,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 when unknown.
    pub created: i64,
}

/// Where a pod stands in its life.
///
/// The order tells who owns an address that two pods claim: the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Life {
    /// Phase `Succeeded` or `Failed`: neither subject nor peer.
    Finished,
    /// Being deleted: both, until the object is gone.
    Terminating,
    /// Neither of these.
    Active,
}

/// A container port with a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NamedPort {
    /// The name that policies use.
    pub name: Str,
    /// The protocol the container declares for it.
    pub protocol: Protocol,
    /// The port number.
    pub number: u16,
}

/// A namespace: its name is the key it is stored under.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Namespace {
    /// `metadata.labels`, `kubernetes.io/metadata.name` included.
    pub labels: Labels,
}

/// A node: its name is the key it is stored under.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Node {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// One object as it is now; `None` when it is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A pod.
    Pod(PodKey, Option<Arc<Pod>>),
    /// A namespace.
    Namespace(Str, Option<Namespace>),
    /// A node.
    Node(Str, Option<Node>),
    /// A policy.
    NetworkPolicy(PolicyKey, Option<Arc<NetworkPolicy>>),
    /// A policy of the tiers Admin and Baseline.
    ClusterNetworkPolicy(Str, Option<Arc<ClusterNetworkPolicy>>),
    /// A policy of the tier Default.
    ClusterDefaultNetworkPolicy(Str, Option<Arc<ClusterDefaultNetworkPolicy>>),
}
