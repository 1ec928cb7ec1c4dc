//! Parses the beginning of a logged packet: source, destination, protocol and port.
//!
//! The bytes come from any host that sends packets to this node: every value is possible.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_engine::flow::Traffic;
use policy_engine::port::Protocol;

/// The most extension headers that are skipped: more than any packet needs.
const EXTENSIONS_MAX: usize = 8;

/// What distinguishes packets in the log: two packets with equal values are counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Packet {
    /// The source address, after source NAT (SNAT) of the sender's node.
    pub source: IpAddr,
    /// The destination address, after the translation of a Service address (DNAT).
    pub destination: IpAddr,
    /// The protocol, and the destination port where the protocol has ports.
    pub transport: Transport,
}

/// A protocol, with its destination port or its ICMP type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// A protocol with ports, and the destination port.
    Port(Protocol, u16),
    /// ICMP, with its type.
    Icmp(u8),
    /// `ICMPv6`, with its type.
    Icmpv6(u8),
    /// Another protocol, or one whose header is not in this packet.
    Other(u8),
}

impl Transport {
    /// The traffic in the terms of the engine.
    #[must_use]
    pub fn traffic(self) -> Traffic {
        match self {
            Self::Port(protocol, port) => Traffic::Port(protocol, port),
            Self::Icmp(_) | Self::Icmpv6(_) | Self::Other(_) => Traffic::Other,
        }
    }

    /// The destination port; `None` for a protocol without ports.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Port(_, port) => Some(port),
            Self::Icmp(_) | Self::Icmpv6(_) | Self::Other(_) => None,
        }
    }

    /// The name of the protocol.
    #[must_use]
    pub fn protocol(self) -> String {
        match self {
            Self::Port(protocol, _) => protocol.to_string(),
            Self::Icmp(_) => "ICMP".to_owned(),
            Self::Icmpv6(_) => "ICMPv6".to_owned(),
            Self::Other(number) => match Carried::of(number) {
                Some(known) => known.name().to_owned(),
                None => format!("protocol {number}"),
            },
        }
    }
}

/// `TCP 80`, `ICMP type 8`, `protocol 47`.
impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.protocol())?;
        match self {
            Self::Port(_, port) => write!(formatter, " {port}"),
            Self::Icmp(kind) | Self::Icmpv6(kind) => write!(formatter, " type {kind}"),
            Self::Other(_) => Ok(()),
        }
    }
}

/// The protocols whose header is parsed.
#[derive(Clone, Copy)]
enum Carried {
    Ports(Protocol),
    Icmp,
    Icmpv6,
}

impl Carried {
    fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Icmp),
            6 => Some(Self::Ports(Protocol::Tcp)),
            17 => Some(Self::Ports(Protocol::Udp)),
            58 => Some(Self::Icmpv6),
            132 => Some(Self::Ports(Protocol::Sctp)),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ports(protocol) => protocol.as_str(),
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        }
    }
}

impl Packet {
    /// Parses the beginning of an IP packet; `None` when it does not contain the addresses.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<20>()?;
        let length = usize::from(header[0] & 0xf) * 4;
        // A later fragment holds no header of the transport.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        let rest = bytes.get(length..).filter(|_| length >= 20 && fragment == 0);
        Some(Self {
            source: Ipv4Addr::from(array(header, 12)).into(),
            destination: Ipv4Addr::from(array(header, 16)).into(),
            transport: transport(header[9], rest),
        })
    }

    fn parse_v6(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<40>()?;
        let (number, rest) = behind_extensions(header[6], rest);
        Some(Self {
            source: Ipv6Addr::from(array::<40, 16>(header, 8)).into(),
            destination: Ipv6Addr::from(array::<40, 16>(header, 24)).into(),
            transport: transport(number, rest),
        })
    }
}

/// Returns `N` bytes of a header from the offset `at`; both are constants of the format.
fn array<const HEADER: usize, const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.iter_mut().zip(header.iter().skip(at)).for_each(|(to, from)| *to = *from);
    found
}

