//! The page over HTTP, for browsers on this machine only.
//!
//! Any page that a browser shows can send requests to 127.0.0.1, and every user of the machine can.
//! So a request is answered only if
//!
//! - its path begins with the token that was printed, which no other page or user knows;
//! - its `Host` is 127.0.0.1 or localhost with this port. A page of another site whose name was made
//!   to resolve to 127.0.0.1 (DNS rebinding) sends its own name;
//! - its method is GET: nothing is changed by any request.
//!
//! No answer has a header that lets other origins read it, and the Content-Security-Policy of the
//! page allows its own script and requests to this server, and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::feed::{Feed, Seen};
use crate::output::ui as page;

/// The most connections at a time: a page needs one or two.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may take to send the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection may take from the first byte to the last. A map of a large cluster is slow.
const WHOLE_LIMIT: Duration = Duration::from_mins(5);
/// How long to wait after a failure to accept a connection, such as too many open descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// The map has a policy of its own, in its text; only the page may show it in a frame.
const MAP_POLICY: &str = "frame-ancestors 'self'";

/// Writes the map as a page, from a new read of the cluster.
pub type Map = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;

/// The server of one page.
pub struct Server {
    port: u16,
    token: String,
    feed: Arc<Feed>,
    map: Map,
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    Page,
    News(Seen),
    Map,
}

/// Why a request is not answered.
type Refusal = (StatusCode, &'static str);

impl Server {
    /// A server at this port of 127.0.0.1, with a new token.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn new(port: u16, feed: Arc<Feed>, map: Map) -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let token = format!("{:032x}", u128::from_be_bytes(bytes));
        Ok(Self { port, token, feed, map })
    }

    /// The address of the page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/{}/", self.port, self.token)
    }

    /// Serves until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            while open.try_join_next().is_some() {}
            while open.len() >= CONNECTIONS_MAX {
                open.join_next().await;
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    open.spawn(timeout(WHOLE_LIMIT, server.connection(stream)));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let mut http = http1::Builder::new();
        http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        // The client has gone, or sent no HTTP: nobody reads an answer.
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer<B>(self: Arc<Self>, request: &Request<B>) -> Response<Full<Bytes>> {
        match self.route(request) {
            Ok(Route::Page) => respond(StatusCode::OK, HTML, &page::policy(), page::page()),
            Ok(Route::News(seen)) => match self.feed.news(seen) {
                Ok(news) => respond(StatusCode::OK, JSON, page::NOTHING, news),
                Err(error) => failed(&error.to_string()),
            },
            Ok(Route::Map) => {
                // It reads the cluster and computes the map, which blocks.
                match spawn_blocking(move || (self.map)()).await {
                    Ok(Ok(map)) => respond(StatusCode::OK, HTML, MAP_POLICY, map),
                    Ok(Err(error)) => failed(&format!("{error:#}")),
                    Err(error) => failed(&error.to_string()),
                }
            }
            Err((status, why)) => respond(status, TEXT, page::NOTHING, format!("{why}\n")),
        }
    }

    fn route<B>(&self, request: &Request<B>) -> Result<Route, Refusal> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.is_own(host)) {
            return Err((StatusCode::MISDIRECTED_REQUEST, "the page is at 127.0.0.1 or localhost"));
        }
        if request.method() != Method::GET {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "GET only"));
        }
        let path = request.uri().path().strip_prefix('/');
        let path = path.and_then(|path| path.strip_prefix(self.token.as_str()));
        match path {
            Some("/") => Ok(Route::Page),
            Some("/map") => Ok(Route::Map),
            Some("/news") => {
                let query = request.uri().query().unwrap_or_default();
                let number = |name: &str| {
                    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                    let mut values = pairs.filter(|(known, _)| *known == name);
                    values.next().and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
                };
                Ok(Route::News(Seen { status: number("status"), denials: number("denials") }))
            }
            _ => {
                Err((StatusCode::NOT_FOUND, "not found: is the address the one that was printed?"))
            }
        }
    }

    /// Whether a `Host` header names this server.
    fn is_own(&self, host: &str) -> bool {
        // Browsers leave out the port 80.
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        port == self.port.to_string()
            && (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost"))
    }
}

