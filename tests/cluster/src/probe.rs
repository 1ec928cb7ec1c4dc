//! Connections from pods, nodes and the host outside, made from their network namespaces.
//!
//! The servers are `agnhost netexec`: an HTTP server that answers `/hostname` with its pod's name
//! and `/clientip` with the address that it sees.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use portcullis_lab::{Family, Namespace};
use serde_json::Value;

use crate::cluster::Cluster;

/// How long one connection may take: shorter than the second after which TCP sends its SYN again.
const TIMEOUT: Duration = Duration::from_millis(700);
/// How long a change may take until connections show it: pods, endpoints and policies.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// So many attempts in a row must be dropped before a connection counts as denied.
const DENIALS: usize = 3;

/// What came of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The body of the response.
    Body(String),
    /// The connection was refused or broken: packets passed, but no server answered.
    Refused(String),
    /// No packet came back.
    Nothing,
}

impl Answer {
    /// True where a server answered.
    #[must_use]
    pub fn is_body(&self) -> bool {
        matches!(self, Self::Body(_))
    }
}

/// Asks an HTTP server for `path`, from inside of a network namespace.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn get(from: &Namespace, to: SocketAddr, path: &str) -> Result<Answer> {
    from.run(|| request(to, path))
}

fn request(to: SocketAddr, path: &str) -> Answer {
    match exchange(to, path) {
        Ok(body) => Answer::Body(body),
        Err(error) if is_silence(&error) => Answer::Nothing,
        Err(error) => Answer::Refused(error.to_string()),
    }
}

fn exchange(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        return Err(std::io::Error::other("not an HTTP response"));
    };
    let is_ok = head.split_whitespace().nth(1) == Some("200");
    if is_ok { Ok(body.to_owned()) } else { Err(std::io::Error::other(head.to_owned())) }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock)
}

impl Cluster {
    /// The addresses of a pod, once it has them, IPv4 first.
    ///
    /// # Errors
    /// When the pod does not exist or has no address in time.
    pub fn pod_addresses(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let pod = self.get(&["pod", name, "-n", namespace])?;
            let addresses = ips(&pod["status"]["podIPs"]);
            if !addresses.is_empty() {
                return Ok(addresses);
            }
            if Instant::now() > deadline {
                bail!("pod {namespace}/{name} has no address: {}", pod["status"]);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The addresses of a Service, IPv4 first.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn service_addresses(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let service = self.get(&["service", name, "-n", namespace])?;
        let addresses =
            service["spec"]["clusterIPs"].as_array().context("a Service has addresses")?;
        let mut addresses: Vec<IpAddr> =
            addresses.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        addresses.sort();
        Ok(addresses)
    }

    /// Waits until the pods of a namespace are ready; those of finished Jobs do not count.
    ///
    /// # Errors
    /// When they are not in time: with their list and events.
    pub fn wait_until_pods_are_ready(&self, namespace: &str) -> Result<()> {
        let wait = [
            "wait",
            "pods",
            "-n",
            namespace,
            "--all",
            "--for=condition=Ready",
            "--timeout=90s",
            "--field-selector=status.phase!=Succeeded",
        ];
        self.kubectl(&wait).map(drop).with_context(|| {
            let pods = self.kubectl(&["get", "pods", "-n", namespace, "-o", "wide"]);
            let events = self.kubectl(&["get", "events", "-n", namespace]);
            format!("{}\n{}", pods.unwrap_or_default(), events.unwrap_or_default())
        })
    }
}

/// The addresses of a list such as `status.podIPs`, IPv4 first.
fn ips(list: &Value) -> Vec<IpAddr> {
    let items = list.as_array().into_iter().flatten();
    let mut ips: Vec<IpAddr> = items.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
    ips.sort();
    ips
}

/// Waits until a server answers at each of `addresses`.
///
/// # Errors
/// When one does not in time.
pub fn expect_open(what: &str, from: &Namespace, addresses: &[IpAddr], port: u16) -> Result<()> {
    for address in addresses {
        let to = SocketAddr::new(*address, port);
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let answer = get(from, to, "/hostname")?;
            if answer.is_body() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{what}: {to} should answer: {answer:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Waits until packets to each of `addresses` are dropped, several times in a row.
///
/// # Errors
/// When a server still answers, or refuses, after that time.
pub fn expect_closed(what: &str, from: &Namespace, addresses: &[IpAddr], port: u16) -> Result<()> {
    for address in addresses {
        let to = SocketAddr::new(*address, port);
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut denials = 0;
        while denials < DENIALS {
            let answer = get(from, to, "/hostname")?;
            denials = if answer == Answer::Nothing { denials + 1 } else { 0 };
            if denials == 0 && Instant::now() > deadline {
                bail!("{what}: packets to {to} should be dropped: {answer:?}");
            }
        }
    }
    Ok(())
}

/// Those of `addresses` that are of one family.
#[must_use]
pub fn of_family(addresses: &[IpAddr], family: Family) -> Vec<IpAddr> {
    addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
}

/// Requests one after the other, until [`Probe::stop`].
#[derive(Debug)]
pub struct Probe {
    what: String,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<(Instant, Answer)>>>,
}

impl Probe {
    /// Starts a probe that asks `to` every `interval`.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start(what: &str, from: Namespace, to: SocketAddr, interval: Duration) -> Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let observed = Arc::clone(&ended);
        let ask = move || {
            let mut answers = Vec::new();
            while !observed.load(Ordering::Relaxed) {
                let started = Instant::now();
                answers.push((started, request(to, "/hostname")));
                thread::sleep(interval.saturating_sub(started.elapsed()));
            }
            answers
        };
        let builder = thread::Builder::new().name(format!("probe {what}"));
        let thread = builder.spawn(move || from.run(ask))?;
        Ok(Self { what: what.to_owned(), ended, thread })
    }

    /// Ends the probe; each request's start and what came of it.
    ///
    /// # Errors
    /// When it could not enter its namespace.
    pub fn stop(self) -> Result<Vec<(Instant, Answer)>> {
        self.ended.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(answers) => answers,
            Err(_) => bail!("probe {} panicked", self.what),
        }
    }

    /// Ends the probe, every request of which must have been answered; how many there were.
    ///
    /// # Errors
    /// When one was not: with the first ones of them.
    pub fn stop_all_answered(self) -> Result<usize> {
        let what = self.what.clone();
        check(&what, &self.stop()?, "answered", Answer::is_body)
    }

    /// Ends the probe, no packet of which may have been answered; how many requests there were.
    ///
    /// # Errors
    /// When one was: with the first ones of them.
    pub fn stop_none_answered(self) -> Result<usize> {
        let what = self.what.clone();
        check(&what, &self.stop()?, "dropped", |answer| *answer == Answer::Nothing)
    }
}

fn check(
    what: &str,
    answers: &[(Instant, Answer)],
    expected: &str,
    is_expected: impl Fn(&Answer) -> bool,
) -> Result<usize> {
    let start = answers.first().with_context(|| format!("{what}: no request was made"))?.0;
    let wrong: Vec<String> = answers
        .iter()
        .filter(|(_, answer)| !is_expected(answer))
        .map(|(at, answer)| format!("{:?} after {:.3} s", answer, (*at - start).as_secs_f64()))
        .collect();
    if wrong.is_empty() {
        return Ok(answers.len());
    }
    let first = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    bail!("{what}: {} of {} requests were not {expected}: {first}", wrong.len(), answers.len())
}
