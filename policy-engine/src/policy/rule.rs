//! The rules of policies: which peers and ports they match.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;

use crate::labels::Str;
use crate::port::{PortRange, Protocol};
use crate::selector::Selector;

/// The number of the rule that `allowDNS` adds. Written rules count from 1.
pub const ALLOW_DNS: usize = 0;

/// The number of the rules that `allowAPIServer` adds.
pub const ALLOW_API_SERVER: usize = usize::MAX;

/// The field that adds the rule of this number; `None` for a rule that is written.
#[must_use]
pub fn adding_field(number: usize) -> Option<&'static str> {
    match number {
        ALLOW_DNS => Some("allowDNS"),
        ALLOW_API_SERVER => Some("allowAPIServer"),
        _ => None,
    }
}

/// One ingress or egress rule: it matches traffic when one of its peers and one of its ports match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// The peers at the other end of the connection (`from` or `to`).
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

impl Rule {
    /// The rule for pods of `namespace`, which replaces [`Namespaces::Own`].
    #[must_use]
    pub fn in_namespace(&self, namespace: &Str) -> Cow<'_, Self> {
        if !self.depends_on_namespace() {
            return Cow::Borrowed(self);
        }
        let mut rule = self.clone();
        if let Peers::Listed(peers) = &mut rule.peers {
            for peer in peers {
                if let Peer::Pods(PodPeer { namespaces: own @ Namespaces::Own, .. }) = peer {
                    *own = Namespaces::Named(namespace.clone());
                }
            }
        }
        Cow::Owned(rule)
    }

    /// The number of its peers and of the networks in their `except`, times the number of its ports.
    pub(crate) fn size(&self) -> usize {
        let networks = |peer: &Peer| match peer {
            Peer::Block(block) => block.except.len(),
            Peer::Pods(_) | Peer::Nodes(_) | Peer::Invalid => 0,
        };
        let peers = match &self.peers {
            Peers::Any => 1,
            Peers::Listed(items) => items.len() + items.iter().map(networks).sum::<usize>(),
        };
        let ports = match &self.ports {
            Ports::Any => 1,
            Ports::Listed(items) => items.len(),
        };
        peers * ports
    }

    /// The names of its ports.
    pub(crate) fn port_names(&self) -> impl Iterator<Item = &Str> {
        self.ports.listed().iter().filter_map(|item| match item {
            PortMatch::Named(_, name) => Some(name),
            PortMatch::Numbers(..) | PortMatch::Invalid => None,
        })
    }

    /// Whether one of its peers is nodes.
    pub(super) fn names_nodes(&self) -> bool {
        self.peers.listed().iter().any(|peer| matches!(peer, Peer::Nodes(_)))
    }

    /// Whether the rule differs from namespace to namespace: see [`Namespaces::Own`].
    pub(super) fn depends_on_namespace(&self) -> bool {
        let own =
            |peer: &Peer| matches!(peer, Peer::Pods(PodPeer { namespaces: Namespaces::Own, .. }));
        self.peers.listed().iter().any(own)
    }
}

/// The peers of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peers {
    /// A missing or empty `from` or `to`: every address, external addresses included.
    Any,
    /// The items of the list, of which one must match.
    Listed(Vec<Peer>),
}

impl Peers {
    /// The items of the list; empty for [`Peers::Any`], which is not the same as an empty list.
    #[must_use]
    pub fn listed(&self) -> &[Peer] {
        match self {
            Self::Any => &[],
            Self::Listed(items) => items,
        }
    }
}

/// The ports of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ports {
    /// Missing or empty `ports`: every port of every protocol, and protocols without ports.
    Any,
    /// The items of the list, of which one must match.
    Listed(Vec<PortMatch>),
}

impl Ports {
    /// The items of the list; empty for [`Ports::Any`], which is not the same as an empty list.
    #[must_use]
    pub fn listed(&self) -> &[PortMatch] {
        match self {
            Self::Any => &[],
            Self::Listed(items) => items,
        }
    }
}

/// One item of `from` or `to`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// Pods by labels. Never matches external addresses, nodes or hostNetwork pods.
    Pods(PodPeer),
    /// Addresses, the addresses of pods included.
    Block(IpBlock),
    /// Nodes by labels, with the hostNetwork pods on them; only in egress rules of a
    /// ClusterNetworkPolicy.
    Nodes(Selector),
    /// An item that could not be understood; it matches nothing.
    Invalid,
}

/// Pods by the labels of their namespace and by their own labels: both must match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodPeer {
    /// The namespaces of the pods.
    pub namespaces: Namespaces,
    /// The labels of the pods.
    pub pods: Selector,
}

