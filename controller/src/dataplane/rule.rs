//! Rules, chains and hooks as values. How a backend writes and reads them is its own affair.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::port::{PortRange, Protocol};

use super::attachment::InterfaceName;
use super::name::{self, ChainName, SetName};
use super::options::LogGroup;

/// Chains by name, with their rules. What is desired and what is applied share the rules of a chain:
/// so they are compared by their address first.
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
    /// Both.
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
    /// Ascending, so that equal rules are equal values. None: every packet matches.
    pub matches: Box<[Match]>,
    /// What becomes of these packets.
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

/// Something that a packet can have. The order is the one in which iptables prints matches.
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
    /// A TCP segment of a connection that conntrack did not know before it.
    TcpOfUnknown,
    /// A TCP segment from a port that kernels give to clients, to a port that they give to none.
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
    /// No bridge sends it from one of its ports to another: the node routes it, or sends it.
    NotBridged,
    /// Its connection is established, or related to one that is.
    RelatedOrEstablished,
    /// Its connection is not related to another one.
    NotRelated,
    /// Its destination was not translated.
    NotTranslated,
    /// A set holds the address of one side.
    Set(SetName, Side),
    /// A set does not hold the address of one side.
    NotInSet(SetName, Side),
    /// A set holds the address of one side with the packet's protocol and destination port.
    SetWithPort(SetName, Side),
    /// Nothing: a text for people.
    Comment(Box<str>),
    /// A rate that each address of one side has on its own. A packet for which there is no room is
    /// dropped.
    RatePerAddress {
        /// The rate.
        rate: Rate,
        /// Whose address.
        by: Side,
        /// How many addresses there is room for.
        addresses_max: u32,
        /// Rules with equal numbers share what they remember.
        number: u32,
    },
    /// A rate that all packets have together.
    Rate(Rate),
}

/// The first port that Linux gives to clients unless `ip_local_port_range` says otherwise.
pub(super) const FIRST_CLIENT_PORT: u16 = 32_768;

/// Where an address has to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Is {
    /// Inside.
    Within(IpNet),
    /// Anywhere else.
    Outside(IpNet),
}

/// Which interface it has to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IsInterface {
    /// The one of this name.
    Named(InterfaceName),
    /// Any other one, or none.
    NotNamed(InterfaceName),
    /// One whose name begins so.
    Begins(InterfaceName),
}

/// One end of a packet's way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it is sent to.
    Destination,
}

impl Side {
    /// Where the pod is whose rules apply.
    #[must_use]
    pub fn of_subject(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Destination,
            Direction::Egress => Self::Source,
        }
    }

    /// Where the pod's peer is.
    #[must_use]
    pub fn of_peer(direction: Direction) -> Self {
        Self::of_subject(direction.opposite())
    }
}

/// How many packets a second, and how many at once after a quiet time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is counted, and the next rule is asked.
    Continue,
    /// It goes back to where its chain was jumped to from.
    Return,
    /// It passes.
    Accept,
    /// It vanishes.
    Drop,
    /// It is dropped, and answered by a TCP RST.
    RejectTcp,
    /// It is dropped, and answered by an ICMP "port unreachable" of its family.
    Reject(Family),
    /// The other chain is asked, and then the next rule.
    Jump(ChainName),
    /// The other chain is asked instead of this one.
    Goto(ChainName),
    /// It is logged, and the next rule is asked.
    Log {
        /// What the kernel puts in front of it.
        prefix: Box<str>,
        /// Where to.
        group: LogGroup,
        /// How much of the packet.
        bytes: u32,
    },
    /// The text of a whole rule that is not ours: it is only ever removed.
    Unknown(Box<str>),
}

// A node has thousands of rules, and two copies of them while they change.
const _: () = assert!(size_of::<Match>() <= 24 && size_of::<Rule>() <= 40);
