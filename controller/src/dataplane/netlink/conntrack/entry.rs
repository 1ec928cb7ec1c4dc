//! An entry of conntrack, as ctnetlink writes it. Pure: the bytes may be anything.
//!
//! ```text
//! original  10.0.1.2:40000 → 10.96.0.1:53      what the client sent
//! reply     10.0.2.7:53    → 10.0.1.2:40000    the answer: after DNAT, before SNAT
//! ```

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;

// linux/netfilter/nfnetlink_conntrack.h
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
pub(super) const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// The entry belongs to another entry: a helper expected it.
const IPS_EXPECTED: u32 = 1;
/// There were packets of both directions.
const IPS_SEEN_REPLY: u32 = 1 << 1;
// linux/netfilter/nf_conntrack_tcp.h
pub(super) const TCP_CONNTRACK_SYN_SENT: u8 = 1;
/// The bytes of `nfgenmsg`, in front of the attributes.
pub(super) const HEADER_BYTES: usize = 4;
/// The bytes of an attribute in front of its value.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The addresses, protocol and ports of a connection that the kernel tracks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Connection {
    /// The address that opened the connection.
    pub source: IpAddr,
    /// The address that the connection was opened to, for example that of a Service.
    pub dialled: IpAddr,
    /// The address that receives its packets, after DNAT.
    pub destination: IpAddr,
    /// The address that `destination` answers: differs from `source` after SNAT.
    pub answered: IpAddr,
    /// The number of the protocol.
    pub protocol: u8,
    /// The port of `source`, and that of `destination`; `None` for protocols without ports.
    pub ports: Option<(u16, u16)>,
}

impl Connection {
    /// The same connection as if its receiver had opened it, for the side without NAT.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let Self { source, destination, protocol, .. } = *self;
        let ports = self.ports.map(|(source, destination)| (destination, source));
        Self {
            source: destination,
            dialled: source,
            destination: source,
            answered: destination,
            protocol,
            ports,
        }
    }

    /// All addresses of the connection.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 4] {
        [self.source, self.dialled, self.destination, self.answered]
    }
}

/// An entry, which borrows from the message that it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The connection that the entry tracks.
    pub connection: Connection,
    /// Whether a helper expected the connection, as the data connection of FTP.
    pub is_expected: bool,
    /// Whether it is a TCP connection that was halted, see [`Deleter::halt`](super::Deleter::halt).
    pub is_halted: bool,
    /// The zone of the entry. Nearly all entries are in zone 0; Open vSwitch uses others.
    pub zone: u16,
    family: u8,
    tuple: &'a [u8],
    id: [u8; 4],
}

/// Names one entry. A later entry with the same tuple has another id in most cases, since the
/// kernel derives the id from its address in memory too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handle {
    pub(super) family: u8,
    pub(super) tuple: Box<[u8]>,
    pub(super) id: [u8; 4],
}

impl<'a> Entry<'a> {
    /// Reads a message; `None` when a part that every entry has is missing or cut off.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (family, mut zone, mut status) = (*message.first()?, 0, 0);
        let (mut original, mut reply, mut id, mut tcp_state) = (None, None, None, None);
        for (kind, value) in attributes(message.get(HEADER_BYTES..)?) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(value),
                CTA_TUPLE_REPLY => reply = Some(value),
                CTA_STATUS => status = u32::from_be_bytes(value.try_into().ok()?),
                CTA_PROTOINFO => tcp_state = self::tcp_state(value),
                CTA_ID => id = Some(value.try_into().ok()?),
                CTA_ZONE => zone = u16::from_be_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        let (tuple, reply) = (original?, Tuple::parse(reply?)?);
        let original = Tuple::parse(tuple)?;
        let connection = Connection {
            source: original.source,
            dialled: original.destination,
            destination: reply.source,
            answered: reply.destination,
            protocol: original.protocol,
            ports: original.source_port.zip(reply.source_port),
        };
        let zone = [zone, original.zone, reply.zone].into_iter().max().unwrap_or_default();
        let is_expected = status & IPS_EXPECTED != 0;
        // If a client has really sent only a SYN, no packet has answered it yet.
        let is_halted = status & IPS_SEEN_REPLY != 0 && tcp_state == Some(TCP_CONNTRACK_SYN_SENT);
        Some(Self { connection, is_expected, is_halted, zone, family, tuple, id: id? })
    }

    /// The handle that names the entry.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { family: self.family, tuple: self.tuple.into(), id: self.id }
    }
}

/// One direction of an entry.
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: Option<u16>,
    zone: u16,
}

