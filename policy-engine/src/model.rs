//! The objects that policies select and match, and how they change.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::addresses::Addresses;
use crate::labels::{Labels, Str};
use crate::object::{Kind, ObjectRef};
use crate::policy::Policy;
use crate::port::Protocol;

/// The name of a pod. It is a single pointer, since a pod is found by its name in several maps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey(Arc<PodName>);

/// What a [`PodKey`] points to.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodName {
    /// Its namespace.
    pub namespace: Str,
    /// Its name in that namespace.
    pub name: Str,
}

impl PodKey {
    /// The key of `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self::of(namespace.into(), name.into())
    }

    /// The key of a pod in `namespace`, which shares both texts.
    #[must_use]
    pub fn of(namespace: Str, name: Str) -> Self {
        Self(Arc::new(PodName { namespace, name }))
    }
}

impl Deref for PodKey {
    type Target = PodName;

    fn deref(&self) -> &PodName {
        &self.0
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodName { namespace, name } = &**self;
        formatter.debug_struct("PodKey").field("namespace", namespace).field("name", name).finish()
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, reduced to the fields that policies depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<Str>,
    /// `status.podIPs`: none while pending.
    pub addresses: Addresses,
    /// Container ports that have a name, of containers and sidecars. Replicas share them.
    pub ports: Arc<[NamedPort]>,
    /// `spec.hostNetwork`: its traffic is the traffic of its node; policies neither select nor
    /// match it.
    pub host_network: bool,
    /// The stage of its life cycle.
    pub life: Life,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 when unknown.
    pub created: i64,
    /// What the annotation of the pod asks for: networks whose addresses it also sends from and
    /// receives at. Policies do not match them; a dataplane may grant them.
    pub extra_source_ranges: Box<[IpNet]>,
}

impl Pod {
    /// An active pod that has no addresses and no ports yet.
    #[must_use]
    pub fn new(key: PodKey, labels: Labels) -> Self {
        Self {
            key,
            labels,
            node: None,
            addresses: Addresses::default(),
            ports: Arc::default(),
            host_network: false,
            life: Life::Active,
            created: 0,
            extra_source_ranges: Box::default(),
        }
    }

    /// Whether policies can select and match the pod: it has, or will have, an address of its own.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        !self.host_network && self.life != Life::Finished
    }
}

/// The stage of a pod's life cycle.
///
/// When two pods claim an address, the pod with the greater value owns it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Life {
    /// Phase `Succeeded` or `Failed`: policies neither select nor match it.
    Finished,
    /// The pod is being deleted: policies select and match it until the object is removed.
    Terminating,
    /// Every other pod.
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

/// A namespace. Its name is the key under which it is stored.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Namespace {
    /// `metadata.labels`, `kubernetes.io/metadata.name` included.
    pub labels: Labels,
}

/// A node. Its name is the key under which it is stored.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Node {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// The new state of one object; `None` when it was deleted.
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
    /// An EndpointSlice or Endpoints object that lists addresses of the API server, each with its
    /// protocol and port.
    ApiServer(ObjectRef, Option<ApiServerAddresses>),
}

/// Addresses of the API server, each with its protocol and port.
pub type ApiServerAddresses = Arc<[(IpAddr, Protocol, u16)]>;

impl Change {
    /// The name of the object.
    #[must_use]
    pub fn object(&self) -> ObjectRef {
        match self {
            Self::Pod(key, _) => key.into(),
            Self::Namespace(name, _) => ObjectRef::cluster(Kind::Namespace, name.clone()),
            Self::Node(name, _) => ObjectRef::cluster(Kind::Node, name.clone()),
            Self::Policy(name, _) | Self::ApiServer(name, _) => name.clone(),
        }
    }

    /// The change that removes an object; `None` for kinds that the engine does not store.
    #[must_use]
    pub fn removal(object: ObjectRef) -> Option<Self> {
        let ObjectRef { kind, namespace, name } = object;
        Some(match kind {
            Kind::Pod => Self::Pod(PodKey::of(namespace, name), None),
            Kind::Namespace => Self::Namespace(name, None),
            Kind::Node => Self::Node(name, None),
            Kind::EndpointSlice | Kind::Endpoints => {
                Self::ApiServer(ObjectRef { kind, namespace, name }, None)
            }
            _ if kind.is_policy() => Self::Policy(ObjectRef { kind, namespace, name }, None),
            _ => return None,
        })
    }

    /// Whether the object was deleted.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        match self {
            Self::Pod(_, pod) => pod.is_none(),
            Self::Namespace(_, namespace) => namespace.is_none(),
            Self::Node(_, node) => node.is_none(),
            Self::Policy(_, policy) => policy.is_none(),
            Self::ApiServer(_, addresses) => addresses.is_none(),
        }
    }
}

impl From<Policy> for Change {
    /// The change that adds or replaces a policy.
    fn from(policy: Policy) -> Self {
        Self::Policy(policy.name.clone(), Some(Arc::new(policy)))
    }
}

impl From<Pod> for Change {
    /// The change that adds or replaces a pod.
    fn from(pod: Pod) -> Self {
        Self::Pod(pod.key.clone(), Some(Arc::new(pod)))
    }
}

impl From<&PodKey> for ObjectRef {
    fn from(pod: &PodKey) -> Self {
        Self::new(Kind::Pod, pod.namespace.clone(), pod.name.clone())
    }
}
