//! Sets and their elements as values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::compiled::{AddressSet, Member, SetDelta, SetKind};
use policy_engine::id::SetId;
use policy_engine::port::Protocol;

/// A type of set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A set of addresses.
    Address,
    /// A set of addresses with a protocol and a port.
    AddressPort,
    /// A set of networks.
    Network,
}

impl Kind {
    /// All types that are created.
    pub const ALL: [Self; 3] = [Self::Address, Self::AddressPort, Self::Network];
}

impl From<SetKind> for Kind {
    fn from(kind: SetKind) -> Self {
        match kind {
            SetKind::Addresses => Self::Address,
            SetKind::AddressPorts => Self::AddressPort,
        }
    }
}

/// One element of a set in the kernel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Element {
    /// An element of a [`Kind::Address`].
    Address(IpAddr),
    /// An element of a [`Kind::AddressPort`].
    AddressPort(IpAddr, Protocol, u16),
    /// An element of a [`Kind::Network`].
    Network(IpNet),
    /// An element of another program that we would not add. Such an element is only deleted.
    Unknown(String),
}

impl Element {
    /// The element for `member`; `None` for the address zero, which the kernel does not store.
    #[must_use]
    pub fn of(member: &Member) -> Option<Self> {
        if member.address().is_unspecified() {
            return None;
        }
        Some(match *member {
            Member::Address(address) => Self::Address(address),
            Member::AddressPort(address, protocol, port) => {
                Self::AddressPort(address, protocol, port)
            }
        })
    }
}

/// A desired set. Its members are not copied: a set may be as big as the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredSet {
    /// Its type.
    pub kind: Kind,
    /// Its family.
    pub family: Family,
    /// Where its members are.
    pub source: Source,
}

/// Where the members of a desired set are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the engine's set, which has the members of both families.
    Engine(SetId),
    /// Networks, in this value. The set's name is a hash of them, so they never change.
    Networks(Vec<IpNet>),
    /// Addresses of the node's own pods, in this value.
    Local(BTreeSet<Element>),
}

impl DesiredSet {
    /// All elements of the set. `sets` are those of the engine.
    #[must_use]
    pub fn elements(&self, sets: &BTreeMap<SetId, AddressSet>) -> BTreeSet<Element> {
        match &self.source {
            Source::Engine(id) => {
                let members = sets.get(id).map(|set| of_family(&set.members, self.family));
                members.into_iter().flatten().collect()
            }
            Source::Networks(networks) => networks.iter().copied().map(Element::Network).collect(),
            Source::Local(elements) => elements.clone(),
        }
    }

    /// The changes of this set in `delta`: added and removed elements.
    #[must_use]
    pub fn delta(&self, delta: &SetDelta) -> (BTreeSet<Element>, BTreeSet<Element>) {
        let added = of_family(&delta.added, self.family).collect();
        (added, of_family(&delta.removed, self.family).collect())
    }
}

fn of_family(members: &BTreeSet<Member>, family: Family) -> impl Iterator<Item = Element> {
    members
        .iter()
        .filter(move |member| Family::of(member.address()) == family)
        .filter_map(Element::of)
}
