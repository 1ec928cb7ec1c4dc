//! Reads a [`Snapshot`] by rtnetlink.
//!
//! The addresses of a peer are read by its index in its own namespace (`IFA_TARGET_NETNSID`): no
//! namespace is entered, and `NET_ADMIN` is enough.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Interface, InterfaceKind, Peer, Snapshot, is_pod_address};
use crate::dataplane::netlink::Socket;
use crate::dataplane::netlink::request::Scope;

/// How long after a pair appeared its addresses are read with each snapshot: a plugin creates the
/// pair first, and sets its addresses and the namespace of its peer later.
const NEW_FOR: Duration = Duration::from_secs(2);

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// The pairs of which the addresses are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refresh {
    /// Pairs that appeared a moment ago. For the others, the last reading is used.
    New,
    /// All pairs.
    All,
}

/// Reads snapshots of the network namespace of the calling thread.
#[derive(Default, Debug)]
pub struct Reader {
    peers: BTreeMap<u32, Known>,
}

/// The last reading of the peer of one pair.
#[derive(Debug)]
struct Known {
    peer: Peer,
    since: Instant,
    addresses: BTreeSet<IpAddr>,
}

impl Reader {
    /// Reads everything, except the addresses of the peers of interfaces that `skip` names.
    ///
    /// With 250 pods and a debug build, a snapshot takes 15 ms of a CPU, and 7 ms more if the
    /// addresses of all peers are read (`controller/tests/dataplane/attach.rs` prints it).
    ///
    /// # Errors
    /// When the kernel does not list interfaces or routes. An interface that disappears meanwhile
    /// is no error.
    pub fn read(
        &mut self,
        refresh: Refresh,
        skip: impl Fn(&Interface) -> bool,
    ) -> io::Result<Snapshot> {
        let mut netlink = Socket::open(NETLINK_ROUTE)?;
        // Without this option, the kernel ignores the requested namespace, interface and table.
        netlink.check_strictly()?;
        let mut snapshot =
            Snapshot { interfaces: interfaces(&mut netlink)?, ..Snapshot::default() };
        for family in FAMILIES {
            routes(&mut netlink, family, &mut snapshot)?;
        }
        self.read_peers(&mut netlink, refresh, &snapshot, skip);
        let known = self.peers.iter();
        snapshot.peer_addresses =
            known.map(|(index, known)| (*index, known.addresses.clone())).collect();
        Ok(snapshot)
    }

    fn read_peers(
        &mut self,
        netlink: &mut Socket,
        refresh: Refresh,
        snapshot: &Snapshot,
        skip: impl Fn(&Interface) -> bool,
    ) {
        let now = Instant::now();
        let mut peers = BTreeMap::new();
        for (index, interface) in &snapshot.interfaces {
            let Some(peer) = interface.peer.filter(|_| !skip(interface)) else { continue };
            let known = self.peers.remove(index).filter(|known| known.peer == peer);
            let since = known.as_ref().map_or(now, |known| known.since);
            let addresses = match known {
                Some(known) if refresh == Refresh::New && now - since > NEW_FOR => known.addresses,
                // If they cannot be read, the last ones stay.
                known => addresses(netlink, peer)
                    .unwrap_or_else(|_| known.map(|known| known.addresses).unwrap_or_default()),
            };
            peers.insert(*index, Known { peer, since, addresses });
        }
        self.peers = peers;
    }
}

fn interfaces(netlink: &mut Socket) -> io::Result<BTreeMap<u32, Interface>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = netlink.request(Scope::All, RouteNetlinkMessage::GetLink(request))?;
    let interfaces = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some((message.header.index, interface(message))),
        _ => None,
    });
    Ok(interfaces.collect())
}

fn interface(message: LinkMessage) -> Interface {
    let mut interface = Interface::default();
    let (mut link, mut namespace) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Controller(master) => interface.master = Some(master),
            LinkAttribute::Link(index) => link = Some(index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        interface.kind = interface_kind(&kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    match (link, namespace) {
        (Some(index), Some(namespace)) if interface.kind == InterfaceKind::Pair => {
            interface.peer = Some(Peer { namespace, index });
        }
        (lower, None) => interface.lower = lower,
        _ => {}
    }
    interface
}

fn interface_kind(kind: &str) -> InterfaceKind {
    match kind {
        "veth" | "netkit" => InterfaceKind::Pair,
        "bridge" => InterfaceKind::Bridge,
        "vlan" => InterfaceKind::Vlan,
        _ => InterfaceKind::Other,
    }
}

/// The addresses of an interface of another namespace.
fn addresses(netlink: &mut Socket, peer: Peer) -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for family in FAMILIES {
        let mut request = AddressMessage::default();
        request.header.family = family;
        request.header.index = peer.index;
        request.attributes.push(AddressAttribute::TargetNetNsId(peer.namespace));
        let request = RouteNetlinkMessage::GetAddress(request);
        for answer in netlink.request(Scope::All, request)? {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            // The kernel may list the addresses of other interfaces too.
            if message.header.index == peer.index {
                addresses.extend(address(&message.attributes));
            }
        }
    }
    addresses.retain(|address| is_pod_address(*address));
    Ok(addresses)
}

/// The address of the interface: `IFA_ADDRESS` is that of its peer where the two differ.
fn address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// Adds the main table of one family: CNI plugins write their routes to pods there.
fn routes(netlink: &mut Socket, family: AddressFamily, snapshot: &mut Snapshot) -> io::Result<()> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    let answers = match netlink.request(Scope::All, RouteNetlinkMessage::GetRoute(request)) {
        Ok(answers) => answers,
        // The kernel has no IPv6, or the namespace never had a route of the table.
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for answer in answers {
        if let RouteNetlinkMessage::NewRoute(message) = answer {
            add_route(&message, snapshot);
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    matches!(errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
}

fn add_route(message: &RouteMessage, snapshot: &mut Snapshot) {
    let (mut to, mut interface, mut has_gateway) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                to = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                to = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            RouteAttribute::MultiPath(hops) => {
                snapshot.uplinks.extend(hops.iter().map(|hop| hop.interface_index));
                return;
            }
            _ => {}
        }
    }
    let Some(interface) = interface else { return };
    let header = &message.header;
    if has_gateway || header.destination_prefix_length == 0 {
        snapshot.uplinks.insert(interface);
        return;
    }
    // A pod can make the kernel add IPv6 routes with router advertisements and redirects.
    let is_learnt = header.address_family == AddressFamily::Inet6
        && matches!(
            header.protocol,
            RouteProtocol::Ra | RouteProtocol::IcmpRedirect | RouteProtocol::Kernel
        );
    let Some(to) = to.filter(|to| is_pod_address(*to)) else { return };
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let is_host = header.destination_prefix_length == bits && header.kind == RouteType::Unicast;
    if is_host && !is_learnt {
        snapshot.host_routes.insert((to, interface));
    }
}
