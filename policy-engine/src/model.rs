//! The objects that policies speak about, and how they change.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::labels::{Labels, Str};
use crate::object::{Kind, ObjectRef};
use crate::policy::Policy;
use crate::port::Protocol;

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

impl Pod {
    /// Whether policies can select and match the pod: it has, or will have, an address of its own.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        !self.host_network && self.life != Life::Finished
    }
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
    /// A policy of any kind.
    Policy(ObjectRef, Option<Arc<Policy>>),
}

impl Change {
    /// The name of the object.
    #[must_use]
    pub fn object(&self) -> ObjectRef {
        match self {
            Self::Pod(key, _) => key.into(),
            Self::Namespace(name, _) => ObjectRef::cluster(Kind::Namespace, name.clone()),
            Self::Node(name, _) => ObjectRef::cluster(Kind::Node, name.clone()),
            Self::Policy(name, _) => name.clone(),
        }
    }

    /// The change that removes an object; `None` for kinds that mean nothing to the engine.
    #[must_use]
    pub fn removal(object: ObjectRef) -> Option<Self> {
        let ObjectRef { kind, namespace, name } = object;
        Some(match kind {
            Kind::Pod => Self::Pod(PodKey { namespace, name }, None),
            Kind::Namespace => Self::Namespace(name, None),
            Kind::Node => Self::Node(name, None),
            _ if kind.is_policy() => Self::Policy(ObjectRef { kind, namespace, name }, None),
            _ => return None,
        })
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Pod(_, pod) => pod.is_none(),
            Self::Namespace(_, namespace) => namespace.is_none(),
            Self::Node(_, node) => node.is_none(),
            Self::Policy(_, policy) => policy.is_none(),
        }
    }
}

impl From<Policy> for Change {
    /// The change that adds or replaces a policy.
    fn from(policy: Policy) -> Self {
        Self::Policy(policy.name.clone(), Some(Arc::new(policy)))
    }
}

impl From<&PodKey> for ObjectRef {
    fn from(pod: &PodKey) -> Self {
        Self::new(Kind::Pod, pod.namespace.clone(), pod.name.clone())
    }
}
