//! Every listener of a lab, on one thread: what pods and nodes answer.
//!
//! Sockets are created inside their namespace ([`listener`](super::listener)) and handed to the
//! loop, which never enters one. A TCP listener first says who it is and whom it sees,
//! `shop/web 10.244.1.10:4242\n`; UDP answers each datagram with the same line; SCTP answers an
//! INIT (see [`sctp`](super::sctp)).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;

use super::listener::{Behaviour, Bound, strip_ip_header};
use super::options::Family;
use super::sctp::Packet;

/// The serving thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    commands: Sender<Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Add { owner: String, identity: Arc<str>, sockets: Vec<Bound> },
    Remove { owner: String, done: Sender<()> },
    Stop,
}

impl Server {
    pub(super) fn start() -> Result<Self> {
        let poll = Poll::new().context("failed to create an event queue")?;
        let waker = Waker::new(poll.registry(), WAKE).context("failed to create a waker")?;
        let (commands, inbox) = mpsc::channel();
        let serving = Serving { poll, inbox, slots: BTreeMap::new(), next: 1 };
        let thread = thread::Builder::new()
            .name("lab-server".into())
            .spawn(move || serving.run())
            .context("failed to start the server thread")?;
        Ok(Self { commands, waker, thread: Some(thread) })
    }

    /// Serves `sockets` in the name of `owner`; they answer as `identity`.
    pub(super) fn add(&self, owner: &str, identity: &str, sockets: Vec<Bound>) {
        self.send(Command::Add { owner: owner.into(), identity: identity.into(), sockets });
    }

    /// Closes the owner's sockets and connections; they are closed when this returns.
    pub(super) fn remove(&self, owner: &str) {
        let (done, closed) = mpsc::channel();
        self.send(Command::Remove { owner: owner.into(), done });
        let _ = closed.recv_timeout(Duration::from_secs(5));
    }

    fn send(&self, command: Command) {
        // Neither fails while the thread runs, and it runs until `drop`.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const WAKE: Token = Token(0);

/// What the thread owns.
struct Serving {
    poll: Poll,
    inbox: Receiver<Command>,
    slots: BTreeMap<usize, Slot>,
    next: usize,
}

struct Slot {
    owner: String,
    identity: Arc<str>,
    role: Role,
}

enum Role {
    Bound(Bound),
    Stream(TcpStream, Behaviour),
}

impl Serving {
    fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            for event in &events {
                if event.token() == WAKE {
                    if !self.obey() {
                        return;
                    }
                } else {
                    self.serve(event.token().0);
                }
            }
        }
    }