fn failed(why: &str) -> Response<Full<Bytes>> {
    respond(StatusCode::BAD_GATEWAY, TEXT, page::NOTHING, format!("{why}\n"))
}

fn respond(
    status: StatusCode,
    kind: &'static str,
    policy: &str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let fixed = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The token is in the address.
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn server(port: u16) -> Arc<Server> {
        let map: Map = Box::new(|| bail!("<b>no permission</b>"));
        Arc::new(Server::new(port, Arc::default(), map).expect("random bytes"))
    }

    fn request(method: &str, host: &str, path: &str) -> Request<()> {
        let request = Request::builder().method(method).uri(path);
        let request = if host.is_empty() { request } else { request.header(HOST, host) };
        request.body(()).expect("a request")
    }

    #[test]
    fn only_requests_to_this_machine_with_the_token_are_answered() {
        let server = server(8080);
        let path = |rest: &str| format!("/{}{rest}", server.token);
        let route = |method, host, path: &str| {
            server.route(&request(method, host, path)).map_err(|(status, _)| status.as_u16())
        };
        let local = "127.0.0.1:8080";
        assert_eq!(route("GET", local, &path("/")), Ok(Route::Page));
        assert_eq!(route("GET", "LocalHost:8080", &path("/map")), Ok(Route::Map));
        let seen = |status, denials| Ok(Route::News(Seen { status, denials }));
        assert_eq!(route("GET", local, &path("/news")), seen(0, 0));
        assert_eq!(route("GET", local, &path("/news?status=3&denials=7")), seen(3, 7));
        assert_eq!(route("GET", local, &path("/news?status=-1&denials=x&denials=9")), seen(0, 0));

        // The name of an attacker that resolves to 127.0.0.1, and others that are not this server.
        for host in [
            "",
            "evil.example:8080",
            "evil.example",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:8081",
            "127.0.0.1.evil.example:8080",
            "localhost.evil.example:8080",
            "localhost:8080:8080",
            "[::1]:8080",
            "user@127.0.0.1:8080",
        ] {
            assert_eq!(route("GET", host, &path("/")), Err(421), "{host}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "CONNECT"] {
            assert_eq!(route(method, local, &path("/news")), Err(405), "{method}");
        }
        let wrong = [
            "/".to_owned(),
            "/news".to_owned(),
            format!("/{}/", "0".repeat(32)),
            path(""),
            path("0/"),
            path("/news/"),
            path("/../"),
            format!("/x/../{}/", server.token),
            format!("//{}/", server.token),
        ];
        for path in wrong {
            assert_eq!(route("GET", local, &path), Err(404), "{path}");
        }
    }

    #[test]
    fn browsers_leave_out_port_80() {
        let server = server(80);
        assert!(server.is_own("localhost") && server.is_own("127.0.0.1:80"));
        assert!(!server.is_own("evil.example"));
    }

    #[test]
    fn each_server_has_a_token_of_its_own() {
        let [one, other] = [server(1).token.clone(), server(1).token.clone()];
        assert_ne!(one, other);
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[tokio::test]
    async fn no_answer_may_be_read_by_other_origins_kept_or_taken_for_another_kind() {
        let server = server(8080);
        let expected = [
            ("/", 200, HTML, "default-src 'none'; script-src 'sha256-"),
            ("/news", 200, JSON, "default-src 'none'"),
            // What a cluster or a server said is text, and no HTML.
            ("/map", 502, TEXT, "default-src 'none'"),
            ("/other", 404, TEXT, "default-src 'none'"),
        ];
        for (rest, status, kind, policy) in expected {
            let path = format!("/{}{rest}", server.token);
            let request = request("GET", "127.0.0.1:8080", &path);
            let response = Arc::clone(&server).answer(&request).await;
            assert_eq!(response.status().as_u16(), status, "{rest}");
            let header = |name: &str| {
                let value = response.headers().get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            assert_eq!(header("content-type"), kind, "{rest}");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin");
            assert!(header("content-security-policy").starts_with(policy), "{rest}");
            let names = response.headers().keys().map(HeaderName::as_str);
            assert!(!names.into_iter().any(|name| name.starts_with("access-control-")));
        }
    }
}
