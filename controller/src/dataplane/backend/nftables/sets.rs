//! Sets and their elements as nftables holds them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::id::ContentHasher;
use policy_engine::port::{PortRange, Protocol};

use super::encode::protocol_number;
use super::expression::{Outcome, address_bytes, value};
use crate::dataplane::netlink::attributes::{self, Attributes};
use crate::dataplane::set::{Element, Kind};

/// `NFT_SET_ANONYMOUS`, `_CONSTANT`, `_INTERVAL`, `_MAP`, `_TIMEOUT`, `_EVAL`.
pub(super) const ANONYMOUS: u32 = 1;
pub(super) const CONSTANT: u32 = 2;
pub(super) const INTERVAL: u32 = 4;
pub(super) const MAP: u32 = 8;
pub(super) const TIMEOUT: u32 = 16;
pub(super) const EVAL: u32 = 32;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// `NFT_DATA_VERDICT`.
const VERDICTS: u32 = 0xffff_ff00;

/// The numbers by which `nft` knows protocols and ports.
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;

/// User data by which `nft` prints names in the order of their bytes: `NFTNL_UDATA_SET_KEYBYTEORDER`, four
/// bytes, and the number that `nft` has for the order of the host. The kernel only keeps it.
const NAMES_OF_THE_HOST: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// How many bytes of elements go into one message; an attribute has 64 KiB at most.
const ELEMENTS_BYTES: usize = 48 * 1024;

/// The type of the keys of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyType {
    Address(Family),
    AddressPort(Family),
    Port,
    Interface,
}

impl KeyType {
    /// The number of the type in `nft`, and the bytes of a key. The kernel only stores the number.
    pub(super) fn number(self) -> (u32, u32) {
        let address = |family| match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        match self {
            Self::Address(family) => address(family),
            Self::AddressPort(family) => {
                let (kind, bytes) = address(family);
                (kind << 12 | INET_PROTO << 6 | INET_SERVICE, bytes + 8)
            }
            Self::Port => (INET_SERVICE, 2),
            Self::Interface => (41, 16),
        }
    }
}

/// The type of the keys of a set with a name, and its flags.
pub(super) fn shape(kind: Kind, family: Family) -> (KeyType, u32) {
    match kind {
        Kind::Address => (KeyType::Address(family), 0),
        Kind::AddressPort => (KeyType::AddressPort(family), 0),
        Kind::Network => (KeyType::Address(family), INTERVAL),
    }
}

/// The attributes that create a set: `NFTA_SET_…`, behind the table and the name.
pub(super) fn header(to: Attributes, key: KeyType, flags: u32) -> Attributes {
    let (kind, bytes) = key.number();
    let to = to.number(3, flags).number(4, kind).number(5, bytes);
    let to = if key == KeyType::Interface { to.bytes(13, &NAMES_OF_THE_HOST) } else { to };
    if flags & MAP == 0 { to } else { to.number(6, VERDICTS).number(7, 0) }
}

/// A set that one rule alone uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OwnSet {
    pub key: KeyType,
    pub flags: u32,
    elements: Vec<(Vec<u8>, u32, Option<Outcome>)>,
}

impl OwnSet {
    /// A map from keys to verdicts.
    pub(super) fn map(key: KeyType, elements: BTreeMap<Vec<u8>, Outcome>) -> Self {
        let elements = elements.into_iter().map(|(key, outcome)| (key, 0, Some(outcome)));
        Self { key, flags: ANONYMOUS | CONSTANT | MAP, elements: elements.collect() }
    }

