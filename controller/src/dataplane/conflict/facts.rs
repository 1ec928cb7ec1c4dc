//! The facts about a node, as values. `survey` collects them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy_engine::cidr::Family;

/// The facts about a node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// The interfaces of the node's network namespace.
    pub links: Vec<Link>,
    /// The filter tables of iptables: of each variant and family that has one.
    pub filters: Vec<FilterTable>,
    /// The tables of nftables.
    pub nft_tables: Vec<NftTable>,
    /// Whether packets on bridges pass iptables, for each setting.
    pub bridge_netfilter: Vec<(BridgeSwitch, BridgeNetfilter)>,
    /// How the node reaches the addresses of its isolated pods.
    pub routes: Vec<PodRoute>,
    /// The type of the CNI plugin that attaches pods, where its configuration can be read.
    pub cni_plugin: Option<String>,
    /// The facts that could not be read, and why.
    pub failures: Vec<String>,
}

impl Facts {
    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether packets to a pod leave the node, as they do to pods of other nodes.
    #[must_use]
    pub fn is_past_the_node(&self, route: &PodRoute) -> bool {
        let Some(link) = self.link(route.link) else { return false };
        // Other kinds are ignored, and so is the loopback of a node that has the address.
        let is_uplink = match link.kind.as_str() {
            "" => link.name != "lo",
            "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "vlan" | "bond" | "team" => true,
            _ => false,
        };
        route.has_gateway || is_uplink
    }
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// The index of the interface.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, as `ip -d link` names it: `veth`, `bridge`; empty for hardware.
    pub kind: String,
    /// The bridge or switch of which it is a port.
    pub master: Option<u32>,
    /// Whether its other end, or its parent, is in another network namespace.
    pub leads_elsewhere: bool,
    /// Whether it has addresses. Read for the interfaces of IPVS only.
    pub has_addresses: bool,
    /// Whether an XDP program is attached.
    pub xdp: bool,
    /// The names of the BPF programs that its tc filters run; empty for a program without a name.
    pub tc_programs: Vec<String>,
    /// For a bridge: the families whose packets pass iptables even if the node's setting is off.
    pub calls_iptables: Vec<Family>,
}

impl Link {
    /// Whether it is a bridge with a setting of its own that replaces the node's setting `switch`.
    pub(super) fn has_own(&self, switch: BridgeSwitch) -> bool {
        matches!(switch, BridgeSwitch::Calls(family) if self.calls_iptables.contains(&family))
    }

    /// Whether it is the node's end of a pod's interface. A node that is a container itself has
    /// such an uplink too.
    pub(super) fn is_of_pod(&self) -> bool {
        self.leads_elsewhere && matches!(self.kind.as_str(), "veth" | "netkit")
    }
}

/// A filter table of iptables.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FilterTable {
    /// The command that shows it, such as `iptables-nft`.
    pub command: String,
    /// All chains; those that are built in may be missing.
    pub chains: BTreeSet<String>,
    /// The chains that a rule of FORWARD leads to.
    pub hooked: BTreeSet<String>,
}

impl FilterTable {
    /// Reads the output of `iptables-save -t filter` or `iptables -S FORWARD`. Lines of another
    /// form are ignored.
    #[must_use]
    pub fn parse(command: &str, save: &str) -> Self {
        let mut table = Self { command: command.to_owned(), ..Self::default() };
        for line in save.lines() {
            if let Some(declared) = line.strip_prefix(':') {
                // A built-in chain has a policy, and a user-defined chain has `-`.
                let mut words = declared.split(' ');
                if let (Some(chain), Some("-")) = (words.next(), words.next()) {
                    table.chains.insert(chain.to_owned());
                }
            } else if let Some(rule) = line.strip_prefix("-A FORWARD ") {
                table.hooked.extend(target(rule).map(str::to_owned));
            }
        }
        table
    }
}

/// The chain or target of a rule: the last one in the text, since a comment before it may have one.
fn target(rule: &str) -> Option<&str> {
    let words: Vec<&str> = rule.split(' ').collect();
    let at = words.iter().rposition(|word| matches!(*word, "-j" | "-g"))?;
    words.get(at + 1).copied()
}

/// A table of nftables. Those of iptables-nft are among them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NftTable {
    /// The family of its packets; `None` for a table of both families or of another one.
    pub family: Option<Family>,
    /// Its name.
    pub name: String,
    /// Whether packets enter one of its base chains.
    pub hooked: bool,
    /// Its chains.
    pub chains: BTreeSet<String>,
}

/// A setting in `net.bridge` that decides which packets on bridges pass iptables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BridgeSwitch {
    /// Packets of a family.
    Calls(Family),
    /// Packets with a VLAN tag. A pod may send frames with VLAN id 0, which its peer treats as
    /// untagged.
    FilterVlanTagged,
}

impl BridgeSwitch {
    /// All settings.
    pub const ALL: [Self; 3] =
        [Self::Calls(Family::V4), Self::Calls(Family::V6), Self::FilterVlanTagged];

    /// Its name in `net.bridge`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls(Family::V4) => "bridge-nf-call-iptables",
            Self::Calls(Family::V6) => "bridge-nf-call-ip6tables",
            Self::FilterVlanTagged => "bridge-nf-filter-vlan-tagged",
        }
    }

    /// The packets that bypass iptables while the setting is off.
    #[must_use]
    pub fn packets(self) -> &'static str {
        match self {
            Self::Calls(Family::V4) => "IPv4 packets",
            Self::Calls(Family::V6) => "IPv6 packets",
            Self::FilterVlanTagged => "packets in frames with a VLAN tag",
        }
    }
}

/// Whether packets on a bridge pass iptables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BridgeNetfilter {
    /// They pass iptables.
    On,
    /// The setting was off, and was turned on.
    TurnedOn,
    /// The setting is off, and could not be turned on for this reason.
    Off(String),
    /// The module is not loaded.
    NotLoaded,
}

/// How the node reaches an address of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodRoute {
    /// The address.
    pub address: IpAddr,
    /// The interface by which packets to the address leave.
    pub link: u32,
    /// Whether these packets go to a router first.
    pub has_gateway: bool,
}
