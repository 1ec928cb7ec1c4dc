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
    /// Of addresses.
    Address,
    /// Of addresses with a protocol and a port.
    AddressPort,
    /// Of networks.
    Network,
}

impl Kind {
    /// All types that are ever created.
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
    /// In a [`Kind::Address`].
    Address(IpAddr),
    /// In a [`Kind::AddressPort`].
    AddressPort(IpAddr, Protocol, u16),
    /// In a [`Kind::Network`].
    Network(IpNet),
    /// What somebody else put there and we would not: it only ever gets deleted.
    Unknown(String),
}

impl Element {
    /// The element for `member`; none for the address zero, which the kernel does not store.
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

/// A set as it should be. Its members stay where they are: sets are as big as the cluster.
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
    /// In the engine's set, with those of the other family.
    Engine(SetId),
    /// Here. The set's name is a hash of them: they never change.
    Networks(Vec<IpNet>),
    /// Here: addresses of the node's own pods.
    Local(BTreeSet<Element>),
}

impl DesiredSet {
    /// All its elements. `sets` are those of the engine.
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

    /// What of `delta` concerns this set: added and removed elements.
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