    /// A set of ports, disjoint and ascending.
    pub(super) fn ports(ranges: &[PortRange]) -> Self {
        let bytes = |port: u16| port.to_be_bytes().to_vec();
        if ranges.iter().all(|range| range.count() == 1) {
            let elements = ranges.iter().map(|range| (bytes(range.first()), 0, None)).collect();
            return Self { key: KeyType::Port, flags: ANONYMOUS | CONSTANT, elements };
        }
        let elements = ranges.iter().flat_map(|range| {
            let end = range.last().checked_add(1).map(|end| (bytes(end), INTERVAL_END, None));
            [Some((bytes(range.first()), 0, None)), end]
        });
        let elements = elements.flatten().collect();
        Self { key: KeyType::Port, flags: ANONYMOUS | CONSTANT | INTERVAL, elements }
    }

    /// Adds the definition and the elements of the set to a hash.
    pub(super) fn hash(&self, hasher: &mut ContentHasher) {
        hasher.number(self.elements.len());
        hasher.bytes(&self.flags.to_be_bytes());
        for element in self.attributes() {
            hasher.bytes(&element.0);
        }
    }

    /// Its elements, in parts for one message each.
    pub(super) fn parts(&self) -> Vec<Attributes> {
        parts(self.attributes())
    }

    fn attributes(&self) -> impl Iterator<Item = Attributes> {
        self.elements.iter().map(|(key, flags, outcome)| attributes(key, *flags, outcome.as_ref()))
    }
}

/// `NFTA_SET_ELEM_…`.
fn attributes(key: &[u8], flags: u32, outcome: Option<&Outcome>) -> Attributes {
    let element = Attributes::default().nest(1, value(key));
    let element = match outcome {
        Some(outcome) => element.nest(2, outcome.data()),
        None => element,
    };
    if flags == 0 { element } else { element.number(3, flags) }
}

/// Elements of a set with a name, in parts for one message each.
pub(super) fn element_parts<'a>(elements: impl Iterator<Item = &'a Element>) -> Vec<Attributes> {
    parts(elements.flat_map(keys).map(|(key, flags)| attributes(&key, flags, None)))
}

fn parts(elements: impl Iterator<Item = Attributes>) -> Vec<Attributes> {
    let mut parts: Vec<Attributes> = Vec::new();
    for element in elements {
        match parts.last_mut() {
            Some(part) if part.0.len() < ELEMENTS_BYTES => {
                *part = std::mem::take(part).nest(1, element);
            }
            _ => parts.push(Attributes::default().nest(1, element)),
        }
    }
    parts
}

/// The kernel's form of an element: its key, or the two ends of an interval.
fn keys(element: &Element) -> Vec<(Vec<u8>, u32)> {
    match element {
        Element::Address(address) => vec![(address_bytes(*address), 0)],
        Element::AddressPort(address, protocol, port) => {
            let mut key = address_bytes(*address);
            key.extend([protocol_number(*protocol), 0, 0, 0]);
            key.extend(port.to_be_bytes());
            key.extend([0, 0]);
            vec![(key, 0)]
        }
        Element::Network(network) => {
            let end = behind(network.broadcast());
            let end = end.map(|end| (address_bytes(end), INTERVAL_END));
            [Some((address_bytes(network.network()), 0)), end].into_iter().flatten().collect()
        }
        Element::Unknown(hex) => {
            let digits = hex.as_bytes().chunks(2).filter_map(|pair| str::from_utf8(pair).ok());
            let key = digits.map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>();
            key.map_or_else(|_| Vec::new(), |key| vec![(key, 0)])
        }
    }
}

/// The address behind `address`, if there is one.
fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|n| Ipv6Addr::from(n).into()),
    }
}

/// The elements of a set of `kind` that the kernel listed, as attributes of one each.
pub(super) fn read_elements<'a>(
    kind: Kind,
    listed: impl Iterator<Item = &'a [u8]>,
) -> BTreeSet<Element> {
    let keys = listed.filter_map(|element| {
        let key = attributes::find(attributes::find(element, 1)?, 1)?;
        let flags = attributes::find(element, 3).and_then(attributes::number).unwrap_or(0);
        Some((key, flags & INTERVAL_END != 0))
    });
    match kind {
        Kind::Network => read_networks(keys),
        Kind::Address => keys.map(|(key, _)| read(key, read_address(key))).collect(),
        Kind::AddressPort => keys.map(|(key, _)| read(key, read_address_port(key))).collect(),
    }
}

