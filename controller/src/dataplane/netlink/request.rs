//! Requests that read from the kernel: one request and all of its answers.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

use super::{Received, Socket, unchanged};

/// How long the kernel may take for all answers to one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The header of every message.
pub(super) const HEADER_BYTES: usize = 16;

/// How many objects a request reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::dataplane) enum Scope {
    /// One object.
    One,
    /// All objects of a sort.
    All,
}

impl Socket {
    /// Sends a request and collects what the kernel answers. If objects are changed while they are
    /// listed, the list may miss some, and is requested again.
    ///
    /// # Errors
    /// When the kernel answers with an error, or does not answer in time, or objects are changed all
    /// the time.
    pub(in crate::dataplane) fn request<M>(
        &mut self,
        scope: Scope,
        request: M,
    ) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if scope == Scope::All { NLM_F_DUMP } else { 0 };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        unchanged(|| {
            self.sequence += 1;
            message.header.sequence_number = self.sequence;
            self.send(&message)?;
            self.listed()
        })
    }

    /// The answers to the last request; `None` if objects were changed while they were listed.
    fn listed<M: NetlinkDeserializable>(&mut self) -> io::Result<Option<Vec<M>>> {
        let sequence = self.sequence;
        let (mut answers, mut unreadable, mut is_whole) = (Vec::new(), 0, true);
        self.each_answer(Instant::now() + ANSWER_LIMIT, |message| {
            if message.sequence_number() != sequence {
                return Ok(false);
            }
            is_whole &= message.flags() & NLM_F_DUMP_INTR == 0;
            let is_last = message.flags() & NLM_F_MULTIPART == 0;
            let message = message.into_inner();
            match NetlinkMessage::<M>::deserialize(message).map(|message| message.payload) {
                // The kernel cannot list further.
                Ok(NetlinkPayload::Done(end)) if end.code != 0 => {
                    return Err(io::Error::from_raw_os_error(end.code.saturating_neg()));
                }
                Ok(NetlinkPayload::Done(_)) => return Ok(true),
                Ok(NetlinkPayload::Error(error)) if error.code.is_some() => {
                    return Err(error.to_io());
                }
                Ok(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                Ok(_) => {}
                Err(_) => unreadable += 1,
            }
            Ok(is_last)
        })?;
        self.unreadable += unreadable;
        Ok(is_whole.then_some(answers))
    }

    /// Receives messages until `is_last` returns true for one.
    ///
    /// # Errors
    /// The error of `is_last`, and when messages are lost or the last one does not arrive until
    /// `end`.
    pub(super) fn each_answer(
        &mut self,
        end: Instant,
        mut is_last: impl FnMut(NetlinkBuffer<&[u8]>) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            if !self.wait_until(end)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.receive()? {
                Received::Nothing => {}
                Received::Overrun => return Err(nix::errno::Errno::ENOBUFS.into()),
                Received::Datagram(datagram) => {
                    for message in Messages::of(datagram) {
                        if is_last(message?)? {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

/// The messages of one datagram; an error ends them.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn of(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn take(&mut self) -> Option<NetlinkBuffer<&'a [u8]>> {
        let length = NetlinkBuffer::new_checked(self.rest).ok()?.length();
        let length = usize::try_from(length).ok()?;
        let message = NetlinkBuffer::new_checked(self.rest.get(..length)?).ok()?;
        // Messages begin at multiples of four bytes.
        let next = length.next_multiple_of(4).max(HEADER_BYTES);
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some(message)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<NetlinkBuffer<&'a [u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.take();
        if message.is_none() {
            self.rest = &[];
        }
        Some(message.ok_or_else(|| io::ErrorKind::InvalidData.into()))
    }
}
