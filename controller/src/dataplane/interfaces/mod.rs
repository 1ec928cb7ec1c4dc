//! The kernel's facts about how pods are reached: interfaces, host routes, and the addresses of the
//! peers of interfaces. `node/attach` judges them.
//!
//! ```text
//! read: GETLINK ─► interfaces and their peers ─► GETADDR in the peer's namespace ─┐
//!       GETROUTE ─► host routes, uplinks ─────────────────────────────────────────┴─► Snapshot
//! watch: a change of a link or route ─► wakes the reading thread
//! ```

mod read;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use self::read::{Reader, Refresh};
pub use self::watch::{Changes, Watch};

/// The kind of an interface, as far as it matters for finding pods.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum InterfaceKind {
    /// One end of a pair: veth or netkit.
    Pair,
    /// A bridge.
    Bridge,
    /// A VLAN of another interface.
    Vlan,
    /// Anything else, hardware included.
    #[default]
    Other,
}

/// The peer of an interface, in another network namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// The id of that namespace in this namespace.
    pub namespace: i32,
    /// The index of the peer there.
    pub index: u32,
}

/// One interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Interface {
    /// The name.
    pub name: String,
    /// The kind of the interface.
    pub kind: InterfaceKind,
    /// The index of the interface that it is a port of.
    pub master: Option<u32>,
    /// The peer, if it is in another network namespace.
    pub peer: Option<Peer>,
    /// For a VLAN, the index of its parent interface in this namespace.
    pub lower: Option<u32>,
}

/// All facts at one moment. Interfaces are named by their indexes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// The interfaces of this network namespace.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Routes to one address without a gateway, in the main table: the address and the interface.
    pub host_routes: BTreeSet<(IpAddr, u32)>,
    /// The interfaces by which gateways are reached: they lead to other hosts.
    pub uplinks: BTreeSet<u32>,
    /// The addresses of the peer of each interface, without those that any interface may have
    /// (loopback, link-local).
    pub peer_addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
}

/// Whether `address` can be a pod's: not loopback, link-local, multicast or unspecified.
#[must_use]
pub fn is_pod_address(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !is_link_local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}
