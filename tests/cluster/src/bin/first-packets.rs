//! The first process of a pod that connects at once: to each server by TCP, and by datagrams that the
//! server returns. It writes what came of them to the termination message of its container.
//!
//! `first-packets SECONDS ADDRESS…`: it stays so long at least, and counts what arrives unasked.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The ports of the server: `agnhost netexec`.
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 8081;
/// The port of this process to which others send.
const OWN_PORT: u16 = 9999;
/// Datagrams to each server, and the time between two of them.
const DATAGRAMS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(5);
/// How long an answer may take: on a machine that is busy, a server waits for a processor. TCP sends
/// a lost SYN again after 1 s, then after 3 s; datagrams are not sent again.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let (began, start) = (SystemTime::now(), Instant::now());
    let own = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, OWN_PORT));
    let own = own.or_else(|_| UdpSocket::bind(("0.0.0.0", OWN_PORT)))?;
    own.set_nonblocking(true)?;
    let mut arguments = std::env::args().skip(1);
    let stay: u64 = arguments.next().context("for how many seconds?")?.parse()?;
    let servers: Vec<IpAddr> =
        arguments.map(|address| address.parse()).collect::<Result<_, _>>()?;
    let mut tries = Vec::new();
    for server in servers {
        tries.push(thread::spawn(move || datagrams(server)));
        tries.push(thread::spawn(move || connect(server)));
    }
    let mut results = Vec::new();
    for one in tries {
        results.push(one.join().expect("a try does not panic")?);
    }
    thread::sleep(Duration::from_secs(stay).saturating_sub(start.elapsed()));
    let (mut unasked, mut buffer) = (0, [0; 64]);
    while own.recv_from(&mut buffer).is_ok() {
        unasked += 1;
    }
    let began = began.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
    let result = json!({
        "began_us": u64::try_from(began)?,
        "tries": results,
        "unasked": unasked,
        "retransmitted": retransmitted()?,
    });
    fs::write("/dev/termination-log", result.to_string())?;
    Ok(())
}

fn connect(server: IpAddr) -> Result<Value> {
    let begin = Instant::now();
    let stream = TcpStream::connect_timeout(&SocketAddr::new(server, TCP_PORT), PATIENCE);
    let took = u64::try_from(begin.elapsed().as_micros())?;
    Ok(
        json!({"to": server.to_string(), "sent": 1, "answered": u8::from(stream.is_ok()), "connected_us": took}),
    )
}

fn datagrams(server: IpAddr) -> Result<Value> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    let (mut answered, mut sent) = (0, 0);
    let mut next = Instant::now();
    let end = next + INTERVAL * u32::try_from(DATAGRAMS)? + PATIENCE;
    let mut buffer = [0; 64];
    while answered < DATAGRAMS && Instant::now() < end {
        if sent < DATAGRAMS && Instant::now() >= next {
            socket.send_to(format!("echo {sent}\n").as_bytes(), (server, UDP_PORT))?;
            (sent, next) = (sent + 1, next + INTERVAL);
        }
        socket.set_read_timeout(Some(INTERVAL))?;
        answered += usize::from(socket.recv_from(&mut buffer).is_ok());
    }
    Ok(json!({"to": server.to_string(), "sent": sent, "answered": answered}))
}

/// How many segments of TCP this network namespace sent again, SYNs included.
fn retransmitted() -> Result<u64> {
    let counters = fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs.find_map(|(name, value)| (name == "RetransSegs").then_some(value));
    Ok(value.context("the kernel counts retransmissions")?.parse()?)
}
