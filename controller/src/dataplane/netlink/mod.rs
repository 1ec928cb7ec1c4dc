//! Netlink: the agent's sockets, which never block and receive only from the kernel.
//!
//! [`nflog`] opens the log of denials; [`conntrack`] reads and ends connections; [`nft_events`]
//! receives changes of nftables; [`addresses`] are the node's own; `request` reads from the kernel.

#![expect(clippy::disallowed_types, reason = "netlink is one of the two ways to the kernel")]

pub mod addresses;
pub(super) mod attributes;
pub mod conntrack;
pub mod nflog;
pub mod nft_events;
pub mod nftables;
pub(super) mod request;

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_packet_core::{NetlinkMessage, NetlinkSerializable};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Datagrams of a dump have 32 KiB at most.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// How often a list is requested while other programs change the listed objects.
const TRIES: usize = 8;

/// A socket of one netlink protocol in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    netlink: netlink_sys::Socket,
    datagram: Vec<u8>,
    /// The number of the last request.
    sequence: u32,
    /// How many answers could not be parsed so far.
    pub(super) unreadable: usize,
}

/// The result of receiving without waiting.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram from the kernel.
    Datagram(&'a [u8]),
    /// Datagrams were lost, since they came faster than they were read.
    Overrun,
    /// There is no datagram yet.
    Nothing,
}

impl Socket {
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut netlink = netlink_sys::Socket::new(protocol)?;
        netlink.bind_auto()?;
        netlink.set_non_blocking(true)?;
        let datagram = Vec::with_capacity(DATAGRAM_BYTES);
        Ok(Self { netlink, datagram, sequence: 0, unreadable: 0 })
    }

    /// Makes the kernel refuse a request of which it would otherwise ignore a part.
    pub(super) fn check_strictly(&mut self) -> io::Result<()> {
        self.netlink.set_netlink_get_strict_chk(true)
    }

    /// Subscribes to a multicast group.
    pub(super) fn join(&mut self, group: u32) -> io::Result<()> {
        self.netlink.add_membership(group)
    }

    fn send<M: NetlinkSerializable>(&self, message: &NetlinkMessage<M>) -> io::Result<()> {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.netlink.send(&bytes, 0).map(drop)
    }

    /// Waits for a datagram until `end`. Returns whether there is one. A wait that a signal
    /// interrupts continues.
    fn wait_until(&self, end: Instant) -> io::Result<bool> {
        until(end, |left| self.wait(left))
    }

    /// Waits at most `limit` for a datagram. Returns whether there is one. A signal ends the wait.
    ///
    /// # Errors
    /// When the kernel cannot wait.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut sockets = [PollFd::new(self.netlink.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut sockets, limit) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one datagram, without waiting.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn receive(&mut self) -> io::Result<Received<'_>> {
        self.datagram.clear();
        match self.netlink.recv_from(&mut self.datagram, 0) {
            // Other processes may send to a netlink socket, too; the kernel is port 0.
            Ok((_, sender)) if sender.port_number() != 0 => Ok(Received::Datagram(&[])),
            Ok(_) => Ok(Received::Datagram(&self.datagram)),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                Errno::EAGAIN | Errno::EINTR => Ok(Received::Nothing),
                Errno::ENOBUFS => Ok(Received::Overrun),
                _ => Err(error),
            },
        }
    }
}

/// Lists objects until none was changed meanwhile: `list` returns `None` if one was.
///
/// # Errors
/// The error of `list`, and `Interrupted` when objects are changed all the time.
fn unchanged<T>(mut list: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    for _ in 0..TRIES {
        if let Some(listed) = list()? {
            return Ok(listed);
        }
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "objects change while they are listed"))
}

/// Calls `wait` with the remaining time until `end`, until the time is over or `wait` returns true.
fn until(end: Instant, mut wait: impl FnMut(Duration) -> io::Result<bool>) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if wait(left)? {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_changes_meanwhile_is_requested_again_but_not_for_ever() {
        let mut lists = [Ok(None), Ok(None), Ok(Some("whole"))].into_iter();
        assert_eq!(unchanged(|| lists.next().unwrap()).unwrap(), "whole");
        let mut failing = [Ok(None), Err(Errno::EPERM.into())].into_iter();
        let failed = unchanged::<()>(|| failing.next().unwrap()).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(Errno::EPERM as i32));
        let mut tries = 0;
        let never = unchanged::<()>(|| {
            tries += 1;
            Ok(None)
        });
        assert_eq!((never.unwrap_err().kind(), tries), (io::ErrorKind::Interrupted, TRIES));
    }

    #[test]
    fn a_wait_that_is_interrupted_continues_until_its_end() {
        let end = Instant::now() + Duration::from_mins(1);
        let mut interruptions = 3;
        let found = until(end, |left| {
            assert!(left > Duration::from_secs(30));
            interruptions -= 1;
            Ok(interruptions == 0)
        });
        assert!(found.unwrap() && interruptions == 0);
        assert!(!until(Instant::now(), |_| Ok(false)).unwrap());
    }
}
