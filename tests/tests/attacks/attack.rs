//! One attack: who sends what to whom, what it needs, and what has to become of it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use portcullis_lab::{Family, Frames, Namespace, Topology};
use portcullis_tests::enforces_by_nftables;
use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::{Mac, Packet, frame, udp};

/// The port of listeners that the lab starts in pods, at their addresses.
pub(crate) const WEB: u16 = 80;
/// Ports of listeners at every address of a host, link-local ones and broadcasts included.
pub(crate) const ANY_TCP: u16 = 8081;
pub(crate) const ANY_UDP: u16 = 8082;
/// Datagrams to this port are not tracked on the node.
pub(crate) const UNTRACKED: u16 = 8083;
/// This port of the node leads to the victim.
pub(crate) const HOST_PORT: u16 = 31_080;

/// How long an answer takes at most, on a machine that is busy with other tests.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// The hosts of the world: see [`World`](crate::world::World).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A pod that no policy selects or allows.
    Mallory,
    /// The pod that the policies allow.
    Friend,
    /// May receive from the friend only.
    Victim,
    /// May send to the friend only.
    Caged,
    /// As the victim; a pod of the other node claims its addresses.
    Claimed,
    /// As the victim; an older pod of the other node and one with hostNetwork claim its addresses.
    Shared,
    /// Runs, but the source of the agents does not have it yet.
    Unborn,
    /// A pod that no policy selects.
    Bystander,
    /// A pod on the other node that no policy selects or allows.
    Stranger,
    /// The node of all these pods.
    Node,
    /// The other node.
    FarNode,
    /// The host outside of the cluster.
    Internet,
}

impl Who {
    pub(crate) const PODS: [(Self, &str, &str); 9] = [
        (Self::Mallory, "mallory", "n1"),
        (Self::Friend, "friend", "n1"),
        (Self::Victim, "victim", "n1"),
        (Self::Caged, "caged", "n1"),
        (Self::Claimed, "claimed", "n1"),
        (Self::Shared, "shared", "n1"),
        (Self::Unborn, "unborn", "n1"),
        (Self::Bystander, "bystander", "n1"),
        (Self::Stranger, "stranger", "n2"),
    ];
}

/// A host as packets see it.
pub(crate) struct Host {
    pub(crate) netns: Namespace,
    pub(crate) mac: Mac,
    /// The MAC address behind which every other network is.
    pub(crate) gateway: Mac,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) link_local: Ipv6Addr,
    /// The number of its eth0.
    pub(crate) link: u32,
    /// Whether it is on the bridge of n1.
    pub(crate) on_bridge: bool,
}

impl Host {
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        [self.v4.into(), self.v6.into(), self.link_local.into()].contains(&address)
    }
}

/// What the sender must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// It runs without any capability.
    Nothing,
    /// It runs with this one and no other.
    NetRaw,
}

/// What becomes of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Dropped,
    Passes,
}

/// Whether the sender got an answer. That it got none says nothing: the target may have received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Came,
    None,
}

/// Sends the packets of an attack.
pub(crate) type Send = Box<dyn Fn(&Shot<'_>) -> Result<Answer> + std::marker::Send + Sync>;

/// An attack.
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) from: Who,
    pub(crate) to: Who,
    pub(crate) needs: Needs,
    pub(crate) topologies: &'static [Topology],
    pub(crate) families: &'static [Family],
    /// What the target itself sends before.
    pub(crate) prelude: Option<Send>,
    pub(crate) send: Send,
    pub(crate) expected: Verdict,
    /// Where the kernel drops these packets, whatever the rules are.
    pub(crate) kernel_drops: &'static [Topology],
    pub(crate) open: &'static [Topology],
    pub(crate) open_until: &'static str,
}

pub(crate) const BOTH: &[Topology] = &[Topology::Bridge, Topology::Routed];
pub(crate) const BRIDGE: &[Topology] = &[Topology::Bridge];
pub(crate) const ROUTED: &[Topology] = &[Topology::Routed];
pub(crate) const V4: &[Family] = &[Family::V4];
pub(crate) const V6: &[Family] = &[Family::V6];

impl Attack {
    /// An attack of mallory on the victim by raw packets, which has to be dropped.
    pub(crate) fn raw(
        name: impl Into<String>,
        send: impl Fn(&Shot<'_>) -> Result<Answer> + std::marker::Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            from: Who::Mallory,
            to: Who::Victim,
            needs: Needs::NetRaw,
            topologies: BOTH,
            families: &Family::BOTH,
            prelude: None,
            send: Box::new(send),
            expected: Verdict::Dropped,
            kernel_drops: &[],
            open: &[],
            open_until: "",
        }
    }