/// One label of the namespace and one of the pod that every match of a peer must have, as the key of
/// an index.
pub(crate) type Required = (RequiredNamespace, Option<(Str, Str)>);

/// What every match of a peer must have of its namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum RequiredNamespace {
    /// This name.
    Named(Str),
    /// This value of this label.
    Labelled(Str, Str),
    /// Nothing that is known.
    Unknown,
}

impl PodPeer {
    /// What every match must have.
    pub(crate) fn required(&self) -> Required {
        let owned = |(key, value): (&Str, &Str)| (key.clone(), value.clone());
        let namespace = match &self.namespaces {
            Namespaces::Named(name) => RequiredNamespace::Named(name.clone()),
            Namespaces::Selected(selector) => match selector.required_label().map(owned) {
                Some((key, value)) => RequiredNamespace::Labelled(key, value),
                None => RequiredNamespace::Unknown,
            },
            Namespaces::Own => RequiredNamespace::Unknown,
        };
        (namespace, self.pods.required_label().map(owned))
    }
}

/// The namespaces of a peer's pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Namespaces {
    /// One namespace by name: that of the policy, when there is no `namespaceSelector`.
    Named(Str),
    /// The namespaces whose labels match. `{}` also matches a namespace that is not known yet; no
    /// other selector does.
    Selected(Selector),
    /// The namespace of the pod that the policy applies to. [`Rule::in_namespace`] replaces it; it
    /// matches nothing as it is.
    Own,
}

/// An `ipBlock`: inside `cidr` and inside none of `except`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IpBlock {
    /// The block, host bits cleared.
    pub cidr: IpNet,
    /// The networks that are excluded from it.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the block contains `address`. IPv4 blocks never contain IPv6 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

/// One item of `ports`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortMatch {
    /// Destination ports by number; [`PortRange::ALL`] where `port` is missing.
    Numbers(Protocol, PortRange),
    /// A container port by name; each destination pod resolves it.
    Named(Protocol, Str),
    /// An item that could not be understood; it matches nothing.
    Invalid,
}

/// The address at which NodeLocal DNSCache listens on each node, according to its manifest.
const NODE_LOCAL_DNS: [u8; 4] = [169, 254, 20, 10];

/// UDP and TCP 53 to the pods of `kube-system` that are labelled as cluster DNS (`k8s-app:
/// kube-dns`, which CoreDNS has too), and to NodeLocal DNSCache.
#[must_use]
pub fn dns_rule() -> &'static Rule {
    static RULE: LazyLock<Rule> = LazyLock::new(|| {
        let pods = PodPeer {
            namespaces: Namespaces::Named("kube-system".into()),
            pods: Selector::label("k8s-app", "kube-dns"),
        };
        let local = IpBlock { cidr: IpAddr::from(NODE_LOCAL_DNS).into(), except: Vec::new() };
        let ports = [Protocol::Udp, Protocol::Tcp];
        let ports = ports.map(|protocol| PortMatch::Numbers(protocol, PortRange::single(53)));
        Rule {
            peers: Peers::Listed(vec![Peer::Pods(pods), Peer::Block(local)]),
            ports: Ports::Listed(ports.into()),
        }
    });
    &RULE
}

/// Rules that match exactly these addresses, each with its ports.
#[must_use]
pub fn api_server_rules<'a>(
    addresses: impl IntoIterator<Item = &'a (IpAddr, Protocol, u16)>,
) -> Arc<[Rule]> {
    let mut ports: BTreeMap<IpAddr, BTreeSet<(Protocol, u16)>> = BTreeMap::new();
    for (address, protocol, number) in addresses {
        ports.entry(*address).or_default().insert((*protocol, *number));
    }
    // Addresses with the same ports share a rule.
    let mut peers: BTreeMap<BTreeSet<(Protocol, u16)>, Vec<Peer>> = BTreeMap::new();
    for (address, ports) in ports {
        let block = IpBlock { cidr: address.into(), except: Vec::new() };
        peers.entry(ports).or_default().push(Peer::Block(block));
    }
    let rule = |(ports, peers): (BTreeSet<(Protocol, u16)>, _)| {
        let ports = ports.into_iter();
        let ports =
            ports.map(|(protocol, number)| PortMatch::Numbers(protocol, PortRange::single(number)));
        Rule { peers: Peers::Listed(peers), ports: Ports::Listed(ports.collect()) }
    };
    peers.into_iter().map(rule).collect()
}
