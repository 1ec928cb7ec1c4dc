//! A stream of datagrams from one pod to another, each a flow of its own: when does it begin or
//! cease to pass?
//!
//! ```text
//! client pod ── every 0.2 ms: number n, from a new port ──► server pod
//!              sent[n] = now                                arrived: n
//! ```

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use portcullis_lab::Namespace;

/// What the latency is known to.
const EVERY: Duration = Duration::from_micros(200);
/// Nothing of so many came through, nor for so long: it is closed.
const LOST: usize = 50;
const QUIET: Duration = Duration::from_millis(40);
/// By then it is wrong, not slow.
const LIMIT: Duration = Duration::from_secs(10);

/// What a change is to do to the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Becomes {
    /// It begins to pass.
    Open,
    /// It ceases to pass.
    Closed,
}

/// From where to where.
pub struct Path<'a> {
    /// The network namespace of the pod that sends.
    pub client: &'a Namespace,
    /// The network namespace of the pod that receives.
    pub server: &'a Namespace,
    /// To which of its addresses.
    pub address: IpAddr,
    /// To which port.
    pub port: u16,
}

#[derive(Default)]
struct Seen {
    sent: Vec<Instant>,
    /// When the first datagram that arrived was sent.
    first: Option<Instant>,
    /// How many were sent up to the last that arrived; when one arrived last.
    passed: usize,
    arrived: Option<Instant>,
}

/// Makes a change while a stream goes from pod to pod; how long after `change` returned the stream
/// still was what it was before. Zero: it had changed already.
///
/// # Errors
/// When the stream does not do what it should, or is not what it should be before the change.
pub fn until(
    path: &Path<'_>,
    becomes: Becomes,
    change: impl FnOnce() -> Result<Instant>,
) -> Result<Duration> {
    let seen = Mutex::new(Seen::default());
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let done = AtomicBool::new(false);
    let Path { client, server, .. } = path;
    let any = match path.address {
        IpAddr::V4(_) => "0.0.0.0",
        IpAddr::V6(_) => "::",
    };
    let receiver = server.run(|| UdpSocket::bind((any, path.port)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let target = SocketAddr::new(path.address, path.port);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut number = [0; 4];
            while !done.load(Ordering::Relaxed) {
                if receiver.recv(&mut number).is_ok() {
                    let mut seen = lock();
                    let number = u32::from_le_bytes(number) as usize;
                    seen.first = seen.first.or(seen.sent.get(number).copied());
                    seen.passed = seen.passed.max(number + 1);
                    seen.arrived = Some(Instant::now());
                }
            }
        });
        let sending = scope.spawn(|| {
            client.run(|| -> Result<()> {
                while !done.load(Ordering::Relaxed) {
                    let number = {
                        let mut seen = lock();
                        seen.sent.push(Instant::now());
                        u32::try_from(seen.sent.len() - 1)?
                    };
                    let socket = UdpSocket::bind((any, 0))?;
                    // A pod that is not there yet is as closed as one that is isolated.
                    let _ = socket.send_to(&number.to_le_bytes(), target);
                    thread::sleep(EVERY);
                }
                Ok(())
            })
        });
        let measured = (|| {
            wait(becomes == Becomes::Open, &|| lock().first)?;
            let at = change()?;
            let deadline = at + LIMIT;
            loop {
                {
                    let seen = lock();
                    let now = Instant::now();
                    match becomes {
                        Becomes::Open => {
                            if let Some(first) = seen.first {
                                return Ok(first.saturating_duration_since(at));
                            }
                        }
                        Becomes::Closed => {
                            let arrived = seen.arrived.context("the stream was open")?;
                            let quiet = now.duration_since(arrived.max(at)) > QUIET;
                            if quiet && seen.sent.len() - seen.passed > LOST {
                                let last = seen.sent.get(seen.passed - 1).copied();
                                let last = last.context("what arrived was sent")?;
                                return Ok(last.saturating_duration_since(at));
                            }
                        }
                    }
                    if now > deadline {
                        bail!("the stream to {target} did not become {becomes:?}");
                    }
                }
                thread::sleep(EVERY);
            }
        })();
        done.store(true, Ordering::Relaxed);
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        receiving.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        sent??;
        measured
    })
}

/// Waits until the stream is what it should be before the change.
fn wait(closed: bool, first: &dyn Fn() -> Option<Instant>) -> Result<()> {
    let start = Instant::now();
    loop {
        match first() {
            Some(_) if closed => bail!("the stream passes before the change"),
            Some(_) => return Ok(()),
            None if closed && start.elapsed() > Duration::from_millis(5) => return Ok(()),
            None if start.elapsed() > LIMIT => bail!("the stream does not pass before the change"),
            None => thread::sleep(EVERY),
        }
    }
}
