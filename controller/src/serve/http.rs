//! Probes and metrics over HTTP, on their own thread: the work of the program in the kernel and
//! with the API server neither delays an answer nor is delayed by one.
//!
//! ```text
//! health address:   GET /healthz  200, or 503 and why    GET /readyz  200, or 503 and why
//! metrics address:  GET /metrics  OpenMetrics text, or the older format for `Accept: text/plain`
//! ```
//!
//! A failure here never ends the program. An address that is in use is tried again: the agent that
//! is being replaced may still use it.
//!
//! A connection serves one request. When there are too many connections, the oldest is closed, so
//! that probes are answered although other clients open many connections or send slowly.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::plain;

/// The limits of the probes and of the metrics, each.
const LIMITS: Limits = Limits {
    connections: 32,
    head: Duration::from_secs(3),
    whole: Duration::from_secs(10),
    buffer_bytes: 16 << 10,
};
/// How long to wait before an address is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(2);
/// How long to wait after a failure to accept a connection, such as too many open descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The media type of the answer to `/metrics`.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The media type of the older format.
const PLAIN_METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Where to listen, from a flag: `HOST:PORT`, `:PORT` for every address of the machine, or
/// `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen on this port of every address, of both IP families where the machine has both.
    Everywhere(u16),
    /// Listen on this address.
    At(SocketAddr),
}

/// The text of an address that cannot be parsed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no address; write ADDRESS:PORT, :PORT for every address, or off")]
pub struct UnknownAddress(String);

/// A check of the program: `Err` contains in one line why it fails.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What is served.
pub struct Served {
    /// The check for liveness: the kubelet restarts a program that makes no progress.
    pub live: Check,
    /// The check for readiness: whether the program does its task.
    pub ready: Check,
    /// The metrics of the program.
    pub registry: Arc<Registry>,
}

/// The limits for the clients of one address.
#[derive(Clone, Copy)]
struct Limits {
    /// The most connections at a time. One more closes the oldest.
    connections: usize,
    /// How long a connection may take to send the head of its request.
    head: Duration,
    /// How long a connection may take from the first byte to the last.
    whole: Duration,
    /// The most bytes that are buffered for a connection. No body of a request is read.
    buffer_bytes: usize,
}

/// Starts to serve until the process ends.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(health: Listen, metrics: Listen, served: Served) -> std::io::Result<()> {
    start_within(LIMITS, health, metrics, served)
}

fn start_within(
    limits: Limits,
    health: Listen,
    metrics: Listen,
    served: Served,
) -> std::io::Result<()> {
    if (health, metrics) == (Listen::Off, Listen::Off) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = Arc::new(served);
    std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(
                listen("probes", health, Server { limits, served: served.clone(), answer: probe }),
                listen("metrics", metrics, Server { limits, served, answer: scrape }),
            )
        })
    })?;
    Ok(())
}

/// Serves one request for probes, as a connection does.
pub async fn serve_one(served: Arc<Served>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    Server { limits: LIMITS, served, answer: probe }.serve(stream).await;
}

/// Returns the answer to a path, for a client that accepts these media types.
type Answer = fn(&Served, &str, &str) -> Response<Full<Bytes>>;

/// What one address serves.
#[derive(Clone)]
struct Server {
    limits: Limits,
    served: Arc<Served>,
    answer: Answer,
}

async fn listen(what: &'static str, address: Listen, server: Server) {
    let mut logged = false;
    let listener = loop {
        match bind(address).await {
            Ok(None) => return,
            Ok(Some(listener)) => break listener,
            Err(error) if logged => debug!(what, %error, "still no address to listen on"),
            Err(error) => {
                warn!(what, %address, %error, "failed to listen; retrying");
                logged = true;
            }
        }
        sleep(BIND_PAUSE).await;
    };
    info!(what, address = listener.local_addr().ok().map(display), "serving");
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                while open.len() >= server.limits.connections {
                    open.pop_front().iter().for_each(AbortHandle::abort);
                }
                let server = server.clone();
                let serve = async move { timeout(server.limits.whole, server.serve(stream)).await };
                open.push_back(tokio::spawn(serve).abort_handle());
            }
            Err(error) => {
                debug!(what, %error, "failed to accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn bind(address: Listen) -> std::io::Result<Option<TcpListener>> {
    match address {
        Listen::Off => Ok(None),
        Listen::At(address) => TcpListener::bind(address).await.map(Some),
        Listen::Everywhere(port) => {
            // Where the machine has IPv6, this address also accepts IPv4.
            let both = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            match TcpListener::bind((both, port)).await {
                Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                    TcpListener::bind((v4, port)).await.map(Some)
                }
                bound => bound.map(Some),
            }
        }
    }
}

impl Server {
    /// Serves one request of a connection. Clients are few, and send requests seconds apart.
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let known = [Method::GET, Method::HEAD].contains(request.method());
            Ok::<_, Infallible>(if known {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                (self.answer)(&self.served, request.uri().path(), accept.unwrap_or_default())
            } else {
                respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN_TEXT, "GET only\n".to_owned())
            })
        });
        let mut http = http1::Builder::new();
        http.keep_alive(false).max_buf_size(self.limits.buffer_bytes);
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.head);
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    }
}

fn probe(served: &Served, path: &str, _accept: &str) -> Response<Full<Bytes>> {
    let result = match path {
        "/healthz" => (served.live)(),
        // A program that makes no progress is not ready either.
        "/readyz" => (served.live)().and_then(|()| (served.ready)()),
        _ => return not_found(),
    };
    match result {
        Ok(()) => respond(StatusCode::OK, PLAIN_TEXT, "ok\n".to_owned()),
        Err(why) => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, format!("{why}\n")),
    }
}

