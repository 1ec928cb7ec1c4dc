//! One probe on its way: its socket, what it sends, and how it reads what comes back.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::listener::{raw_sctp, strip_ip_header};
use super::options::Family;
use super::probe::{Outcome, Probe, Protocol};
use super::sctp::Packet;

/// How often a datagram is sent within the time-out.
const SENDS: u32 = 3;
/// How long a probe waits for its source port; it holds up others of the same source.
const PORT_WAIT: Duration = Duration::from_millis(100);

/// What a flight ends with: the outcome, and the source that the server saw.
pub(super) type Landing = (Outcome, Option<SocketAddr>);

/// One probe under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) socket: Socket,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    speaks: Speaks,
    to: SocketAddr,
    /// What is sent, and again when nothing comes; empty with TCP.
    packet: Vec<u8>,
    received: Vec<u8>,
    resend_at: Instant,
    resend_every: Duration,
    /// An outcome that the kernel gave before any packet came back.
    early: Option<Outcome>,
}

#[derive(Debug, Clone, Copy)]
enum Speaks {
    Tcp { connected: bool },
    Udp,
    Sctp { tag: u32 },
    Icmp,
}

impl Flight {
    /// Creates the socket in the namespace of this thread and sends the first packet.
    pub(super) fn launch(probe: &Probe, timeout: Duration) -> Result<Self> {
        let (socket, speaks, packet) = prepare(probe).context("failed to create a socket")?;
        socket.set_nonblocking(true).context("failed to make a socket non-blocking")?;
        if let (Some(port), Protocol::Tcp | Protocol::Udp) = (probe.source_port, probe.protocol) {
            bind_port(&socket, Family::of(probe.to), port)?;
        }
        let started = Instant::now();
        let mut flight = Self {
            socket,
            started,
            deadline: started + timeout,
            speaks,
            to: SocketAddr::new(probe.to, probe.port),
            packet,
            received: Vec::new(),
            resend_at: started + timeout / SENDS,
            resend_every: timeout / SENDS,
            early: None,
        };
        flight.connect()?;
        if flight.early.is_none() {
            flight.early = flight.send();
        }
        Ok(flight)
    }

    fn connect(&mut self) -> Result<()> {
        // A raw socket has no ports; being connected filters by address alone.
        let port = match self.speaks {
            Speaks::Tcp { .. } | Speaks::Udp => self.to.port(),
            Speaks::Sctp { .. } | Speaks::Icmp => 0,
        };
        let target = SocketAddr::new(self.to.ip(), port).into();
        let connected = when_port_is_free(PORT_WAIT, || self.socket.connect(&target));
        let Err(error) = connected else { return Ok(()) };
        match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
            Errno::EINPROGRESS => {}
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE | Errno::EINVAL => {
                return Err(error).context("failed to connect (is the source port in use?)");
            }
            _ => self.early = Some(verdict(&error)),
        }
        Ok(())
    }

    /// When [`Flight::again`] or the deadline is due.
    pub(super) fn next_timer(&self) -> Instant {
        if self.packet.is_empty() { self.deadline } else { self.resend_at.min(self.deadline) }
    }

    /// Sends the packet once more.
    pub(super) fn again(&mut self) -> Option<Outcome> {
        self.resend_at += self.resend_every;
        self.send()
    }

    fn send(&mut self) -> Option<Outcome> {
        if self.packet.is_empty() {
            return None;
        }
        match self.socket.send(&self.packet) {
            Ok(_) => None,
            // A full buffer, or a DROP in this namespace's OUTPUT chain: like a packet on its way.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => None,
            Err(error) => Some(verdict(&error)),
        }
    }

    /// Reads what there is; the landing, if that decides it.
    pub(super) fn step(&mut self) -> Option<Landing> {
        if let Some(outcome) = self.early.take() {
            return Some((outcome, None));
        }
        if let Speaks::Tcp { connected: false } = self.speaks {
            match self.socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some((verdict(&error), None)),
            }
            self.socket.peer_addr().ok()?;
            self.speaks = Speaks::Tcp { connected: true };
        }
        loop {
            let mut buffer = [0; 2048];
            let result = (&self.socket).read(&mut buffer);
            match result {
                Ok(length) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    if let Some(landing) = self.understand(packet) {
                        return Some(landing);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted => {}
                    _ => return Some((verdict(&error), None)),
                },
            }
        }
    }

    fn understand(&mut self, packet: &[u8]) -> Option<Landing> {
        match self.speaks {
            Speaks::Tcp { .. } => {
                if packet.is_empty() {
                    return Some((Outcome::Reset, None));
                }
                self.received.extend(packet);
                self.received.ends_with(b"\n").then(|| opened(&self.received))
            }
            Speaks::Udp => Some(opened(packet)),
            Speaks::Sctp { tag: mine } => {
                let family = Family::of(self.to.ip());
                match strip_ip_header(family, packet).and_then(Packet::decode)? {
                    Packet::InitAck { tag, cookie, .. } if tag == mine => Some(opened(&cookie)),
                    Packet::Abort { tag, .. } if tag == mine => Some((Outcome::Refused, None)),
                    _ => None,
                }
            }
            // The lab knows who owns the address; the reply does not say.
            Speaks::Icmp => Some((Outcome::Open(String::new()), None)),
        }
    }
}

