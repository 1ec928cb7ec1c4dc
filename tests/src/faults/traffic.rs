//! Traffic that goes on during a fault, and is counted: new connections that policies allow, new ones
//! that they forbid, and one that stays open.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use portcullis_lab::{ConnectionSpec, DEFAULT_TIMEOUT, Endpoint, Lab, Probe};

use super::stage::lock;
use crate::shop::{ECHO, probes};

/// TCP sends a lost SYN again after a second: with less patience than that, a single one that is
/// dropped shows.
const ONE_SYN: Duration = Duration::from_millis(900);
/// How long a forbidden one may take to be answered. Short, so that many are sent.
const SHORT: Duration = Duration::from_millis(20);
/// Between two rounds.
const PACE: Duration = Duration::from_millis(10);

/// From, to, port: names of pods of the shop.
pub(super) type Route = (&'static str, &'static str, u16);

/// What is sent, and what was wrong with the answers.
#[derive(Default)]
pub(super) struct Traffic {
    allowed: Mutex<Vec<Probe>>,
    forbidden: Mutex<Vec<Probe>>,
    /// Probes that ended as they should.
    right: AtomicUsize,
    pub(super) passed: AtomicUsize,
    pub(super) failed: AtomicUsize,
    /// Failures of the connection that stays open.
    pub(super) broken: AtomicUsize,
    /// When a forbidden one passed for the last time.
    last_passed: Mutex<Option<Instant>>,
    /// The same for an allowed one that failed.
    last_failed: Mutex<Option<Instant>>,
    first_wrong: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Traffic {
    /// Adds what must pass from now on.
    pub(super) fn allow(&self, lab: &Lab, routes: &[Route]) -> Result<()> {
        lock(&self.allowed).extend(probes(lab, routes)?);
        Ok(())
    }

    /// Adds what must not pass from now on.
    pub(super) fn forbid(&self, lab: &Lab, routes: &[Route]) -> Result<()> {
        lock(&self.forbidden).extend(probes(lab, routes)?);
        Ok(())
    }

    /// These may pass or not from now on. One that is on its way is not counted.
    pub(super) fn forget(&self, lab: &Lab, routes: &[Route]) -> Result<()> {
        let forgotten = probes(lab, routes)?;
        for list in [&self.allowed, &self.forbidden] {
            lock(list).retain(|probe| !forgotten.contains(probe));
        }
        Ok(())
    }

    /// How long after `since` a forbidden one passed; none if none did.
    pub(super) fn passed_until(&self, since: Instant) -> Option<Duration> {
        lock(&self.last_passed).map(|last| last.saturating_duration_since(since))
    }

    /// How long after `since` an allowed one failed; none if none did.
    pub(super) fn failed_until(&self, since: Instant) -> Option<Duration> {
        lock(&self.last_failed).map(|last| last.saturating_duration_since(since))
    }

    /// How many probes and exchanges ended as they should.
    pub(super) fn right(&self) -> usize {
        self.right.load(Ordering::Relaxed)
    }

    /// The first answer that was wrong.
    pub(super) fn first_wrong(&self) -> Option<String> {
        lock(&self.first_wrong).clone()
    }

    /// Sends until [`Traffic::stop`].
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        lab: &'scope Lab,
        held: (&str, &str),
    ) -> Result<Vec<ScopedJoinHandle<'scope, Result<()>>>> {
        let to = SocketAddr::new(
            *lab.pod(&format!("shop/{}", held.1))?.addresses().first().context("an address")?,
            ECHO,
        );
        let from = Endpoint::pod(format!("shop/{}", held.0));
        let timeout = Duration::from_secs(5);
        let mut held = lab.connect(&ConnectionSpec { from, to, source_port: None, timeout })?;
        Ok(vec![
            scope.spawn(move || {
                while !self.stop.load(Ordering::Relaxed) {
                    match held.exchange() {
                        Ok(_) => drop(self.right.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            self.wrong(&self.broken, format!("the open connection: {error:#}"));
                            return Ok(());
                        }
                    }
                    thread::sleep(PACE);
                }
                Ok(())
            }),
            scope.spawn(|| self.rounds(lab, true)),
            scope.spawn(|| self.rounds(lab, false)),
        ])
    }

    /// Ends the traffic of [`Traffic::start`].
    pub(super) fn stop(&self, threads: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow!("a thread of the traffic panicked"))?
        })
    }

    fn rounds(&self, lab: &Lab, is_allowed: bool) -> Result<()> {
        let (list, wrong, latest) = if is_allowed {
            (&self.allowed, &self.failed, &self.last_failed)
        } else {
            (&self.forbidden, &self.passed, &self.last_passed)
        };
        let mut is_last = false;
        while !is_last {
            is_last = self.stop.load(Ordering::Relaxed);
            let timeout = match (is_allowed, is_last) {
                (true, _) => ONE_SYN,
                (false, false) => SHORT,
                (false, true) => DEFAULT_TIMEOUT,
            };
            let probes = lock(list).clone();
            for (probe, outcome) in probes.iter().zip(lab.probe_all(&probes, timeout)?) {
                if outcome.is_open() == is_allowed {
                    self.right.fetch_add(1, Ordering::Relaxed);
                } else if lock(list).contains(probe) {
                    *lock(latest) = Some(Instant::now());
                    self.wrong(wrong, format!("{probe}: {outcome}"));
                }
            }
            thread::sleep(PACE);
        }
        Ok(())
    }

    fn wrong(&self, count: &AtomicUsize, what: String) {
        count.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_wrong).get_or_insert(what);
    }
}