    /// As [`Attack::raw`], by sockets that any process may open.
    pub(crate) fn plain(
        name: impl Into<String>,
        send: impl Fn(&Shot<'_>) -> Result<Answer> + std::marker::Send + Sync + 'static,
    ) -> Self {
        Self { needs: Needs::Nothing, ..Self::raw(name, send) }
    }

    pub(crate) fn between(self, from: Who, to: Who) -> Self {
        Self { from, to, ..self }
    }

    pub(crate) fn on(self, topologies: &'static [Topology]) -> Self {
        Self { topologies, ..self }
    }

    pub(crate) fn families(self, families: &'static [Family]) -> Self {
        Self { families, ..self }
    }

    pub(crate) fn passes(self) -> Self {
        Self { expected: Verdict::Passes, ..self }
    }

    /// Passes, but for nftables, which drops what is to or from addresses of a link at a bridge of pods:
    /// docs/operations.md states that.
    pub(crate) fn passes_with_iptables(self) -> Self {
        if enforces_by_nftables() { self } else { self.passes() }
    }

    pub(crate) fn after(
        self,
        prelude: impl Fn(&Shot<'_>) -> Result<Answer> + std::marker::Send + Sync + 'static,
    ) -> Self {
        Self { prelude: Some(Box::new(prelude)), ..self }
    }

    /// The kernel drops it in these topologies, so no control can arrive there.
    pub(crate) fn kernel_drops(self, topologies: &'static [Topology]) -> Self {
        Self { kernel_drops: topologies, ..self }
    }

    /// It is not as expected yet in these topologies: until what is done?
    #[allow(dead_code, reason = "at present, no attack of the table is open")]
    pub(crate) fn open_until(self, open: &'static [Topology], open_until: &'static str) -> Self {
        Self { open, open_until, ..self }
    }
}

/// An attack that is carried out in one family.
pub(crate) struct Shot<'a> {
    pub(crate) attack: &'a Attack,
    pub(crate) family: Family,
    pub(crate) from: &'a Host,
    pub(crate) to: &'a Host,
    pub(crate) friend: &'a Host,
    pub(crate) node: &'a Host,
    /// A port that no other shot has.
    pub(crate) port: u16,
    /// What tells its packets from all others.
    pub(crate) token: [u8; 8],
}

impl Shot<'_> {
    pub(crate) fn source(&self) -> IpAddr {
        self.from.address(self.family)
    }

    pub(crate) fn target(&self) -> IpAddr {
        self.to.address(self.family)
    }

    /// The token so many times: each eight bytes of it are the token.
    pub(crate) fn data(&self, times: usize) -> Vec<u8> {
        self.token.repeat(times)
    }

    /// A datagram of the token to [`WEB`].
    pub(crate) fn datagram(&self, source: IpAddr, target: IpAddr) -> Result<Packet> {
        self.datagram_to(source, target, WEB, 4)
    }

    pub(crate) fn datagram_to(
        &self,
        source: IpAddr,
        target: IpAddr,
        port: u16,
        times: usize,
    ) -> Result<Packet> {
        let body = udp((source, self.port), (target, port), &self.data(times))?;
        let identification = self.port;
        Ok(Packet { identification, ..Packet::new(source, target, crate::packet::UDP, body) })
    }

    /// Sends packets from eth0, in this order.
    pub(crate) fn send(&self, packets: &[Vec<u8>]) -> Result<Answer> {
        self.send_tagged(&[], packets)
    }

    pub(crate) fn send_tagged(&self, tags: &[u16], packets: &[Vec<u8>]) -> Result<Answer> {
        let on_link = self.from.on_bridge && self.to.on_bridge;
        let mac = if on_link { self.to.mac } else { self.from.gateway };
        self.send_to(mac, tags, packets)
    }

    pub(crate) fn send_to(&self, to: Mac, tags: &[u16], packets: &[Vec<u8>]) -> Result<Answer> {
        let link = Frames::open("eth0")?;
        for packet in packets {
            link.send(&frame(to, self.from.mac, tags, packet)).context("failed to send a frame")?;
        }
        Ok(Answer::None)
    }

    /// Sends a packet of the target, from the target's eth0, to wherever it goes by its gateway.
    pub(crate) fn reply(&self, packet: &[u8]) -> Result<Answer> {
        let link = Frames::open("eth0")?;
        let on_link = self.from.on_bridge && self.to.on_bridge;
        let mac = if on_link { self.from.mac } else { self.to.gateway };
        link.send(&frame(mac, self.to.mac, &[], packet)).context("failed to send a frame")?;
        Ok(Answer::None)
    }

    /// Sends the token by a UDP socket, and waits for an answer. From another source address than
    /// its own if there is one: an unprivileged process may do so with IPv6.
    pub(crate) fn send_by_socket(
        &self,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> Result<Answer> {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        let any = match target {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if source.is_some_and(|source| source.is_ipv6()) {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&SocketAddr::new(source.unwrap_or(any), self.port).into())?;
        socket.set_broadcast(target.is_ipv4())?;
        let socket = UdpSocket::from(socket);
        socket.send_to(&self.data(2), target).or_else(unreachable)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut buffer = [0; 64];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match socket.recv_from(&mut buffer) {
                // Others answer what is sent to many.
                Ok((_, from)) if from.ip() != target.ip() && !self.to.has(from.ip()) => {}
                Ok((length, _)) if buffer.get(..length) == Some(&self.data(2)) => {
                    return Ok(Answer::Came);
                }
                Ok(_) => {}
                Err(_) => return Ok(Answer::None),
            }
        }
    }

    /// Connects by a TCP socket, which is an answer.
    pub(crate) fn connect(target: SocketAddr) -> Answer {
        let connected = TcpStream::connect_timeout(&target, ANSWER_WITHIN);
        if connected.is_ok() { Answer::Came } else { Answer::None }
    }
}

/// What a rule with REJECT, or a kernel without a route, answers is no fault of the test.
fn unreachable(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::PermissionDenied => Ok(0),
        _ => Err(error),
    }
}

impl fmt::Display for Shot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attack { name, from, to, .. } = self.attack;
        write!(f, "{:?}: {from:?} to {to:?}: {name}", self.family)
    }
}
