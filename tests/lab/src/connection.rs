//! Connections that a test holds, measures and ends the way it wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use super::flight::{bind_port, parse_banner, when_port_is_free};
use super::options::Family;
use super::pod::Endpoint;
use super::{DEFAULT_TIMEOUT, Lab};

/// A TCP connection to open. It belongs to the namespace of `from`.
#[derive(Debug, Clone)]
pub struct ConnectionSpec {
    /// Where it starts.
    pub from: Endpoint,
    /// The address and port that it goes to.
    pub to: SocketAddr,
    /// The port it comes from (`SO_REUSEADDR`); by default any free one.
    ///
    /// A port whose last connection ended is usable again at once, also when this side closed
    /// first (`TIME_WAIT`): namespaces of a lab have `tcp_tw_reuse` on. Kernels before 6.14 make it
    /// wait for one second, so give such a connection a longer time-out.
    pub source_port: Option<u16>,
    /// The longest wait for the handshake, for the banner, and later for each exchange.
    pub timeout: Duration,
}

/// An open TCP connection. Dropping it closes it in order (FIN).
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    identity: String,
    seen_from: Option<SocketAddr>,
    count: u64,
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Closed,
    /// RST.
    Reset,
    /// Not within the time-out.
    StillOpen,
}

impl Lab {
    /// Opens a connection from a free port with [`DEFAULT_TIMEOUT`] and reads its banner.
    ///
    /// # Errors
    /// As [`Lab::connect`].
    pub fn open_connection(&self, from: &Endpoint, to: IpAddr, port: u16) -> Result<Connection> {
        self.connect(&ConnectionSpec {
            from: from.clone(),
            to: SocketAddr::new(to, port),
            source_port: None,
            timeout: DEFAULT_TIMEOUT,
        })
    }

    /// Opens a connection and reads its banner.
    ///
    /// # Errors
    /// When the source does not exist, its port is in use, or the connection or its banner does not
    /// come within the time-out; the cause is an [`std::io::Error`] where the network decided.
    pub fn connect(&self, spec: &ConnectionSpec) -> Result<Connection> {
        let stream = self
            .netns(&spec.from)?
            .run(|| open(spec))?
            .with_context(|| format!("failed to connect {} to {}", spec.from, spec.to))?;
        let mut stream = BufReader::new(stream);
        let mut banner = String::new();
        stream
            .read_line(&mut banner)
            .with_context(|| format!("no banner from {} to {}", spec.to, spec.from))?;
        ensure!(banner.ends_with('\n'), "{} closed before its banner", spec.to);
        let (identity, seen_from) = parse_banner(&banner);
        Ok(Connection { stream, identity, seen_from, count: 0 })
    }
}

fn open(spec: &ConnectionSpec) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(spec.to), Type::STREAM, None)
        .context("failed to create a socket")?;
    if let Some(port) = spec.source_port {
        bind_port(&socket, Family::of(spec.to.ip()), port)?;
    }
    let to = spec.to.into();
    when_port_is_free(spec.timeout, || socket.connect_timeout(&to, spec.timeout))
        .context("failed to connect")?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).context("failed to set TCP_NODELAY")?;
    stream.set_read_timeout(Some(spec.timeout)).context("failed to set a time-out")?;
    stream.set_write_timeout(Some(spec.timeout)).context("failed to set a time-out")?;
    Ok(stream)
}

impl Connection {
    /// Who answers: `namespace/name`, `node/n1` or `internet`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The client's address as the server saw it, after any NAT.
    #[must_use]
    pub fn seen_from(&self) -> Option<SocketAddr> {
        self.seen_from
    }

    /// The client's own address and port.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.stream.get_ref().local_addr().context("failed to read a connection's address")
    }

    /// Sends a few bytes to an [`Echo`](super::Behaviour::Echo) listener and waits until they are
    /// back; how long that took. Each exchange sends other bytes than the one before.
    ///
    /// # Errors
    /// When they are not back within the time-out, when the connection ended, or when other bytes
    /// came back. After a time-out the connection can be tried again: late echoes are skipped.
    pub fn exchange(&mut self) -> Result<Duration> {
        self.count += 1;
        let sent = format!("exchange {}\n", self.count);
        let start = Instant::now();
        self.send(sent.as_bytes())?;
        loop {
            let mut got = String::new();
            self.stream.read_line(&mut got).context("no echo")?;
            if got == sent {
                return Ok(start.elapsed());
            }
            ensure!(!got.is_empty(), "{} closed the connection", self.identity);
            let earlier = got.strip_prefix("exchange ").and_then(|n| n.trim().parse::<u64>().ok());
            ensure!(earlier.is_some_and(|n| n < self.count), "{got:?} came back, not {sent:?}");
        }
    }

    /// Sends bytes and does not wait; makes [`Behaviour::ResetOnData`](super::Behaviour) act.
    ///
    /// # Errors
    /// When the connection ended or its buffer is full.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("failed to send on a connection")
    }

    /// Waits, up to the time-out, until the other side ends the connection; skips what it sends.
    ///
    /// # Errors
    /// When the connection fails otherwise than by an end.
    pub fn wait_end(&mut self) -> Result<End> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(End::Closed),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    std::io::ErrorKind::Interrupted => {}
                    std::io::ErrorKind::ConnectionReset => return Ok(End::Reset),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                        return Ok(End::StillOpen);
                    }
                    _ => bail!("a connection to {} failed: {error}", self.identity),
                },
            }
        }
    }

    /// Ends this side only (FIN); the server may go on sending.
    ///
    /// # Errors
    /// When the connection is already gone.
    pub fn half_close(&mut self) -> Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write).context("failed to half-close")
    }

    /// Closes in order: FIN from the client, unless the server's came first.
    pub fn close(self) {
        drop(self);
    }

    /// Resets from the client's side (RST).
    ///
    /// # Errors
    /// When the kernel refuses `SO_LINGER`; then the connection was closed in order.
    pub fn reset(self) -> Result<()> {
        SockRef::from(self.stream.get_ref())
            .set_linger(Some(Duration::ZERO))
            .context("failed to set SO_LINGER")
    }
}
