//! Sets and their elements, as ipset writes and reads them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::compiled::{AddressSet, Member, SetDelta, SetKind};
use policy_engine::id::SetId;
use policy_engine::port::Protocol;

/// A type of set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `hash:ip`.
    Address,
    /// `hash:ip,port`.
    AddressPort,
    /// `hash:net`.
    Network,
}

impl Kind {
    /// All types that are ever created.
    pub const ALL: [Self; 3] = [Self::Address, Self::AddressPort, Self::Network];

    /// The name ipset has for it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Address => "hash:ip",
            Self::AddressPort => "hash:ip,port",
            Self::Network => "hash:net",
        }
    }
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
    /// In a `hash:ip`.
    Address(IpAddr),
    /// In a `hash:ip,port`.
    AddressPort(IpAddr, Protocol, u16),
    /// In a `hash:net`.
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

    /// Reads what `ipset save` prints for an element of a set of `kind`.
    #[must_use]
    pub fn parse(kind: Kind, text: &str) -> Self {
        let known = match kind {
            Kind::Address => text.parse().ok().map(Self::Address),
            Kind::AddressPort => parse_address_port(text),
            Kind::Network => parse_network(text).map(Self::Network),
        };
        known.unwrap_or_else(|| Self::Unknown(text.to_owned()))
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    // A host in a hash:net is printed without its prefix length.
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn parse_address_port(text: &str) -> Option<Element> {
    let (address, service) = text.split_once(',')?;
    let (protocol, port) = service.split_once(':')?;
    let protocol = parse_protocol(protocol)?;
    Some(Element::AddressPort(address.parse().ok()?, protocol, port.parse().ok()?))
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            // ipset looks names up in /etc/protocols, which minimal images lack.
            Self::AddressPort(address, protocol, port) => {
                write!(formatter, "{address},{}:{port}", number(*protocol))
            }
            Self::Network(network) => network.fmt(formatter),
            Self::Unknown(text) => formatter.write_str(text),
        }
    }
}

/// The protocol that ipset or iptables printed: by name where /etc/protocols lists it, else by
/// number.
pub(super) fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "sctp" | "132" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The number that IANA has assigned to `protocol`.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The name of `protocol` that is built into iptables, for `-p` and `-m`.
#[must_use]
pub fn lower_case(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// A set as it ought to be. Its members stay where they are: sets are as big as the cluster.
#[derive(Clone, Debug)]
pub struct DesiredSet<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its family.
    pub family: Family,
    /// Where its members are.
    pub source: Source<'a>,
}

/// Where the members of a desired set are.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// In the engine's set, with those of the other family.
    Engine(SetId, &'a AddressSet),
    /// Here. The set's name is a hash of them: they never change.
    Networks(Vec<IpNet>),
    /// Here: the local addresses.
    Local(BTreeSet<IpAddr>),
}

impl DesiredSet<'_> {
    /// All its elements.
    #[must_use]
    pub fn elements(&self) -> BTreeSet<Element> {
        match &self.source {
            Source::Engine(_, set) => of_family(&set.members, self.family).collect(),
            Source::Networks(networks) => networks.iter().copied().map(Element::Network).collect(),
            Source::Local(addresses) => addresses.iter().copied().map(Element::Address).collect(),
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

/// `inet` or `inet6`, as ipset says.
#[must_use]
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_read_back_as_they_were_written() {
        for (kind, text) in [
            (Kind::Address, "10.0.0.1"),
            (Kind::Address, "fd00::1"),
            (Kind::AddressPort, "10.0.0.1,132:80"),
            (Kind::AddressPort, "fd00::1,17:53"),
            (Kind::Network, "10.0.0.0/8"),
            (Kind::Network, "fd00::/64"),
        ] {
            let element = Element::parse(kind, text);
            assert!(!matches!(element, Element::Unknown(_)), "{text}");
            assert_eq!(element.to_string(), text);
        }
    }

    #[test]
    fn a_protocol_is_written_as_a_number_and_read_by_name_too() {
        for (name, number) in [("tcp", "6"), ("udp", "17"), ("sctp", "132")] {
            let [named, numbered] = [name, number]
                .map(|text| Element::parse(Kind::AddressPort, &format!("fd00::1,{text}:80")));
            assert_eq!(named, numbered);
            assert_eq!(named.to_string(), format!("fd00::1,{number}:80"));
        }
        for unknown in ["10.0.0.1,udplite:80", "10.0.0.1,136:80", "10.0.0.1,06:80"] {
            let parsed = Element::parse(Kind::AddressPort, unknown);
            assert_eq!(parsed, Element::Unknown(unknown.into()));
        }
    }

    #[test]
    fn a_host_in_a_network_set_is_a_network() {
        let host = Element::Network("11.0.0.1/32".parse().unwrap());
        assert_eq!(Element::parse(Kind::Network, "11.0.0.1"), host);
    }

    #[test]
    fn what_we_would_not_write_stays_text() {
        let text = "10.0.0.0/8 nomatch";
        assert_eq!(Element::parse(Kind::Network, text), Element::Unknown(text.into()));
    }
}
