//! Watches for changes of links and routes in this network namespace. The content of a change is
//! not read: it only triggers another snapshot.
//!
//! The kernel does not report changes of the peers of interfaces.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::dataplane::netlink::{Received, Socket};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_ROUTE` and `RTNLGRP_IPV6_ROUTE` of linux/rtnetlink.h.
const GROUPS: [u32; 3] = [1, 7, 11];

/// `RTM_NEWLINK` and `RTM_DELLINK`.
const LINK_MESSAGES: [u16; 2] = [16, 17];

/// The objects that have changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Changes {
    /// No link and no route.
    None,
    /// Routes.
    Routes,
    /// Links, and maybe routes.
    Links,
}

/// A subscription to changes in the network namespace of the thread that created it.
pub struct Watch {
    netlink: Socket,
}

impl Watch {
    /// Subscribes to the changes.
    ///
    /// # Errors
    /// When the kernel refuses a socket or a group.
    pub fn open() -> io::Result<Self> {
        let mut netlink = Socket::open(NETLINK_ROUTE)?;
        GROUPS.into_iter().try_for_each(|group| netlink.join(group))?;
        Ok(Self { netlink })
    }

    /// Waits for a change, at most for `limit`.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Changes> {
        let mut changes = Changes::None;
        if !self.netlink.wait(limit)? {
            return Ok(changes);
        }
        loop {
            match self.netlink.receive()? {
                Received::Nothing => return Ok(changes),
                Received::Overrun => changes = Changes::Links,
                Received::Datagram(datagram) => changes = changes.max(kind(datagram)),
            }
        }
    }
}

/// What a datagram reports: the kernel sends notifications one by one.
fn kind(datagram: &[u8]) -> Changes {
    match datagram.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes) {
        None => Changes::None,
        Some(message) if LINK_MESSAGES.contains(&message) => Changes::Links,
        Some(_) => Changes::Routes,
    }
}
