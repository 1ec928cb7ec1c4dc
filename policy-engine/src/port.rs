//! Protocols with ports, and ranges of ports.

use std::fmt;

use crate::ranges::Range;

/// A protocol whose ports a NetworkPolicy can name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP, the default where a port names no protocol.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All protocols, in canonical order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name that the Kubernetes API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The number that IANA has assigned to it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A range of ports with both ends included; never empty.
pub type PortRange = Range<u16>;

/// The error for a range that would be empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the range ends at {last}, before its first port {first}")]
pub struct EmptyPortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port that a connection can be opened to.
    pub const FROM_ONE: Self = Self { first: 1, last: u16::MAX };

    /// The ports from `first` to `last`, both included (`port` and `endPort`).
    ///
    /// # Errors
    /// When `last` is below `first`.
    pub fn new(first: u16, last: u16) -> Result<Self, EmptyPortRange> {
        Self::between(first, last).ok_or(EmptyPortRange { first, last })
    }

    /// How many ports lie inside, 1 to 65,536.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}
