//! Rules, chains and hooks as values. The backends define how they are written and read.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::port::{PortRange, Protocol};

use super::attachment::InterfaceName;
use super::name::{self, ChainName, SetName};
use super::options::LogGroup;

/// Chains by name, with their rules. The desired and the applied state share the rules of a chain,
/// so that a comparison can compare their addresses first.
pub type Chains = BTreeMap<ChainName, Arc<[Rule]>>;

/// A chain of the kernel's own that sends packets to ours, by its first rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// From FORWARD to [`name::FORWARD`].
    Forward,
    /// From INPUT to [`name::INPUT`].
    Input,
}

impl Hook {
    /// Both hooks.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// The kernel's chain.
    #[must_use]
    pub fn chain(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }

    /// Our chain that it sends packets to.
    #[must_use]
    pub fn target(self) -> ChainName {
        match self {
            Self::Forward => name::FORWARD,
            Self::Input => name::INPUT,
        }
    }
}

/// One rule of a chain: packets that match everything in `matches` get the verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The matches, ascending, so that equal rules are equal values. If empty, every packet
    /// matches.
    pub matches: Box<[Match]>,
    /// The verdict for packets that match.
    pub verdict: Verdict,
}

impl Rule {
    /// The rule that applies `verdict` to every packet.
    #[must_use]
    pub fn all(verdict: Verdict) -> Self {
        Self { matches: Box::default(), verdict }
    }

    /// The rule that applies `verdict` to packets that match all of `matches`.
    #[must_use]
    pub fn new(matches: impl IntoIterator<Item = Match>, verdict: Verdict) -> Self {
        let mut matches: Box<[Match]> = matches.into_iter().collect();
        matches.sort_unstable();
        Self { matches, verdict }
    }

    /// Whether the rule refers to this set.
    #[must_use]
    pub fn refers_to(&self, set: SetName) -> bool {
        match &self.verdict {
            Verdict::Unknown(text) => text.split(' ').any(|word| SetName::parse(word) == Some(set)),
            _ => self.sets().any(|name| name == set),
        }
    }

    /// Whether the rule refers to any set.
    #[must_use]
    pub fn needs_a_set(&self) -> bool {
        match &self.verdict {
            Verdict::Unknown(text) => text.split(' ').any(|word| word == "--match-set"),
            _ => self.sets().next().is_some(),
        }
    }

    /// The sets that the rule refers to.
    pub fn sets(&self) -> impl Iterator<Item = SetName> {
        self.matches.iter().filter_map(|part| match part {
            Match::Set(name, _) | Match::SetWithPort(name, _) | Match::NotInSet(name, _) => {
                Some(*name)
            }
            _ => None,
        })
    }
}

/// A property of a packet. The order is the one in which iptables prints matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Match {
    /// The address of one side.
    Address(Side, Is),
    /// The interface of one side.
    Interface(Side, IsInterface),
    /// A protocol, and one of these destination ports, at most fifteen (a range counts twice);
    /// all ports when none is listed.
    Ports(Protocol, Box<[PortRange]>),
    /// A TCP SYN without ACK, FIN and RST: it opens a connection.
    TcpSyn,
    /// A TCP segment of a connection that had no conntrack entry before.
    TcpOfUnknown,
    /// A TCP segment from a port that kernels assign to clients, to one that they do not assign.
    TcpFromClient,
    /// An SCTP packet with an INIT chunk: it opens an association.
    SctpInit,
    /// An `ICMPv6` message of this type.
    Icmpv6(u8),
    /// Any protocol but SCTP.
    NotSctp,
    /// Any protocol but `ICMPv6`.
    NotIcmpv6,
    /// The hop limit of an IPv6 packet.
    HopLimit(u8),
    /// The port of a bridge by which it came in (source) or by which the bridge sends it out
    /// (destination; only a packet that is not routed has one).
    BridgePort(Side, IsInterface),
    /// The packet does not pass from one port of a bridge to another: the node routes or sends it.
    NotBridged,
    /// A packet whose connection is established, or related to one that is.
    RelatedOrEstablished,
    /// A packet whose connection is not related to another one.
    NotRelated,
    /// A packet whose destination was not translated.
    NotTranslated,
    /// A set holds the address of one side.
    Set(SetName, Side),
    /// A set does not hold the address of one side.
    NotInSet(SetName, Side),
    /// A set holds the address of one side with the packet's protocol and destination port.
    SetWithPort(SetName, Side),
    /// A comment for people, which every packet matches.
    Comment(Box<str>),
    /// A rate for each address of one side. A packet of a new address is dropped when the table of
    /// addresses is full.
    RatePerAddress {
        /// The rate.
        rate: Rate,
        /// The side whose addresses are counted.
        by: Side,
        /// The most addresses in the table.
        addresses_max: u32,
        /// Rules with equal numbers share a table.
        number: u32,
    },
    /// A rate for all packets together.
    Rate(Rate),
}

/// The first port that Linux assigns to clients unless `ip_local_port_range` is changed.
pub(super) const FIRST_CLIENT_PORT: u16 = 32_768;

/// The name of `protocol` that is built into iptables and nftables.
pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Which addresses match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Is {
    /// An address inside the network.
    Within(IpNet),
    /// An address outside the network.
    Outside(IpNet),
}

/// Which interfaces match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IsInterface {
    /// The interface of this name.
    Named(InterfaceName),
    /// Any other interface, or none.
    NotNamed(InterfaceName),
    /// An interface whose name begins with this text.
    Begins(InterfaceName),
}

/// One end of a packet's path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

impl Side {
    /// The side of the pod whose rules apply.
    #[must_use]
    pub fn of_subject(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Destination,
            Direction::Egress => Self::Source,
        }
    }

    /// The side of the pod's peer.
    #[must_use]
    pub fn of_peer(direction: Direction) -> Self {
        Self::of_subject(direction.opposite())
    }
}

/// A rate of packets, and a burst after a time without packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rate {
    /// Packets a second in the long run.
    pub per_second: u32,
    /// Packets at once.
    pub burst: u32,
}

/// The verdict on a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The packet is counted, and goes to the next rule.
    Continue,
    /// The packet returns to the chain that jumped to this one.
    Return,
    /// The packet is accepted.
    Accept,
    /// The packet is dropped without an answer.
    Drop,
    /// The packet is dropped, and answered by a TCP RST.
    RejectTcp,
    /// The packet is dropped, and answered by an ICMP "port unreachable" of its family.
    Reject(Family),
    /// The packet enters this chain, and then the next rule.
    Jump(ChainName),
    /// The packet enters this chain, and does not return (`-g`).
    Goto(ChainName),
    /// The packet is logged, and goes to the next rule.
    Log {
        /// The prefix of the log message.
        prefix: Box<str>,
        /// The group of NFLOG.
        group: LogGroup,
        /// How many bytes of the packet are logged.
        bytes: u32,
    },
    /// The text of a whole rule that is not ours. Such a rule is only removed.
    Unknown(Box<str>),
}

// A node has thousands of rules, and two copies of them while they change.
const _: () = assert!(size_of::<Match>() <= 24 && size_of::<Rule>() <= 40);
