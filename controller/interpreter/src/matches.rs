//! The conditions of a rule, and whether a packet meets them.

use std::net::IpAddr;

use crate::error::{Problem, Unanswerable};
use crate::judge::RateLimit;
use crate::packet::{ConntrackState, Family, Packet, Side, TcpFlags, Transport};
use crate::sets::Sets;
use crate::words::parse;

/// The kernel's `IFNAMSIZ` less its terminator.
const INTERFACE_LENGTH_MAX: usize = 15;

/// A comparison, which `!` inverts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) negated: bool,
    pub(crate) question: Question,
}

/// One comparison of a rule with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    Address {
        side: Side,
        block: Block,
    },
    Interface {
        side: Side,
        name: InterfaceName,
    },
    /// A packet that no bridge handles has no port.
    BridgePort {
        side: Side,
        name: InterfaceName,
    },
    IsBridged,
    Protocol(u8),
    Family(Family),
    SctpInit,
    HopLimit(u8),
    Ports {
        of: PortOf,
        ranges: Vec<(u16, u16)>,
    },
    TcpFlags {
        mask: TcpFlags,
        compare: TcpFlags,
    },
    Icmp {
        kind: u8,
        codes: (u8, u8),
    },
    Set {
        name: String,
        sides: Vec<Side>,
    },
    State {
        states: Vec<ConntrackState>,
        or_translated: bool,
    },
    Mark {
        value: u32,
        mask: u32,
    },
    RateLimit,
}

/// The ports of a packet that a rule compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortOf {
    Source,
    Destination,
    Either,
}

/// An address and the bits of it that count, which need not be leading ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) family: Family,
    address: u128,
    mask: u128,
}

/// An interface by name, or by the beginning of its name where `+` ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InterfaceName {
    Exactly(String),
    Beginning(String),
}

/// The input of conditions beside the packet.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) sets: &'a Sets,
    pub(crate) rate_limit: RateLimit,
    pub(crate) mark: u32,
    pub(crate) set_lookups: usize,
}

impl Condition {
    pub(crate) fn holds(
        &self,
        packet: &Packet,
        around: &mut Surroundings<'_>,
    ) -> Result<bool, Unanswerable> {
        Ok(self.question.answer(packet, around)? != self.negated)
    }
}

impl Question {
    fn answer(&self, packet: &Packet, around: &mut Surroundings<'_>) -> Result<bool, Unanswerable> {
        Ok(match self {
            Self::Address { side: Side::Source, block } => block.holds(packet.source)?,
            Self::Address { side: Side::Destination, block } => block.holds(packet.destination)?,
            Self::Interface { side: Side::Source, name } => {
                name.fits(packet.in_interface.as_deref())
            }
            Self::Interface { side: Side::Destination, name } => {
                name.fits(packet.out_interface.as_deref())
            }
            Self::BridgePort { side: Side::Source, name } => {
                packet.in_port.is_some() && name.fits(packet.in_port.as_deref())
            }
            Self::BridgePort { side: Side::Destination, name } => {
                packet.out_port.is_some() && name.fits(packet.out_port.as_deref())
            }
            Self::IsBridged => packet.out_port.is_some(),
            Self::Protocol(number) => packet.protocol() == *number,
            Self::Family(family) => packet.family() == *family,
            Self::SctpInit => matches!(packet.transport, Transport::Sctp { init: true, .. }),
            Self::HopLimit(limit) => packet.hop_limit == *limit,
            Self::Ports { of, ranges } => packet.ports().is_some_and(|(source, destination)| {
                let within = |port| ranges.iter().any(|&(low, high)| (low..=high).contains(&port));
                match of {
                    PortOf::Source => within(source),
                    PortOf::Destination => within(destination),
                    PortOf::Either => within(source) || within(destination),
                }
            }),
            Self::TcpFlags { mask, compare } => match packet.transport {
                Transport::Tcp { flags, .. } => flags.masked(*mask) == *compare,
                _ => false,
            },
            Self::Icmp { kind, codes: (low, high) } => match packet.transport {
                Transport::Icmp { kind: sent, code } => {
                    sent == *kind && (*low..=*high).contains(&code)
                }
                _ => false,
            },
            Self::Set { name, sides } => {
                around.set_lookups += 1;
                around.sets.contains(name, sides, packet)?
            }
            Self::State { states, or_translated } => {
                states.contains(&packet.state) || (*or_translated && packet.destination_translated)
            }
            Self::Mark { value, mask } => around.mark & mask == *value,
            Self::RateLimit => match around.rate_limit {
                RateLimit::Fresh => true,
                RateLimit::Spent => false,
            },
        })
    }
}

impl Block {
    /// Reads `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK`; the tools clear what the mask hides.
    pub(crate) fn parse(word: &str) -> Result<Self, Problem> {
        const WHAT: &str = "an address with a mask";
        let (address, mask) = match word.split_once('/') {
            None => (word, None),
            Some((address, mask)) => (address, Some(mask)),
        };
        let address: IpAddr = parse(address, WHAT)?;
        let family = Family::of(address);
        let (width, all) = match family {
            Family::V4 => (32, u128::from(u32::MAX)),
            Family::V6 => (128, u128::MAX),
        };
        let bad = || Problem::Bad { what: WHAT, word: word.to_owned() };
        let mask = match mask {
            None => all,
            Some(mask) if mask.contains(['.', ':']) => {
                let mask: IpAddr = parse(mask, WHAT)?;
                if Family::of(mask) != family {
                    return Err(bad());
                }
                bits(mask)
            }
            Some(length) => {
                let length: u32 = parse(length, WHAT)?;
                let hidden = u32::checked_sub(width, length).ok_or_else(bad)?;
                all & u128::MAX.checked_shl(hidden).unwrap_or(0)
            }
        };
        Ok(Self { family, address: bits(address) & mask, mask })
    }

    fn holds(&self, address: IpAddr) -> Result<bool, Unanswerable> {
        if Family::of(address) == self.family {
            Ok(bits(address) & self.mask == self.address)
        } else {
            Err(Unanswerable::AddressFamily(Family::of(address)))
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl InterfaceName {
    /// Reads `NAME` or `BEGINNING+`.
    pub(crate) fn parse(word: String) -> Result<Self, Problem> {
        if word.is_empty() || word.len() > INTERFACE_LENGTH_MAX {
            return Err(Problem::Bad { what: "an interface", word });
        }
        Ok(match word.strip_suffix('+') {
            None => Self::Exactly(word),
            Some(beginning) => Self::Beginning(beginning.to_owned()),
        })
    }

    /// The interface of this name, which may have any characters.
    pub(crate) fn exactly(word: &str) -> Result<Self, Problem> {
        if word.is_empty() || word.len() > INTERFACE_LENGTH_MAX {
            return Err(Problem::Bad { what: "an interface", word: word.to_owned() });
        }
        Ok(Self::Exactly(word.to_owned()))
    }

    /// The kernel compares with an empty name where a packet has no interface.
    fn fits(&self, interface: Option<&str>) -> bool {
        let interface = interface.unwrap_or_default();
        match self {
            Self::Exactly(name) => interface == name,
            Self::Beginning(name) => interface.starts_with(name),
        }
    }
}