impl Tuple {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let (mut ports, mut zone) = ([None; 2], 0);
        for (kind, value) in attributes(bytes) {
            match kind {
                CTA_TUPLE_IP => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = address(value),
                            CTA_IP_V4_DST | CTA_IP_V6_DST => destination = address(value),
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_PROTO => {
                    for (kind, value) in attributes(value) {
                        let port = || Some(u16::from_be_bytes(value.try_into().ok()?));
                        match kind {
                            CTA_PROTO_NUM => protocol = value.first().copied(),
                            CTA_PROTO_SRC_PORT => ports[0] = port(),
                            CTA_PROTO_DST_PORT => ports[1] = port(),
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_ZONE => zone = u16::from_be_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        let [source_port, destination_port] = ports;
        let source_port = source_port.filter(|_| destination_port.is_some());
        let (source, destination, protocol) = (source?, destination?, protocol?);
        Some(Self { source, destination, protocol, source_port, zone })
    }
}

/// The state of a TCP connection.
fn tcp_state(information: &[u8]) -> Option<u8> {
    let of = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted);
    let (_, tcp) = of(information, CTA_PROTOINFO_TCP)?;
    let (_, state) = of(tcp, CTA_PROTOINFO_TCP_STATE)?;
    state.first().copied()
}

fn address(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

/// The kinds and values of attributes, up to the first that is cut off.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(ATTRIBUTE_HEADER_BYTES..length)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nested` only sets a flag that the parser must not need.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + ATTRIBUTE_HEADER_BYTES).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(source: &str, destination: &str, protocol: u8, ports: Option<[u16; 2]>) -> Vec<u8> {
        let octets = |address: &str| match address.parse().unwrap() {
            IpAddr::V4(address) => (0, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        let ((offset, source), (_, destination)) = (octets(source), octets(destination));
        let addresses = [
            attribute(CTA_IP_V4_SRC + offset, &source),
            attribute(CTA_IP_V4_DST + offset, &destination),
        ];
        let mut transport = vec![attribute(CTA_PROTO_NUM, &[protocol])];
        if let Some([source, destination]) = ports {
            transport.push(attribute(CTA_PROTO_SRC_PORT, &source.to_be_bytes()));
            transport.push(attribute(CTA_PROTO_DST_PORT, &destination.to_be_bytes()));
        }
        let nested = 0x8000;
        [
            attribute(nested | CTA_TUPLE_IP, &addresses.concat()),
            attribute(nested | CTA_TUPLE_PROTO, &transport.concat()),
        ]
        .concat()
    }

    fn message(parts: &[Vec<u8>]) -> Vec<u8> {
        [vec![2, 0, 0, 0], parts.concat()].concat()
    }

    /// A pod that asked a Service, behind SNAT.
    fn service() -> Vec<Vec<u8>> {
        let original = tuple("10.0.1.2", "10.96.0.1", 17, Some([40_000, 53]));
        let reply = tuple("10.0.2.7", "192.0.2.1", 17, Some([5353, 61_000]));
        vec![
            attribute(0x8000 | CTA_TUPLE_ORIG, &original),
            attribute(0x8000 | CTA_TUPLE_REPLY, &reply),
            attribute(CTA_STATUS, &0x1be_u32.to_be_bytes()),
            attribute(CTA_ID, &[1, 2, 3, 4]),
        ]
    }

    #[test]
    fn an_entry_has_the_addresses_and_ports_on_both_sides_of_nat() {
        let message = message(&service());
        let entry = Entry::parse(&message).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = Connection {
            source: ip("10.0.1.2"),
            dialled: ip("10.96.0.1"),
            destination: ip("10.0.2.7"),
            answered: ip("192.0.2.1"),
            protocol: 17,
            ports: Some((40_000, 5353)),
        };
        assert_eq!(entry.connection, expected);
        assert_eq!((entry.is_expected, entry.zone), (false, 0));
        let handle = entry.handle();
        assert_eq!((handle.family, handle.id), (2, [1, 2, 3, 4]));
        let original = tuple("10.0.1.2", "10.96.0.1", 17, Some([40_000, 53]));
        assert_eq!(&*handle.tuple, original, "it is named as the kernel did");
    }

    #[test]
    fn an_entry_without_ports_of_ipv6_in_a_zone_that_a_helper_expected() {
        let (one, two) = ("fd00::1", "fd00::2");
        let mut original = tuple(one, two, 58, None);
        original.extend(attribute(CTA_TUPLE_ZONE, &7_u16.to_be_bytes()));
        let message = message(&[
            attribute(CTA_TUPLE_ORIG, &original),
            attribute(CTA_TUPLE_REPLY, &tuple(two, one, 58, None)),
            attribute(CTA_STATUS, &IPS_EXPECTED.to_be_bytes()),
            attribute(CTA_ID, &[0; 4]),
        ]);
        let entry = Entry::parse(&message).unwrap();
        assert_eq!(entry.connection.ports, None);
        assert_eq!(entry.connection.destination, two.parse::<IpAddr>().unwrap());
        assert_eq!((entry.is_expected, entry.zone), (true, 7));
        let zone = [service(), vec![attribute(CTA_ZONE, &9_u16.to_be_bytes())]].concat();
        assert_eq!(Entry::parse(&self::message(&zone)).unwrap().zone, 9);
    }

    #[test]
    fn a_connection_that_was_halted_differs_from_one_that_begins() {
        for (status, state, expected) in [(6_u32, 1_u8, true), (0, 1, false), (6, 3, false)] {
            let state = attribute(CTA_PROTOINFO_TCP_STATE, &[state]);
            let information = attribute(0x8000 | CTA_PROTOINFO_TCP, &state);
            let mut parts = service();
            parts[2] = attribute(CTA_STATUS, &status.to_be_bytes());
            parts.push(attribute(0x8000 | CTA_PROTOINFO, &information));
            assert_eq!(Entry::parse(&message(&parts)).unwrap().is_halted, expected);
        }
    }

    #[test]
    fn bytes_that_are_cut_off_or_lack_a_part_are_no_entry() {
        let whole = message(&service());
        for length in 0..whole.len() {
            assert_eq!(Entry::parse(&whole[..length]), None, "{length} bytes");
        }
        for missing in [0, 1, 3] {
            let mut parts = service();
            parts.remove(missing);
            assert_eq!(Entry::parse(&message(&parts)), None, "without part {missing}");
        }
    }
}
