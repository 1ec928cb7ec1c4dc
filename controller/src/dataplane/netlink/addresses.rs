//! The node's own addresses.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::Socket;
use super::request::Scope;

/// Every address of an interface in this network namespace.
///
/// # Errors
/// When the kernel does not list them.
pub fn local() -> io::Result<HashSet<IpAddr>> {
    let mut netlink = Socket::open(NETLINK_ROUTE)?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut found = HashSet::new();
    for answer in netlink.request(Scope::All, request)? {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        // With a peer, ADDRESS is that of the peer, and LOCAL the interface's own.
        let (mut address, mut local) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Address(found) => address = Some(found),
                AddressAttribute::Local(found) => local = Some(found),
                _ => {}
            }
        }
        found.extend(local.or(address));
    }
    Ok(found)
}
