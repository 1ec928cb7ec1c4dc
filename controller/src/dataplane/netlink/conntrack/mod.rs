//! The connections that the kernel tracks: reads them and deletes them, by ctnetlink.
//!
//! ```text
//! Reader: one dump ─► Entry, Entry, …     Deleter: Handle ─► deleted or halted, or did not exist
//! ```
//!
//! Reading takes time in proportion to the table: about a second for a million entries. Entries are
//! not kept after they are read.

mod entry;

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

pub use self::entry::{Connection, Entry, Handle};
use super::request::Messages;
use super::{Received, Socket};

/// How long the kernel may take for the next datagram.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// A request for the number of entries, which needs the same permissions as reading and deleting.
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;

/// Reads the entries of this network namespace.
#[derive(Debug)]
pub struct Reader(Socket);

/// Deletes or halts entries of this network namespace.
#[derive(Debug)]
pub struct Deleter(Socket);

/// Whether the kernel lists and deletes entries for this process.
///
/// # Errors
/// When the kernel lacks `nf_conntrack_netlink`, or the process may not use it.
pub fn probe() -> io::Result<()> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let request =
        ConntrackMessage::Other { message_type: IPCTNL_MSG_CT_GET_STATS, attributes: Vec::new() };
    socket.ask(NetfilterProtoFamily::Unspec, NLM_F_ACK, request)?;
    let answered = socket.answers(|_| ControlFlow::Continue(()));
    // An old kernel module behind a newer nfnetlink: the kernel reports an invalid argument.
    answered.map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EINVAL | Errno::EOPNOTSUPP => io::Error::other("the kernel has no ctnetlink"),
        _ => error,
    })
}

impl Reader {
    /// A reader for the network namespace of this thread.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn open() -> io::Result<Self> {
        Socket::open(NETLINK_NETFILTER).map(Self)
    }

    /// Visits each entry of both families once, or until `visit` breaks. If the table changes
    /// meanwhile, a new entry can be missing, and an old one can be visited twice.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub fn each(&mut self, mut visit: impl FnMut(Entry<'_>) -> ControlFlow<()>) -> io::Result<()> {
        let request = ConntrackMessage::Get(Vec::new());
        self.0.ask(NetfilterProtoFamily::Unspec, NLM_F_DUMP, request)?;
        let mut unreadable = 0;
        let answered = self.0.answers(|message| {
            let entry = Entry::parse(message);
            unreadable += usize::from(entry.is_none());
            entry.map_or(ControlFlow::Continue(()), &mut visit)
        });
        self.0.unreadable += unreadable;
        answered
    }

    /// How many messages could not be parsed so far.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.0.unreadable
    }
}

impl Deleter {
    /// A deleter for the network namespace of this thread.
    ///
    /// # Errors
    /// When there is no such socket.
    pub fn open() -> io::Result<Self> {
        Socket::open(NETLINK_NETFILTER).map(Self)
    }

    /// Deletes one entry. Returns whether it existed. A later entry with the same tuple stays,
    /// unless it has the same id.
    ///
    /// # Errors
    /// When the kernel refuses: entries in a flow table of the hardware are busy.
    pub fn delete(&mut self, entry: &Handle) -> io::Result<bool> {
        let tuple = DefaultNla::new(NLA_F_NESTED | entry::CTA_TUPLE_ORIG, entry.tuple.to_vec());
        let id = DefaultNla::new(entry::CTA_ID, entry.id.to_vec());
        // Without a tuple, the kernel would delete all entries.
        let attributes = [tuple, id].map(ConntrackAttribute::Other).into();
        self.change(entry, ConntrackMessage::Delete(attributes))
    }

    /// Halts a TCP connection. Returns whether its entry existed. The entry is as if the client had
    /// sent only a SYN: any other packet of the client belongs to no connection and is judged. A
    /// packet of the server is still an answer; without the entry it would open a connection. The
    /// kernel does not compare the id.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn halt(&mut self, entry: &Handle) -> io::Result<bool> {
        let nested = |kind, value| DefaultNla::new(NLA_F_NESTED | kind, value);
        let bytes = |attribute: DefaultNla| {
            let mut bytes = vec![0; attribute.buffer_len()];
            attribute.emit(&mut bytes);
            bytes
        };
        let state =
            DefaultNla::new(entry::CTA_PROTOINFO_TCP_STATE, vec![entry::TCP_CONNTRACK_SYN_SENT]);
        let tcp = nested(entry::CTA_PROTOINFO_TCP, bytes(state));
        let information = nested(entry::CTA_PROTOINFO, bytes(tcp));
        let tuple = nested(entry::CTA_TUPLE_ORIG, entry.tuple.to_vec());
        let attributes = [tuple, information].map(ConntrackAttribute::Other).into();
        // Without NLM_F_CREATE, so that a deleted entry is not created again.
        self.change(entry, ConntrackMessage::New(attributes))
    }

    fn change(&mut self, entry: &Handle, request: ConntrackMessage) -> io::Result<bool> {
        self.0.ask(entry.family.into(), NLM_F_ACK, request)?;
        match self.0.answers(|_| ControlFlow::Continue(())) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Socket {
    fn ask(
        &mut self,
        family: NetfilterProtoFamily,
        flags: u16,
        request: ConntrackMessage,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let request = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        self.send(&message)
    }

    /// Passes the payload of each answer to the last request, up to its end or acknowledgement.
    fn answers(&mut self, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
        let sequence = self.sequence;
        let mut end = Instant::now() + SILENCE_LIMIT;
        loop {
            // Most often there is one: the kernel answers during the request.
            match self.receive()? {
                Received::Nothing => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.wait(left)?;
                }
                Received::Overrun => return Err(Errno::ENOBUFS.into()),
                Received::Datagram(datagram) => {
                    for message in Messages::of(datagram) {
                        let message = message?;
                        if message.sequence_number() != sequence {
                            continue;
                        }
                        let payload = message.payload();
                        match message.message_type() {
                            NLMSG_DONE | NLMSG_ERROR => return acknowledged(payload),
                            _ if each(payload).is_break() => return Ok(()),
                            _ => {}
                        }
                    }
                    end = Instant::now() + SILENCE_LIMIT;
                }
            }
        }
    }
}

/// The code in the end of a dump or an acknowledgement: 0, or the negative number of an error.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().copied().map(i32::from_ne_bytes);
    match code {
        Some(0..) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
