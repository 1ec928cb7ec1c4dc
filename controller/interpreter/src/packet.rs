//! A packet as rules see it: header fields, conntrack's state, interfaces, mark.

use std::fmt;
use std::net::IpAddr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, `inet` to ipset.
    V4,
    /// IPv6, `inet6` to ipset.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The low six flags of a TCP header, a union of the constants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// FIN.
    pub const FIN: Self = Self(0x01);
    /// SYN.
    pub const SYN: Self = Self(0x02);
    /// RST.
    pub const RST: Self = Self(0x04);
    /// PSH.
    pub const PSH: Self = Self(0x08);
    /// ACK.
    pub const ACK: Self = Self(0x10);
    /// URG.
    pub const URG: Self = Self(0x20);
    /// All six flags.
    pub const ALL: Self = Self(0x3f);

    /// The flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags that are in both.
    #[must_use]
    pub const fn masked(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }

    /// The flags as in a TCP header.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// The protocol and its header behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// The sender's port.
        source_port: u16,
        /// The receiver's port.
        destination_port: u16,
        /// SYN for the first packet of a connection.
        flags: TcpFlags,
    },
    /// A UDP datagram.
    Udp {
        /// The sender's port.
        source_port: u16,
        /// The receiver's port.
        destination_port: u16,
    },
    /// An SCTP packet.
    Sctp {
        /// The sender's port.
        source_port: u16,
        /// The receiver's port.
        destination_port: u16,
        /// Whether one of its chunks is INIT.
        init: bool,
    },
    /// ICMP in an IPv4 packet, `ICMPv6` in an IPv6 packet.
    Icmp {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// Any other protocol, by its number.
    Other(u8),
}

impl Transport {
    /// The first packet of a TCP connection.
    #[must_use]
    pub fn syn(source_port: u16, destination_port: u16) -> Self {
        Self::Tcp { source_port, destination_port, flags: TcpFlags::SYN }
    }
}

/// The conntrack state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConntrackState {
    /// NEW: the packet belongs to no connection that was answered.
    New,
    /// ESTABLISHED: the packet belongs to a connection that was answered, in either direction.
    Established,
    /// RELATED: the packet starts a connection that another one announced, or is an error about a
    /// connection.
    Related,
    /// INVALID: the packet belongs to no connection and cannot start one.
    Invalid,
    /// UNTRACKED: a rule of the raw table excluded the packet from conntrack.
    Untracked,
}

/// One packet at one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address; of the source's family.
    pub destination: IpAddr,
    /// The protocol and its header.
    pub transport: Transport,
    /// The conntrack state.
    pub state: ConntrackState,
    /// The interface by which it came in; `None` in OUTPUT.
    pub in_interface: Option<String>,
    /// The interface by which it will leave; `None` in INPUT.
    pub out_interface: Option<String>,
    /// The port of a bridge by which it came in; `None` if it came in by no bridge.
    pub in_port: Option<String>,
    /// The port by which a bridge sends it out; `None` if it is routed.
    pub out_port: Option<String>,
    /// The hop limit or time to live.
    pub hop_limit: u8,
    /// Whether conntrack has translated its destination (DNAT).
    pub destination_translated: bool,
    /// The mark before the first rule.
    pub mark: u32,
}

impl Packet {
    /// A packet of a new connection, without interfaces and mark.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        let state = ConntrackState::New;
        let (in_interface, out_interface) = (None, None);
        Self {
            source,
            destination,
            transport,
            state,
            in_interface,
            out_interface,
            in_port: None,
            out_port: None,
            hop_limit: 64,
            destination_translated: false,
            mark: 0,
        }
    }

    /// The same packet in another conntrack state.
    #[must_use]
    pub fn in_state(self, state: ConntrackState) -> Self {
        Self { state, ..self }
    }

    /// The same packet, forwarded from one interface to another.
    #[must_use]
    pub fn between(self, in_interface: &str, out_interface: &str) -> Self {
        let (input, output) = (Some(in_interface.to_owned()), Some(out_interface.to_owned()));
        Self { in_interface: input, out_interface: output, ..self }
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The protocol's number in the IP header.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match (self.transport, self.family()) {
            (Transport::Tcp { .. }, _) => TCP,
            (Transport::Udp { .. }, _) => UDP,
            (Transport::Sctp { .. }, _) => SCTP,
            (Transport::Icmp { .. }, Family::V4) => ICMP,
            (Transport::Icmp { .. }, Family::V6) => ICMPV6,
            (Transport::Other(number), _) => number,
        }
    }

    /// Source and destination port, of the protocols that have ports.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp { source_port, destination_port, .. }
            | Transport::Udp { source_port, destination_port }
            | Transport::Sctp { source_port, destination_port, .. } => {
                Some((source_port, destination_port))
            }
            Transport::Icmp { .. } | Transport::Other(_) => None,
        }
    }

    /// Whether the packet can exist: one family, and `Other` not of a protocol with its own
    /// variant.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let own_variant = match self.family() {
            Family::V4 => [TCP, UDP, SCTP, ICMP],
            Family::V6 => [TCP, UDP, SCTP, ICMPV6],
        };
        Family::of(self.destination) == self.family()
            && !matches!(self.transport, Transport::Other(number) if own_variant.contains(&number))
    }
}

/// An end of a packet, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}
