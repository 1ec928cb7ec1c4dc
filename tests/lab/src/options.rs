//! What a lab can be asked to look like: the closed choices, and nothing that acts on them.

pub use policy_engine::cidr::Family;

/// The families that nodes, pods and services have addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone, the underlay included.
    V6,
    /// Both; addresses are listed IPv4 first.
    Dual,
}

impl Families {
    /// Each choice of families.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    /// The single families, IPv4 first.
    #[must_use]
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &Family::BOTH,
        }
    }
}

/// How pods hang on their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topology {
    /// One Linux bridge `cni0` per node holds the gateway address; pods are veths on it, with
    /// hairpin mode, and bridged packets pass iptables (as flannel, kubenet).
    ///
    /// That includes IPv6 neighbour discovery: between pods it is forwarded `ICMPv6`, and a rule in
    /// FORWARD that drops it cuts them off.
    Bridge,
    /// A /32 or /128 route to each veth and a link-local gateway that a permanent neighbour entry
    /// resolves (as Calico and cloud CNIs).
    Routed,
}

/// How nodes carry packets to each other's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Underlay {
    /// Routes to each pod CIDR through the address of its node.
    HostGw,
    /// One `flannel.1` vxlan device per node with static neighbour and forwarding entries.
    ///
    /// As with flannel, what a node itself sends to a pod of another node comes from
    /// [`Node::tunnel_addresses`](super::Node::tunnel_addresses), not from its own address.
    Vxlan,
}

/// The kernel interface behind the `iptables` command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IptablesVariant {
    /// `iptables-legacy`: `x_tables`.
    Legacy,
    /// `iptables-nft`: `nf_tables`.
    Nft,
}

impl IptablesVariant {
    /// The command of this variant, such as `ip6tables-nft`.
    #[must_use]
    pub fn program(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Legacy, Family::V4) => "iptables-legacy",
            (Self::Legacy, Family::V6) => "ip6tables-legacy",
            (Self::Nft, Family::V4) => "iptables-nft",
            (Self::Nft, Family::V6) => "ip6tables-nft",
        }
    }

    /// The word that names the variant on a command line: `legacy` or `nft`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

/// What a node does with a forwarded packet that no rule judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForwardPolicy {
    /// The kernel's default.
    Accept,
    /// As Docker and hardened hosts: policy DROP, and a CNI's own chain (`FLANNEL-FWD`) that
    /// accepts what comes from or goes to the pod network.
    DropButPods,
}

/// Everything that is fixed for the life of a lab.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) nodes: u8,
    pub(super) topology: Topology,
    pub(super) underlay: Underlay,
    pub(super) families: Families,
    pub(super) iptables: IptablesVariant,
    pub(super) forward: ForwardPolicy,
    pub(super) direct_internet: bool,
}

impl Options {
    /// The family that carries packets between nodes.
    pub(super) fn underlay_family(&self) -> Family {
        match self.families {
            Families::V4 | Families::Dual => Family::V4,
            Families::V6 => Family::V6,
        }
    }

    /// The largest packet that a pod may send, in bytes.
    pub(super) fn pod_mtu(&self) -> u16 {
        const ETHERNET: u16 = 1500;
        // Outer IP, UDP, VXLAN and inner Ethernet headers: 20 or 40, 8, 8 and 14 bytes.
        match (self.underlay, self.underlay_family()) {
            (Underlay::HostGw, _) => ETHERNET,
            (Underlay::Vxlan, Family::V4) => ETHERNET - 50,
            (Underlay::Vxlan, Family::V6) => ETHERNET - 70,
        }
    }
}
