//! The kernel's log of packets: the socket that receives one NFLOG group.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigFlags, ConfigMode, ConfigNla, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Received, Socket};

/// How many bytes of a packet are copied: addresses, options and ports.
const COPIED_BYTES: u32 = 128;
/// The receive buffer in bytes, as the kernel counts them; at most `net.core.rmem_max`.
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
        /// The netlink port of that process: in most cases its process id.
        port: u32,
    },
    /// The kernel returned an error.
    #[error("failed to {what}: {said}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// The error of the kernel.
        said: io::Error,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |said| Error::Kernel { what, said }
}

/// Opens a socket that gets the packets of one group of this network namespace, of both families.
///
/// The socket binds to the group once, since a group is the same in both families. `PF_BIND` is
/// not used: rules of NFLOG do not need it, and it would redirect all other logs of the node's
/// kernel (`LOG` rules, invalid packets) to netlink.
///
/// # Errors
/// When another process has the group, the process lacks the permission, or the kernel lacks NFLOG.
pub fn open(group: u16) -> Result<Socket, Error> {
    let mut socket =
        Socket::open(NETLINK_NETFILTER).map_err(failed("open a netfilter netlink socket"))?;
    socket.netlink.set_rx_buf_sz(BUFFER_BYTES).map_err(failed("size a netlink socket"))?;
    if let Err(said) = configure(&mut socket, group, vec![ConfigCmd::Bind.into()]) {
        // The kernel also answers "not permitted" when another process has the group.
        let taken = reader_of(group).map(|port| Error::Taken { group, port });
        return Err(taken.unwrap_or_else(|| failed("bind to the NFLOG group")(said)));
    }
    let options = vec![
        ConfigMode::new_packet(COPIED_BYTES).into(),
        ConfigFlags::SEQ.into(),
        // Each packet at once: our rules limit their number.
        ConfigNla::QThresh(1),
    ];
    configure(&mut socket, group, options).map_err(failed("set up the NFLOG group"))?;
    Ok(socket)
}

fn configure(socket: &mut Socket, group: u16, attributes: Vec<ConfigNla>) -> io::Result<()> {
    socket.send(&config_request(NetfilterProtoFamily::Unspec, group, attributes))?;
    let end = Instant::now() + ANSWER_TIMEOUT;
    loop {
        // Packets may arrive continuously, and the answer may be lost among them.
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

/// The answer to a request in a datagram; `None` when the datagram is not an answer.
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
