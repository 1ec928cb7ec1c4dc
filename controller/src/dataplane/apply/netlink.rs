//! Asks the kernel by netlink: one request, all of its answers. Nothing is changed by it.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the kernel may take for all answers to one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Datagrams of a dump have 32 KiB at most.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// What every message begins with.
const HEADER_BYTES: usize = 16;

/// A socket for requests.
pub(super) struct Netlink {
    socket: Socket,
    datagram: Vec<u8>,
    sequence: u32,
    /// Answers that were not understood so far.
    pub unreadable: usize,
}

/// How much a request asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One object.
    One,
    /// All objects of a sort.
    All,
}

impl Netlink {
    /// A socket of one of the netlink protocols, in this thread's network namespace.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let datagram = Vec::with_capacity(DATAGRAM_BYTES);
        Ok(Self { socket, datagram, sequence: 0, unreadable: 0 })
    }

    /// Sends a request and collects what the kernel answers.
    ///
    /// # Errors
    /// What the kernel says instead, and when it does not answer in time.
    pub(super) fn request<M>(&mut self, scope: Scope, request: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if scope == Scope::All { NLM_F_DUMP } else { 0 };
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let end = Instant::now() + ANSWER_LIMIT;
        let mut answers = Vec::new();
        while !self.collect(end, &mut answers)? {}
        Ok(answers)
    }

    /// Takes one datagram; gives whether it was the last one.
    fn collect<M: NetlinkDeserializable>(
        &mut self,
        end: Instant,
        answers: &mut Vec<M>,
    ) -> io::Result<bool> {
        self.wait(end)?;
        self.datagram.clear();
        self.socket.recv(&mut self.datagram, 0)?;
        let mut rest = self.datagram.as_slice();
        let mut is_last = true;
        while !rest.is_empty() {
            let broken = || io::Error::from(io::ErrorKind::InvalidData);
            let header = NetlinkBuffer::new_checked(rest).map_err(|_| broken())?;
            let length = usize::try_from(header.length()).map_err(|_| broken())?;
            let is_answer = header.sequence_number() == self.sequence;
            is_last = is_answer && header.flags() & NLM_F_MULTIPART == 0;
            let message = rest.get(..length).ok_or_else(broken)?;
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4).max(HEADER_BYTES)..).unwrap_or_default();
            if !is_answer {
                continue;
            }
            match NetlinkMessage::<M>::deserialize(message).map(|message| message.payload) {
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(NetlinkPayload::Error(error)) if error.code.is_some() => {
                    return Err(error.to_io());
                }
                Ok(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(is_last)
    }

    fn wait(&self, end: Instant) -> io::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut sockets, limit) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
