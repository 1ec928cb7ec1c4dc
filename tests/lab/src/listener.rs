//! What pods and nodes listen on, and the sockets for it, created inside their namespace.
//!
//! Serving them is [`server`](super::server)'s work.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use mio::net::{TcpListener, UdpSocket};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::options::{Families, Family};
use super::service::Transport;

/// What a TCP listener does with a connection after accepting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Says its banner and closes (the server's FIN comes first).
    Banner,
    /// Says its banner, then sends back what it gets until the client closes.
    Echo,
    /// Says its banner, then neither answers nor closes, whatever the client does.
    HoldOpen,
    /// Says its banner and shuts down its sending side; closes after the client did.
    HalfClose,
    /// Resets at once, without a banner.
    ResetAfterAccept,
    /// Says its banner and resets when the first byte arrives.
    ResetOnData,
    /// Says its banner and closes in order when the first byte arrives.
    CloseOnData,
}

/// A port that a pod or a node listens on, in all its families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    pub(super) protocol: Transport,
    pub(super) port: u16,
    pub(super) behaviour: Behaviour,
}

impl Listener {
    /// A TCP listener with [`Behaviour::Banner`].
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self::behaving(port, Behaviour::Banner)
    }

    /// A TCP listener with [`Behaviour::Echo`].
    #[must_use]
    pub fn echo(port: u16) -> Self {
        Self::behaving(port, Behaviour::Echo)
    }

    /// A TCP listener with the given behaviour.
    #[must_use]
    pub fn behaving(port: u16, behaviour: Behaviour) -> Self {
        Self { protocol: Transport::Tcp, port, behaviour }
    }

    /// A UDP listener: answers each datagram.
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self { protocol: Transport::Udp, port, behaviour: Behaviour::Banner }
    }

    /// An SCTP listener: answers INIT. Not on pods with hostNetwork.
    #[must_use]
    pub fn sctp(port: u16) -> Self {
        Self { protocol: Transport::Sctp, port, behaviour: Behaviour::Banner }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The transport.
    #[must_use]
    pub fn protocol(&self) -> Transport {
        self.protocol
    }
}

/// A socket that listens and is not served yet.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener, Behaviour),
    Udp(UdpSocket),
    Sctp(UdpSocket, Vec<u16>),
}

/// Creates the sockets of `listeners` inside `namespace`.
///
/// With `sctp_responder` there is also one that answers SCTP on all ports, ABORT where no listener
/// is. A namespace must have one at most.
pub(super) fn open(
    namespace: &Namespace,
    families: Families,
    addresses: &[IpAddr],
    listeners: &[Listener],
    sctp_responder: bool,
) -> Result<Vec<Bound>> {
    namespace
        .run(|| {
            let mut bound = Vec::new();
            for listener in listeners {
                let port = listener.port;
                match listener.protocol {
                    Transport::Tcp => {
                        for &family in families.each() {
                            let socket = open_tcp(family, port)
                                .with_context(|| format!("failed to listen on TCP port {port}"))?;
                            bound.push(Bound::Tcp(socket, listener.behaviour));
                        }
                    }
                    Transport::Udp => {
                        // A socket per address: the answer comes from the address that was asked.
                        for &address in addresses {
                            let socket = UdpSocket::bind(SocketAddr::new(address, port))
                                .with_context(|| format!("failed to bind UDP {address}:{port}"))?;
                            bound.push(Bound::Udp(socket));
                        }
                    }
                    Transport::Sctp => {}
                }
            }
            if sctp_responder {
                let mut ports: Vec<u16> = Vec::new();
                ports.extend(
                    listeners.iter().filter(|l| l.protocol == Transport::Sctp).map(|l| l.port),
                );
                for &address in addresses {
                    let socket = open_sctp(address)
                        .with_context(|| format!("failed to bind raw SCTP on {address}"))?;
                    bound.push(Bound::Sctp(socket, ports.clone()));
                }
            }
            anyhow::Ok(bound)
        })?
        .with_context(|| format!("in namespace {}", namespace.name()))
}

fn open_tcp(family: Family, port: u16) -> io::Result<TcpListener> {
    let (domain, any): (_, IpAddr) = match family {
        Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn open_sctp(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = raw_sctp(address)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    // The shape of a UDP socket is all that a raw one needs: datagrams, each with its peer.
    Ok(UdpSocket::from_std(socket.into()))
}

/// A non-blocking raw SCTP socket of the address's family.
pub(super) fn raw_sctp(address: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, 0));
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The IP protocol number of SCTP.
const SCTP: i32 = 132;

/// The transport header of a received raw packet: an IPv4 one comes with its IP header.
pub(super) fn strip_ip_header(family: Family, packet: &[u8]) -> Option<&[u8]> {
    match family {
        Family::V4 => packet.get(usize::from(packet.first()? & 0x0F) * 4..),
        Family::V6 => Some(packet),
    }
}
