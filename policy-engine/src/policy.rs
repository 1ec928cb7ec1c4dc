//! NetworkPolicy as the engine knows it: defaulted, resolved to its namespace, never invalid.
//!
//! What an API object means is decided where it becomes one of these values (the `crds` crate):
//! a part that could not be understood is still here, as a value that matches nothing, so that
//! rules keep the numbers that their author sees.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::labels::Str;
use crate::model::Direction;
use crate::port::{PortRange, Protocol};
use crate::selector::Selector;
use crate::tier::Mode;

/// The name of a policy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PolicyKey {
    /// The namespace it lives in and selects pods of.
    pub namespace: Str,
    /// Its name there.
    pub name: Str,
}

impl PolicyKey {
    /// The key of `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: PolicyKey,
    /// Which pods of the namespace it isolates (`spec.podSelector`).
    pub subject: Selector,
    /// The ingress rules, or `None` when the policy does not isolate for ingress.
    pub ingress: Option<Vec<Rule>>,
    /// The egress rules, or `None` when the policy does not isolate for egress.
    pub egress: Option<Vec<Rule>>,
    /// Whether it decides (annotation `portcullis.dev/mode`).
    pub mode: Mode,
    /// `metadata.generation`, which reports repeat: not part of what the policy means.
    pub generation: Option<i64>,
}

impl NetworkPolicy {
    /// The rules for `direction`; `None` when the policy does not isolate for it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One ingress or egress rule: admits what one of the peers and one of the ports match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// The other side of the connection (`from` or `to`).
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

impl Rule {
    /// The rule for pods of `namespace`: [`Namespaces::Own`] becomes that.
    #[must_use]
    pub fn in_namespace(&self, namespace: &Str) -> Self {
        let mut rule = self.clone();
        if let Peers::Listed(peers) = &mut rule.peers {
            for peer in peers {
                if let Peer::Pods(PodPeer { namespaces: own @ Namespaces::Own, .. }) = peer {
                    *own = Namespaces::Named(namespace.clone());
                }
            }
        }
        rule
    }
}

/// The peers of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peers {
    /// A missing or empty `from`/`to`: every address, external ones included.
    Any,
    /// One of these.
    Listed(Vec<Peer>),
}

/// The ports of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ports {
    /// Missing or empty `ports`: every port of every protocol, and protocols without ports.
    Any,
    /// One of these.
    Listed(Vec<PortMatch>),
}

/// One item of `from` or `to`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// Pods by labels. Never matches external addresses, nodes or hostNetwork pods.
    Pods(PodPeer),
    /// Addresses, those of pods included.
    Block(IpBlock),
    /// Nodes by labels, with the hostNetwork pods on them; only in a ClusterNetworkPolicy's egress.
    Nodes(Selector),
    /// Could not be understood: matches nothing.
    Invalid,
}

/// Pods by the labels of their namespace and their own: both must match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodPeer {
    /// In which namespaces.
    pub namespaces: Namespaces,
    /// Which pods there.
    pub pods: Selector,
}

/// Which namespaces a peer's pods are taken from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Namespaces {
    /// One by name: the policy's own, when there is no `namespaceSelector`.
    Named(Str),
    /// Those whose labels match. A namespace that is not known matches where all are meant.
    Selected(Selector),
    /// That of the pod which the policy isolates: only in a ClusterDefaultNetworkPolicy, whose
    /// rules are asked for by namespace. Matches nothing by itself.
    Own,
}

/// An `ipBlock`: inside `cidr` and inside none of `except`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IpBlock {
    /// The block, host bits cleared.
    pub cidr: IpNet,
    /// What is taken out of it.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the block admits `address`. IPv4 blocks never contain IPv6 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

/// One item of `ports`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortMatch {
    /// Destination ports by number; a missing `port` is [`PortRange::ALL`].
    Numbers(Protocol, PortRange),
    /// A container port by name, resolved on each destination pod.
    Named(Protocol, Str),
    /// Could not be understood: matches nothing.
    Invalid,
}
