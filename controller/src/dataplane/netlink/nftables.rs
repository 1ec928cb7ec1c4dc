//! nftables over netlink: transactions of many messages, and lists of objects.
//!
//! ```text
//! begin │ message 0 │ message 1 │ … │ end     one datagram: the kernel makes all of it, or nothing
//! ```
//!
//! The kernel executes, or refuses, a transaction while it takes the datagram. Then only its
//! answers have to be read.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBuf, SndBufForce};

use super::request::{HEADER_BYTES, Messages};
use super::{Received, Socket, unchanged};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// The header of nfnetlink, behind that of netlink.
const FAMILY_BYTES: usize = 4;
/// The receive buffer in bytes: for an answer for each message that is refused, or a part of a
/// list.
const ANSWER_BYTES: usize = 4 << 20;
/// The kernel answers a transaction before the send returns, and each part of a list immediately.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A request to nftables: the type of a message, its flags, family and attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `NFT_MSG_…`.
    pub kind: u8,
    /// `NLM_F_…`, beside the flags that all requests have.
    pub flags: u16,
    /// `NFPROTO_…`.
    pub family: u8,
    /// Its attributes.
    pub attributes: Vec<u8>,
}

/// A message of a transaction that was refused, by its place in it, and why.
pub type Refusal = (usize, Errno);

/// A socket for transactions and lists, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    /// Its netlink port, which the kernel names as the author of changes.
    port: u32,
}

impl Connection {
    /// Opens a socket.
    ///
    /// # Errors
    /// When the process lacks the permission, or the kernel has no netfilter.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::open(NETLINK_NETFILTER)?;
        let mut address = netlink_sys::SocketAddr::new(0, 0);
        socket.netlink.get_address(&mut address)?;
        // Without the permission, the usual limit stays.
        let _ = setsockopt(&socket.netlink.as_fd(), RcvBufForce, &ANSWER_BYTES);
        socket.sequence = 0;
        Ok(Self { socket, port: address.port_number() })
    }

    /// The netlink port of the socket.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes all changes at once. Returns the refusals: if there are any, nothing is changed.
    ///
    /// # Errors
    /// When it is not known whether the changes were made.
    pub fn commit(&mut self, messages: &[Message]) -> io::Result<Vec<Refusal>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.socket.sequence.wrapping_add(1);
        let last = messages.len() - 1;
        let mut bytes = Vec::new();
        self.write(&mut bytes, BEGIN, 0, 0, SUBSYSTEM, &[]);
        for (index, message) in messages.iter().enumerate() {
            let kind = SUBSYSTEM << 8 | u16::from(message.kind);
            // The answer to the last message acknowledges all.
            let flags = message.flags | if index == last { NLM_F_ACK } else { 0 };
            self.write(&mut bytes, kind, flags, message.family, 0, &message.attributes);
        }
        self.write(&mut bytes, END, 0, 0, SUBSYSTEM, &[]);
        self.make_room(bytes.len())?;
        self.socket.netlink.send(&bytes, 0)?;
        self.answers(first, last)
    }

    /// Reads the answers to the transaction whose first message, its beginning, has this number.
    fn answers(&mut self, first: u32, last: usize) -> io::Result<Vec<Refusal>> {
        let (mut refusals, mut is_acknowledged) = (Vec::new(), false);
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            // All answers are there at once. So after the first one, the wait is over.
            let is_over = is_acknowledged || !refusals.is_empty();
            if !self.socket.wait_until(if is_over { Instant::now() } else { end })? {
                break;
            }
            let datagram = match self.socket.receive()? {
                Received::Nothing => continue,
                Received::Overrun if is_over => break,
                Received::Overrun => return Err(Errno::ENOBUFS.into()),
                Received::Datagram(datagram) => datagram,
            };
            for message in Messages::of(datagram) {
                let message = message?;
                if message.message_type() != NLMSG_ERROR {
                    continue;
                }
                let number = message.sequence_number().wrapping_sub(first);
                // An error of the beginning is the error of the transaction as a whole.
                let index = usize::try_from(number).map_or(0, |n| n.saturating_sub(1));
                match error(&message)? {
                    Some(errno) if index <= last => refusals.push((index, errno)),
                    Some(_) => {}
                    None => is_acknowledged |= index == last,
                }
            }
        }
        if refusals.is_empty() && !is_acknowledged {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(refusals)
    }

    /// Lists objects: the attributes of each. `request` selects the objects.
    ///
    /// # Errors
    /// When the kernel answers with an error, or other programs change the objects all the time.
    pub fn list(&mut self, request: &Message) -> io::Result<Vec<Vec<u8>>> {
        unchanged(|| self.try_list(request))
    }

    /// `None` when the objects were changed while they were listed.
    fn try_list(&mut self, request: &Message) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut bytes = Vec::new();
        let kind = SUBSYSTEM << 8 | u16::from(request.kind);
        self.write(
            &mut bytes,
            kind,
            request.flags | NLM_F_DUMP,
            request.family,
            0,
            &request.attributes,
        );
        let own = self.socket.sequence;
        self.socket.netlink.send(&bytes, 0)?;
        let (mut listed, mut is_whole) = (Vec::new(), true);
        self.socket.each_answer(Instant::now() + ANSWER_LIMIT, |message| {
            if message.sequence_number() != own {
                return Ok(false);
            }
            is_whole &= message.flags() & NLM_F_DUMP_INTR == 0;
            match message.message_type() {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => return error(&message)?.map_or(Ok(true), |errno| Err(errno.into())),
                _ => {}
            }
            listed.push(message.payload().get(FAMILY_BYTES..).unwrap_or_default().to_vec());
            Ok(false)
        })?;
        Ok(is_whole.then_some(listed))
    }

    /// Appends a message with the next number.
    fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: &[u8],
    ) {
        self.socket.sequence = self.socket.sequence.wrapping_add(1);
        let length = HEADER_BYTES + FAMILY_BYTES + attributes.len();
        let length = u32::try_from(length).expect("attributes have 64 KiB at most");
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(self.socket.sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        bytes.extend(attributes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    /// A datagram has to fit into the send buffer of the socket.
    fn make_room(&self, length: usize) -> io::Result<()> {
        let socket = self.socket.netlink.as_fd();
        // The kernel counts its own overhead too.
        let length = length.saturating_add(length / 4).max(1 << 18);
        setsockopt(&socket, SndBufForce, &length)
            .or_else(|_| setsockopt(&socket, SndBuf, &length))
            .map_err(Into::into)
    }
}

/// The error that a message reports; `None` if it reports success.
fn error(message: &NetlinkBuffer<&[u8]>) -> io::Result<Option<Errno>> {
    let code = message.payload().first_chunk().copied().map(i32::from_ne_bytes);
    match code {
        None => Err(io::ErrorKind::InvalidData.into()),
        Some(0) => Ok(None),
        Some(code) => Ok(Some(Errno::from_raw(-code))),
    }
}
