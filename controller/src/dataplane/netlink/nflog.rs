//! The kernel's log of packets: the socket that one NFLOG group comes out of.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigFlags, ConfigMode, ConfigNla, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Received, Socket};

/// So much of a packet is copied: addresses, options and ports.
const COPIED_BYTES: u32 = 128;
/// What may wait to be read, in the kernel's own count; it takes at most `net.core.rmem_max`.
const BUFFER_BYTES: i32 = 1 << 20;
/// How long the kernel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process reads the group.
    #[error("NFLOG group {group} is read by another process (netlink port {port})")]
    Taken {
        /// The group.
        group: u16,
        /// Its netlink port, which mostly is its process id.
        port: u32,
    },
    /// The kernel said no.
    #[error("failed to {what}: {said}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// What it said.
        said: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |said| Error::Kernel { what, said }
}

/// Opens a socket that gets the packets of one group of this network namespace, of both families.
///
/// The group is told to the kernel once, for it is the same in both families. The kernel's
/// `PF_BIND` is not used: rules of NFLOG need none, and it would turn every other log of the
/// node's kernel (`LOG` rules, invalid packets) towards netlink.
///
/// # Errors
/// When another process has it, the process may not, or the kernel has no such log.
pub fn open(group: u16) -> Result<Socket, Error> {
    let mut socket =
        Socket::open(NETLINK_NETFILTER).map_err(failed("open a netfilter netlink socket"))?;
    socket.netlink.set_rx_buf_sz(BUFFER_BYTES).map_err(failed("size a netlink socket"))?;
    if let Err(said) = configure(&mut socket, group, vec![ConfigCmd::Bind.into()]) {
        // The kernel calls it "not permitted" when another has the group, too.
        let taken = reader_of(group).map(|port| Error::Taken { group, port });
        return Err(taken.unwrap_or_else(|| failed("bind to the NFLOG group")(said)));
    }
    let options = vec![
        ConfigMode::new_packet(COPIED_BYTES).into(),
        ConfigFlags::SEQ.into(),
        // Each at once: rules of ours limit how many there are.
        ConfigNla::QThresh(1),
    ];
    configure(&mut socket, group, options).map_err(failed("set up the NFLOG group"))?;
    Ok(socket)
}

fn configure(socket: &mut Socket, group: u16, attributes: Vec<ConfigNla>) -> io::Result<()> {
    socket.send(&config_request(NetfilterProtoFamily::Unspec, group, attributes))?;
    let end = Instant::now() + ANSWER_TIMEOUT;
    loop {
        // Packets may come in without end, and the answer be lost among them.
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !socket.wait(left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Received::Datagram(datagram) = socket.receive()? else { continue };
        if let Some(answer) = answer(datagram) {
            return answer;
        }
    }
}

/// What a datagram answers to a request; `None` when it is something else.
fn answer(datagram: &[u8]) -> Option<io::Result<()>> {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(datagram).ok()?;
    match message.payload {
        NetlinkPayload::Error(ErrorMessage { code: None, .. }) => Some(Ok(())),
        NetlinkPayload::Error(error) => Some(Err(error.to_io())),
        _ => None,
    }
}

/// The netlink port of the process that reads a group.
fn reader_of(group: u16) -> Option<u32> {
    // The first two columns are the group and the port.
    let readers = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_log").ok()?;
    readers.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        let found = columns.next()?.parse::<u16>().ok()?;
        (found == group).then(|| columns.next()?.parse().ok()).flatten()
    })
}