    fn obey(&mut self) -> bool {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Add { owner, identity, sockets } => {
                    for socket in sockets {
                        let (owner, identity) = (owner.clone(), Arc::clone(&identity));
                        self.insert(Slot { owner, identity, role: Role::Bound(socket) });
                    }
                }
                Command::Remove { owner, done } => {
                    // A process that a test of another thread is just starting holds copies of
                    // all sockets until it runs its program: a close alone would come too early.
                    for slot in self.slots.values().filter(|slot| slot.owner == owner) {
                        if let Role::Bound(Bound::Tcp(listener, _)) = &slot.role {
                            let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
                        }
                    }
                    self.slots.retain(|_, slot| slot.owner != owner);
                    let _ = done.send(());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn insert(&mut self, mut slot: Slot) {
        let token = Token(self.next);
        let registry = self.poll.registry();
        let registered = match &mut slot.role {
            Role::Bound(Bound::Tcp(socket, _)) => {
                registry.register(socket, token, Interest::READABLE)
            }
            Role::Bound(Bound::Udp(socket) | Bound::Sctp(socket, _)) => {
                registry.register(socket, token, Interest::READABLE)
            }
            Role::Stream(socket, _) => registry.register(socket, token, Interest::READABLE),
        };
        if registered.is_ok() {
            self.slots.insert(self.next, slot);
            self.next += 1;
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(slot) = self.slots.get_mut(&token) else { return };
        match &mut slot.role {
            Role::Bound(Bound::Udp(socket)) => answer_datagrams(socket, &slot.identity),
            Role::Bound(Bound::Sctp(socket, ports)) => answer_inits(socket, ports, &slot.identity),
            Role::Bound(Bound::Tcp(listener, behaviour)) => {
                let behaviour = *behaviour;
                let mut kept = Vec::new();
                while let Ok((stream, peer)) = listener.accept() {
                    kept.extend(greet(stream, peer, behaviour, &slot.identity));
                }
                let (owner, identity) = (slot.owner.clone(), Arc::clone(&slot.identity));
                for stream in kept {
                    let role = Role::Stream(stream, behaviour);
                    self.insert(Slot {
                        owner: owner.clone(),
                        identity: Arc::clone(&identity),
                        role,
                    });
                }
            }
            Role::Stream(stream, behaviour) => {
                if !converse(stream, *behaviour) {
                    self.slots.remove(&token);
                }
            }
        }
    }
}

fn line(identity: &str, peer: SocketAddr) -> String {
    format!("{identity} {peer}\n")
}

/// The first move on a new connection; the stream where there will be more.
fn greet(
    mut stream: TcpStream,
    peer: SocketAddr,
    behaviour: Behaviour,
    identity: &str,
) -> Option<TcpStream> {
    if behaviour == Behaviour::ResetAfterAccept {
        return reset(&stream);
    }
    // A fresh socket's buffer takes a line; a client that went away is its own loss.
    stream.write_all(line(identity, peer).as_bytes()).ok()?;
    match behaviour {
        Behaviour::Banner | Behaviour::ResetAfterAccept => None,
        Behaviour::HalfClose => stream.shutdown(std::net::Shutdown::Write).ok().map(|()| stream),
        Behaviour::Echo | Behaviour::HoldOpen | Behaviour::ResetOnData | Behaviour::CloseOnData => {
            Some(stream)
        }
    }
}

/// Makes the close that follows a reset; always none.
fn reset(stream: &TcpStream) -> Option<TcpStream> {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    None
}

/// Reacts to what a client sent; false when the connection is to be closed.
fn converse(stream: &mut TcpStream, behaviour: Behaviour) -> bool {
    let mut buffer = [0; 4096];
    loop {
        let got = match stream.read(&mut buffer) {
            Ok(0) => return behaviour == Behaviour::HoldOpen,
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        match behaviour {
            Behaviour::Echo => {
                if stream.write_all(got).is_err() {
                    return false;
                }
            }
            Behaviour::ResetOnData => return reset(stream).is_some(),
            Behaviour::CloseOnData => return false,
            Behaviour::Banner
            | Behaviour::HoldOpen
            | Behaviour::HalfClose
            | Behaviour::ResetAfterAccept => {}
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, identity: &str) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((_, peer)) => {
                let _ = socket.send_to(line(identity, peer).as_bytes(), peer);
            }
            // An ICMP error of an earlier answer is reported here once; there may be more to read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

fn answer_inits(socket: &UdpSocket, ports: &[u16], identity: &str) {
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => continue,
        };
        let packet = buffer.get(..length).unwrap_or_default();
        let packet = strip_ip_header(Family::of(peer.ip()), packet).and_then(Packet::decode);
        // Replies to this namespace's own probes come by here too.
        let Some(Packet::Init { source, destination, tag }) = packet else { continue };
        let (from, to) = (destination, source);
        let answer = if ports.contains(&destination) {
            let seen = SocketAddr::new(peer.ip(), source);
            let cookie = line(identity, seen).into_bytes();
            Packet::InitAck { source: from, destination: to, tag, cookie }
        } else {
            Packet::Abort { source: from, destination: to, tag }
        };
        let _ = socket.send_to(&answer.encode(), SocketAddr::new(peer.ip(), 0));
    }
}
