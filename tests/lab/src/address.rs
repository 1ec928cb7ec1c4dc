//! The address plan: which address is whose. Pure; nothing is configured here.
//!
//! ```text
//! internet 203.0.113.10, 2001:db8:113::10
//!     |
//!  fabric  172.20.0.1, fd20::1
//!     |
//!  node i  172.20.0.(10+i), fd20::(0x10+i)
//!     |      gateway 10.244.i.1, fd44:0:0:i::1     tunnel 10.244.i.0, fd44:0:0:i::
//!   pod h  10.244.i.h, fd44:0:0:i::h               (h from 10 up; 2 to 9 are free for tests)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::options::Family;

/// The first host number that the lab gives to a pod by itself.
pub(super) const FIRST_POD: u8 = 10;
/// The last host number that the lab gives to a pod by itself.
pub(super) const LAST_POD: u8 = 250;
/// The most nodes that a lab can have.
pub(super) const MAX_NODES: u8 = 100;

/// The address of node `index` (from 1) on the fabric.
pub(super) fn node(index: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 20, 0, 10 + index).into(),
        Family::V6 => Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(index)).into(),
    }
}

/// The network of all node addresses.
#[must_use]
pub fn node_network(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 24).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0), 64).into(),
    }
}

/// The network of all pod addresses.
#[must_use]
pub fn pod_network(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 0), 48).into(),
    }
}

/// The address of the internet host.
#[must_use]
pub fn internet(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10).into(),
    }
}

/// The fabric's address towards the internet host.
pub(super) fn internet_gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1).into(),
    }
}

/// The fabric's address towards the nodes.
pub(super) fn fabric(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 20, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// The pods of node `index`.
pub(super) fn pod_cidr(index: u8, family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 244, index, 0), 24).into(),
        Family::V6 => {
            let base = Ipv6Addr::new(0xfd44, 0, 0, index.into(), 0, 0, 0, 0);
            Ipv6Net::new_assert(base, 64).into()
        }
    }
}

/// Host `host` in the pod CIDR of node `index`: 0 is the tunnel, 1 the gateway.
pub(super) fn pod(index: u8, host: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, index, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd44, 0, 0, index.into(), 0, 0, 0, host.into()).into(),
    }
}

/// The vxlan device's address on node `index`.
pub(super) fn tunnel(index: u8, family: Family) -> IpAddr {
    pod(index, 0, family)
}

/// The address of `cni0` on node `index`.
pub(super) fn gateway(index: u8, family: Family) -> IpAddr {
    pod(index, 1, family)
}

/// The prefix length that covers one address.
pub(super) fn host_bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The address of one family among those of a node or pod.
pub(super) fn of_family(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    addresses.iter().copied().find(|&address| Family::of(address) == family)
}