/// The protocol behind the extension headers, and its bytes where they are in this packet.
fn behind_extensions(mut number: u8, mut rest: &[u8]) -> (u8, Option<&[u8]>) {
    for _ in 0..EXTENSIONS_MAX {
        let [next, size, more @ ..] = rest else { return (number, None) };
        let length = match number {
            // Hop by hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*size) + 1) * 8,
            // Fragment: only the first fragment contains the next header.
            44 => match more {
                [high, low, ..] if u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 => {
                    return (*next, None);
                }
                _ => 8,
            },
            // The authentication header gives its length in other units.
            51 => (usize::from(*size) + 2) * 4,
            _ => return (number, Some(rest)),
        };
        number = *next;
        let Some(behind) = rest.get(length..) else { return (number, None) };
        rest = behind;
    }
    (number, None)
}

fn transport(number: u8, bytes: Option<&[u8]>) -> Transport {
    match (Carried::of(number), bytes) {
        (Some(Carried::Ports(protocol)), Some([_, _, high, low, ..])) => {
            Transport::Port(protocol, u16::from_be_bytes([*high, *low]))
        }
        (Some(Carried::Icmp), Some([kind, ..])) => Transport::Icmp(*kind),
        (Some(Carried::Icmpv6), Some([kind, ..])) => Transport::Icmpv6(*kind),
        _ => Transport::Other(number),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet from 10.0.0.1 to 10.0.0.2 with this many words of options.
    fn v4(protocol: u8, options: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45 + options, 0, 0, 0, 0, 0];
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(std::iter::repeat_n(1, usize::from(options) * 4));
        bytes.extend(rest);
        bytes
    }

    /// An IPv6 packet from `fd00::1` to `fd00::2`.
    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        for last in [1, 2] {
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        bytes.extend(rest);
        bytes
    }

    fn check(bytes: &[u8], expected: &str) {
        let packet = Packet::parse(bytes).expect("it has addresses");
        let (source, destination) = match packet.source {
            IpAddr::V4(_) => ("10.0.0.1", "10.0.0.2"),
            IpAddr::V6(_) => ("fd00::1", "fd00::2"),
        };
        assert_eq!(packet.source.to_string(), source);
        assert_eq!(packet.destination.to_string(), destination);
        assert_eq!(packet.transport.to_string(), expected, "{bytes:?}");
    }

    #[test]
    fn protocol_and_port_are_behind_options_and_extensions() {
        let to_80 = [0x30, 0x39, 0, 80];
        check(&v4(6, 0, 0, &to_80), "TCP 80");
        check(&v4(17, 3, 0x4000, &to_80), "UDP 80");
        check(&v4(132, 10, 0, &to_80), "SCTP 80");
        check(&v4(1, 0, 0, &[8, 0]), "ICMP type 8");
        check(&v4(47, 0, 0, &to_80), "protocol 47");
        check(&v6(6, &to_80), "TCP 80");
        check(&v6(58, &[128, 0]), "ICMPv6 type 128");
        // Hop by hop of 16 bytes, then a first fragment, then authentication of 12.
        let mut chain = vec![44, 1];
        chain.extend([0; 14]);
        chain.extend([51, 0, 0, 1, 0, 0, 0, 0]);
        chain.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend(to_80);
        check(&v6(0, &chain), "UDP 80");
    }

    #[test]
    fn what_is_not_in_the_packet_is_left_out() {
        check(&v4(6, 0, 0, &[0x30]), "TCP");
        check(&v4(17, 0, 100, &[0, 1, 0, 2]), "UDP");
        check(&v4(1, 0, 0, &[]), "ICMP");
        check(&v6(44, &[17, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 2]), "UDP");
        check(&v6(0, &[6, 9, 0, 0]), "TCP");
        check(&v6(60, &[]), "protocol 60");
        let options: Vec<u8> = [60, 0, 0, 0, 0, 0, 0, 0].repeat(9);
        check(&v6(60, &options), "protocol 60");
        for none in [&[][..], &[0x45; 19], &[0x60; 39], &[0x15; 60]] {
            assert_eq!(Packet::parse(none), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn no_bytes_behind_a_header_panic(
            number in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..90)
        ) {
            for bytes in [v4(number, 0, 0, &rest), v6(number, &rest)] {
                for end in 0..bytes.len() {
                    let _ = Packet::parse(&bytes[..end]);
                }
                prop_assert!(Packet::parse(&bytes).is_some());
            }
        }
    }
}