fn scrape(served: &Served, path: &str, accept: &str) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        return not_found();
    }
    let mut body = String::new();
    match text::encode(&mut body, &served.registry) {
        Ok(()) if plain::is_wanted(accept) => {
            respond(StatusCode::OK, PLAIN_METRICS, plain::of_open_metrics(&body))
        }
        Ok(()) => respond(StatusCode::OK, OPEN_METRICS, body),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN_TEXT, format!("{error}\n")),
    }
}

fn not_found() -> Response<Full<Bytes>> {
    respond(StatusCode::NOT_FOUND, PLAIN_TEXT, "not found\n".to_owned())
}

fn respond(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("off"),
            Self::Everywhere(port) => write!(formatter, ":{port}"),
            Self::At(address) => write!(formatter, "{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = UnknownAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownAddress(text.to_owned());
        match text.strip_prefix(':') {
            _ if text.is_empty() || text == "off" => Ok(Self::Off),
            Some(port) => port.parse().map(Self::Everywhere).map_err(|_| unknown()),
            None => text.parse().map(Self::At).map_err(|_| unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_is_a_socket_address_a_port_or_off() {
        for (text, expected) in [
            ("", Listen::Off),
            ("off", Listen::Off),
            (":9466", Listen::Everywhere(9466)),
            ("127.0.0.1:1", Listen::At(([127, 0, 0, 1], 1).into())),
            ("[::1]:1", Listen::At((Ipv6Addr::LOCALHOST, 1).into())),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for bad in ["9466", "on", ":", ":99999", "localhost:1", "::1"] {
            assert_eq!(bad.parse::<Listen>(), Err(UnknownAddress(bad.to_owned())));
        }
    }

    #[test]
    fn a_scrape_gets_the_format_that_it_asks_for() {
        let live = || -> Check { Box::new(|| Ok(())) };
        let registry = Arc::new(Registry::default());
        let served = Served { live: live(), ready: live(), registry };
        for (accept, expected) in [
            ("", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ] {
            let response = scrape(&served, "/metrics", accept);
            assert_eq!(response.headers()[CONTENT_TYPE], expected, "{accept:?}");
        }
    }

    /// Limits with timeouts that no test reaches.
    const LONG_TIMEOUTS: Limits =
        Limits { head: Duration::from_hours(1), whole: Duration::from_hours(1), ..LIMITS };

    /// Serves on a free port of the loopback address.
    async fn serve(limits: Limits) -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let served = Served {
            live: Box::new(|| Ok(())),
            ready: Box::new(|| Ok(())),
            registry: Arc::new(Registry::default()),
        };
        start_within(limits, Listen::At(address), Listen::Off, served).expect("a thread");
        address
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                // The server does not listen yet.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = connect(address).await;
        stream.write_all(request.as_bytes()).await.expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn a_probe_is_answered_despite_any_number_of_idle_and_slow_connections() {
        let address = serve(LONG_TIMEOUTS).await;
        let mut others = Vec::new();
        for number in 0..200 {
            let mut other = connect(address).await;
            if number % 2 == 0 {
                other.write_all(b"GET /ready").await.expect("it listens");
            }
            others.push(other);
        }
        let ready = ask(address, "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        // The oldest are closed, without a time limit.
        let mut byte = [0];
        let _ = others[0].read(&mut byte).await;
        let newest = others.last().expect("200 of them");
        let is_open = newest.try_read(&mut byte);
        assert!(is_open.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }

    #[tokio::test]
    async fn a_connection_that_is_too_slow_to_ask_is_closed() {
        let address = serve(Limits { head: Duration::from_millis(50), ..LONG_TIMEOUTS }).await;
        let mut slow = connect(address).await;
        slow.write_all(b"GET /readyz HTTP/1.1\r\n").await.expect("it listens");
        let mut answer = Vec::new();
        // Closed, with or without an answer; before, nothing is closed for an hour.
        let _ = slow.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }

    #[tokio::test]
    async fn no_body_is_read_and_no_endless_head() {
        let address = serve(LONG_TIMEOUTS).await;
        // A body that is never sent.
        for method in ["GET", "POST"] {
            let request =
                format!("{method} /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n");
            let expected = if method == "GET" { "HTTP/1.1 200" } else { "HTTP/1.1 405" };
            let answer = ask(address, &request).await;
            assert!(answer.starts_with(expected), "{answer}");
        }
        let mut endless = connect(address).await;
        let line = format!("x: {}\r\n", "y".repeat(1000));
        endless.write_all(b"GET /healthz HTTP/1.1\r\n").await.expect("it listens");
        let mut lines = 0;
        while endless.write_all(line.as_bytes()).await.is_ok() {
            lines += 1;
            assert!(lines < 1_000_000, "a head of a gigabyte is read");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        let served = Served {
            live: Box::new(|| Ok(())),
            ready: Box::new(|| Err("loading".to_owned())),
            registry: Arc::new(Registry::default()),
        };
        start(Listen::At(address), Listen::Off, served).expect("a thread");
        drop(taken);
        let ask = |path| async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        let healthy = loop {
            match ask("/healthz").await {
                Ok(answer) => break answer,
                Err(error) => assert!(std::time::Instant::now() < limit, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
        let ready = ask("/readyz").await.expect("it serves");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("loading\n"), "{ready}");
        let unknown = ask("/").await.expect("it serves");
        assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    }
}
