//! Whole Ethernet frames, sent from a link and captured in a namespace, past every protocol that
//! the kernel implements. What is in them is the business of the test.
//!
//! ```text
//! Frames ── frame ──► eth0 of a pod ══ node ══► eth0 of another pod ──► Capture
//! ```
//!
//! Both need `CAP_NET_RAW`, which pods have by default.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket as open_socket,
};
use socket2::Socket;

use super::namespace::Namespace;

/// The largest frame on a link of a lab, with a tag.
const FRAME: usize = 2048;
/// How much the kernel keeps for a capture that falls behind, in bytes.
const BACKLOG: usize = 32 << 20;
/// The most frames that a capture keeps; a test sends some thousands.
const MOST: usize = 100_000;
/// How often a capture looks whether it should end.
const GLANCE: Duration = Duration::from_millis(20);

/// A link of a namespace, to send frames from.
#[derive(Debug)]
pub struct Frames {
    socket: Socket,
    link: LinkAddr,
}

impl Frames {
    /// Opens a link of the namespace in which this thread is; see [`Namespace::run`].
    ///
    /// # Errors
    /// When there is no such link, or the thread has no `CAP_NET_RAW`.
    pub fn open(link: &str) -> Result<Self> {
        let socket = packet_socket()?;
        let link = link_address(link)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &link)
            .context("failed to bind to a link")?;
        Ok(Self { socket, link })
    }

    /// The MAC address of the link.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.link.addr().unwrap_or_default()
    }

    /// The number of the link in its namespace, which is the zone of its link-local addresses.
    #[must_use]
    pub fn index(&self) -> u32 {
        u32::try_from(self.link.ifindex()).unwrap_or_default()
    }

    /// Sends a frame as it is, from its destination MAC address on.
    ///
    /// # Errors
    /// When the link is down or the frame longer than the link takes.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.socket).write_all(frame)
    }
}

/// Everything that arrives in a namespace, by any link, until [`Capture::stop`].
#[derive(Debug)]
pub struct Capture {
    ended: Arc<AtomicBool>,
    frames: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    /// Begins. Frames that the namespace itself sends are in it as well. The kernel removes VLAN
    /// tags, so a frame is found by its payload and not by its headers.
    ///
    /// # Errors
    /// When no packet socket can be opened.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let mut socket = namespace.run(packet_socket)??;
        socket.set_recv_buffer_size(BACKLOG)?;
        socket.set_read_timeout(Some(GLANCE))?;
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let frames = thread::spawn(move || {
            let (mut frames, mut buffer) = (Vec::new(), vec![0; FRAME]);
            while frames.len() < MOST {
                match socket.read(&mut buffer) {
                    Ok(length) => frames.extend(buffer.get(..length).map(<[u8]>::to_vec)),
                    // Only once nothing is left to read.
                    Err(_) if stop.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
            frames
        });
        Ok(Self { ended, frames })
    }

    /// Ends it; every frame that arrived before this call.
    ///
    /// # Errors
    /// When the thread of the capture panicked.
    pub fn stop(self) -> Result<Vec<Vec<u8>>> {
        self.ended.store(true, Ordering::Relaxed);
        self.frames.join().map_err(|_| anyhow!("a capture panicked"))
    }
}

fn packet_socket() -> Result<Socket> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = open_socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
    Ok(socket.context("failed to open a packet socket")?.into())
}

/// The link-layer address of a link, in the form that packet sockets take.
fn link_address(link: &str) -> Result<LinkAddr> {
    let mut all =
        getifaddrs().context("failed to list links")?.filter(|found| found.interface_name == link);
    let address = all.find_map(|found| found.address?.as_link_addr().copied());
    address.with_context(|| format!("there is no link {link}"))
}
