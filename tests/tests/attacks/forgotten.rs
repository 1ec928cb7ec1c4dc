//! TCP connections that conntrack has forgotten, because another program ran `conntrack -F`. Those that
//! policies forbid by now must not come back, whoever sends first. Those that policies allow go on, at
//! the latest when the client sends.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::Family;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::attack::{Verdict, Who};
use crate::world::{PATIENCE, World, policy};

/// The first port of the servers, below those that clients get from their kernel.
const FIRST_PORT: u16 = 9_100;
/// How long the first message may take before the other side sends.
const FIRST_WITHIN: Duration = Duration::from_millis(700);
/// How long both messages may take after both sides have sent: TCP sends again after 0.2, 0.4, 0.8 s.
const BOTH_WITHIN: Duration = Duration::from_secs(6);

/// Who sends first after conntrack has forgotten the connection.
#[derive(Clone, Copy, Debug)]
enum First {
    Client,
    Server,
}

/// Which connections there are.
struct Case {
    client: Who,
    server: Who,
    /// The port of the client, if it does not leave that to its kernel.
    client_port: Option<u16>,
    is_allowed: bool,
}

const fn case(client: Who, server: Who, is_allowed: bool) -> Case {
    Case { client, server, client_port: None, is_allowed }
}

const CASES: [Case; 6] = [
    case(Who::Mallory, Who::Bystander, true),
    case(Who::Friend, Who::Victim, true),
    case(Who::Caged, Who::Friend, true),
    case(Who::Mallory, Who::Victim, false),
    case(Who::Caged, Who::Bystander, false),
    // A client that hides that it is one.
    Case { client_port: Some(2_000), ..case(Who::Mallory, Who::Victim, false) },
];

struct Connection {
    case: &'static Case,
    first: First,
    family: Family,
    client: TcpStream,
    server: TcpStream,
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case: Case { client, server, client_port, .. }, first, family, .. } = self;
        let port = client_port.map_or_else(String::new, |port| format!(" from port {port}"));
        write!(f, "{family:?}: {client:?} to {server:?}{port}, {first:?} first")
    }
}

/// Whether a connection that policies forbid goes on after `conntrack -F`. Fails if one that they allow
/// does not.
pub(crate) fn forgotten(world: &mut World) -> Result<Verdict> {
    let peer = json!({"podSelector": {"matchLabels": {"app": "mallory"}}});
    let bystander = json!({"podSelector": {"matchLabels": {"app": "bystander"}}});
    let mut items = [
        policy("victim", "Ingress", &json!({"ingress": [{"from": [peer]}]})),
        policy("caged", "Egress", &json!({"egress": [{"to": [bystander]}]})),
    ];
    for (number, policy) in items.iter_mut().enumerate() {
        policy["metadata"]["name"] = json!(format!("for-a-while-{number}"));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    world.cluster.write("for-a-while.json", &list.to_string())?;
    world.cluster.settle(PATIENCE)?;
    let mut connections = Vec::new();
    for &family in world.cluster.lab.families().each() {
        for case in &CASES {
            for first in [First::Client, First::Server] {
                let port = FIRST_PORT + u16::try_from(connections.len())?;
                let client_port = case.client_port.map(|first| first + port - FIRST_PORT);
                let (client, server) = connect(world, case, family, (client_port, port))
                    .with_context(|| format!("{:?} to {:?}", case.client, case.server))?;
                connections.push(Connection { case, first, family, client, server });
            }
        }
    }
    world.cluster.remove("for-a-while.json")?;
    world.cluster.settle(PATIENCE)?;
    world.cluster.lab.node("n1")?.shell("conntrack -F 2>/dev/null")?;

    connections.iter_mut().try_for_each(|connection| connection.send(connection.first))?;
    let mut arrived = vec![[false; 2]; connections.len()];
    collect(&mut connections, &mut arrived, FIRST_WITHIN)?;
    for connection in &mut connections {
        connection.send(match connection.first {
            First::Client => First::Server,
            First::Server => First::Client,
        })?;
    }
    collect(&mut connections, &mut arrived, BOTH_WITHIN)?;
    let mut verdict = Verdict::Dropped;
    for (connection, [at_client, at_server]) in connections.iter().zip(arrived) {
        if connection.case.is_allowed {
            ensure!(at_client && at_server, "{connection} ended, and policies allow it");
        } else if at_client || at_server {
            println!("{connection}: arrived at the client {at_client}, at the server {at_server}");
            verdict = Verdict::Passes;
        }
    }
    Ok(verdict)
}

/// Notes for each connection whether a message arrived at the client and at the server. Ends before
/// `limit` once all that is allowed has arrived, but not before what is forbidden could have.
fn collect(
    connections: &mut [Connection],
    arrived: &mut [[bool; 2]],
    limit: Duration,
) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut is_missing = false;
        for (connection, arrived) in connections.iter_mut().zip(&mut *arrived) {
            arrived[0] |= receive(&mut connection.client)?;
            arrived[1] |= receive(&mut connection.server)?;
            is_missing |= connection.case.is_allowed && arrived.contains(&false);
        }
        if began.elapsed() >= if is_missing { limit } else { FIRST_WITHIN } {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

impl Connection {
    fn send(&mut self, who: First) -> Result<()> {
        let stream = match who {
            First::Client => &mut self.client,
            First::Server => &mut self.server,
        };
        Ok(stream.write_all(b"still there?")?)
    }
}

fn receive(stream: &mut TcpStream) -> Result<bool> {
    match stream.read(&mut [0; 64]) {
        Ok(length) => Ok(length > 0),
        Err(error)
            if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset].contains(&error.kind()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The ends of a new connection: the client's, and the server's.
fn connect(
    world: &World,
    case: &Case,
    family: Family,
    (client_port, port): (Option<u16>, u16),
) -> Result<(TcpStream, TcpStream)> {
    let (client, server) = (world.host(case.client)?, world.host(case.server)?);
    let (from, to): (IpAddr, IpAddr) = (client.address(family), server.address(family));
    let listener = server.netns.run(|| TcpListener::bind((to, port)))??;
    let connected = client.netns.run(|| -> Result<TcpStream> {
        let from = SocketAddr::new(from, client_port.unwrap_or(0));
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&SocketAddr::new(to, port).into(), Duration::from_secs(5))?;
        Ok(socket.into())
    })??;
    let (accepted, _) = listener.accept()?;
    for stream in [&connected, &accepted] {
        stream.set_nonblocking(true)?;
    }
    Ok((connected, accepted))
}