fn prepare(probe: &Probe) -> io::Result<(Socket, Speaks, Vec<u8>)> {
    let domain = Domain::for_address(SocketAddr::new(probe.to, probe.port));
    match probe.protocol {
        Protocol::Tcp => {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            Ok((socket, Speaks::Tcp { connected: false }, Vec::new()))
        }
        Protocol::Udp => {
            Ok((Socket::new(domain, Type::DGRAM, None)?, Speaks::Udp, b"probe".to_vec()))
        }
        Protocol::SctpInit => {
            let (tag, port) = unique();
            let source = probe.source_port.unwrap_or(port);
            let init = Packet::Init { source, destination: probe.port, tag };
            Ok((raw_sctp(probe.to)?, Speaks::Sctp { tag }, init.encode()))
        }
        Protocol::Icmp => {
            let (protocol, request) = match Family::of(probe.to) {
                Family::V4 => (socket2::Protocol::ICMPV4, 8),
                Family::V6 => (socket2::Protocol::ICMPV6, 128),
            };
            // The kernel fills in checksum and identifier of a ping socket's requests.
            let packet = vec![request, 0, 0, 0, 0, 0, 0, 1, b'l', b'a', b'b', b'!'];
            Ok((Socket::new(domain, Type::DGRAM, Some(protocol))?, Speaks::Icmp, packet))
        }
    }
}

/// Binds a socket to a port of its own namespace, also one in `TIME_WAIT`.
pub(super) fn bind_port(socket: &Socket, family: Family, port: u16) -> Result<()> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.set_reuse_address(true).context("failed to set SO_REUSEADDR")?;
    socket
        .bind(&SocketAddr::new(any, port).into())
        .with_context(|| format!("failed to bind source port {port}"))
}

/// Tries to connect until the source port is free of the connection before, which is over for the
/// test while its last packets are still on their way.
pub(super) fn when_port_is_free(
    limit: Duration,
    mut connect: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match connect() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && start.elapsed() < limit => {}
            result => return result,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A verification tag, and a source port above those that listeners use. Both start anywhere, so
/// that a replaced pod does not meet its predecessor's connection tracking entries.
fn unique() -> (u32, u16) {
    static START: LazyLock<u32> = LazyLock::new(|| {
        use std::hash::{BuildHasher, RandomState};
        let [a, b, c, d, ..] = RandomState::new().hash_one(0).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    });
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = START.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let port = 33_000 + u16::try_from(number % 27_000).unwrap_or_default();
    (number.max(1), port)
}

/// Reads `who address:port\n`.
fn opened(line: &[u8]) -> Landing {
    let line = String::from_utf8_lossy(line);
    let (who, seen_from) = parse_banner(&line);
    (Outcome::Open(who), seen_from)
}

/// Who sent a banner, and the source that they saw.
pub(super) fn parse_banner(line: &str) -> (String, Option<SocketAddr>) {
    let mut words = line.split_whitespace();
    let who = words.next().unwrap_or_default().to_owned();
    (who, words.next().and_then(|seen| seen.parse().ok()))
}

fn verdict(error: &io::Error) -> Outcome {
    match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        // ENOPROTOOPT is an ICMP protocol unreachable.
        Errno::ECONNREFUSED | Errno::ENOPROTOOPT => Outcome::Refused,
        Errno::ECONNRESET | Errno::EPIPE => Outcome::Reset,
        Errno::ETIMEDOUT | Errno::EPERM => Outcome::Dropped,
        other => Outcome::Unreachable(other),
    }
}