fn read(key: &[u8], element: Option<Element>) -> Element {
    let hex = || {
        key.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    };
    element.unwrap_or_else(|| Element::Unknown(hex()))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn read_address(key: &[u8]) -> Option<Element> {
    address(key).map(Element::Address)
}

fn read_address_port(key: &[u8]) -> Option<Element> {
    let (service, bytes) = (key.last_chunk::<8>()?, key.get(..key.len().checked_sub(8)?)?);
    let [protocol, 0, 0, 0, high, low, 0, 0] = *service else { return None };
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = protocols.into_iter().find(|known| protocol_number(*known) == protocol)?;
    Some(Element::AddressPort(address(bytes)?, protocol, u16::from_be_bytes([high, low])))
}

/// Networks by the ends of their intervals, in any order.
fn read_networks<'a>(keys: impl Iterator<Item = (&'a [u8], bool)>) -> BTreeSet<Element> {
    let (mut starts, mut ends) = (BTreeSet::new(), BTreeSet::new());
    for (key, is_end) in keys {
        if is_end { &mut ends } else { &mut starts }.insert(key);
    }
    let network = |start: &[u8]| {
        let first = address(start)?;
        let end =
            ends.range::<[u8], _>((std::ops::Bound::Excluded(start), std::ops::Bound::Unbounded));
        let end = end.into_iter().next().and_then(|end| address(end));
        let lengths = 0..=IpNet::from(first).max_prefix_len();
        let networks = lengths.filter_map(|length| IpNet::new(first, length).ok());
        let mut networks = networks.filter(|network| network.network() == first);
        networks.find(|network| behind(network.broadcast()) == end).map(Element::Network)
    };
    starts.iter().map(|start| read(start, network(start))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, elements: &[Element]) {
        let elements: BTreeSet<Element> = elements.iter().cloned().collect();
        let parts = element_parts(elements.iter());
        let listed = parts.iter().flat_map(|part| attributes::read(&part.0));
        assert_eq!(read_elements(kind, listed.map(|(_, element)| element)), elements);
    }

    #[test]
    fn elements_read_back_as_they_were_written() {
        let addresses = ["10.0.0.1", "10.0.0.2"].map(|a| Element::Address(a.parse().unwrap()));
        check(Kind::Address, &addresses);
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let six = "fd00::1".parse().unwrap();
        check(Kind::AddressPort, &protocols.map(|p| Element::AddressPort(six, p, 0x1234)));
    }

    #[test]
    fn networks_beside_one_another_and_at_both_ends_read_back() {
        let networks = |texts: &[&str]| {
            let network = |text: &&str| Element::Network(text.parse().unwrap());
            texts.iter().map(network).collect::<Vec<_>>()
        };
        let four = ["0.0.0.0/8", "1.0.0.0/8", "10.0.0.0/9", "10.128.0.1/32", "192.0.0.0/2"];
        check(Kind::Network, &networks(&four));
        check(Kind::Network, &networks(&["::/3", "fd00::/64", "fd00:0:0:1::/64", "ff00::/8"]));
    }

    #[test]
    fn what_is_not_ours_is_kept_as_its_bytes() {
        let unknown = Element::Unknown("0a0000010006".into());
        check(Kind::AddressPort, std::slice::from_ref(&unknown));
    }

    #[test]
    fn many_elements_are_several_messages() {
        let address = |n: u32| Element::Address(Ipv4Addr::from(n).into());
        let elements: Vec<Element> = (1..100_000).map(address).collect();
        let parts = element_parts(elements.iter());
        assert!(parts.len() > 10 && parts.iter().all(|part| part.0.len() < 65_000));
    }
}
