//! Features of the kernel that only some rules need. Without a feature, its rules are left out and
//! reported, and everything else is enforced.

/// A feature of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Feature {
    /// Matches of ports of bridges.
    PodInterfaces,
    /// Matches of the hop limit of IPv6.
    HopLimit,
    /// Matches of the chunks of SCTP.
    SctpChunks,
    /// Chains of nftables for frames of bridges.
    TwoTags,
}

impl Feature {
    /// All features.
    pub const ALL: [Self; 4] =
        [Self::PodInterfaces, Self::HopLimit, Self::SctpChunks, Self::TwoTags];

    /// What is not enforced without the feature.
    #[must_use]
    pub fn what_is_lost(self) -> &'static str {
        match self {
            Self::PodInterfaces => {
                "pods are judged by their addresses alone: a pod can use the address of another one, \
                 and link-local addresses, broadcast and multicast are not judged"
            }
            Self::HopLimit => {
                "ICMPv6 messages of neighbour and listener discovery pass whatever they contain"
            }
            Self::SctpChunks => {
                "an SCTP association can be opened again from a port that was allowed before"
            }
            Self::TwoTags => {
                "on a bridge, frames with two VLAN tags, which pods with NET_RAW can send, pass without \
                 being judged"
            }
        }
    }

    /// The kernel module to load.
    #[must_use]
    pub fn what_to_do(self) -> &'static str {
        match self {
            Self::PodInterfaces => {
                "load xt_physdev; with nftables, use a kernel with CONFIG_NF_TABLES_BRIDGE"
            }
            Self::HopLimit => "load xt_hl; nftables needs no module for it",
            Self::SctpChunks => "load xt_sctp; with nftables, use Linux 5.14 or later",
            Self::TwoTags => "use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_BRIDGE",
        }
    }
}
