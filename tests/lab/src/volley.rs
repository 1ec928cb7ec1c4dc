//! Many probes at once: opened inside their namespaces, then all driven by one event queue.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::flight::Flight;
use super::namespace::Namespace;
use super::probe::{Observation, Outcome, Probe};

/// Probes that are on their way at a time: bounds open files and bursts at one server.
pub(super) const MAX_IN_FLIGHT: usize = 512;
/// As [`MAX_IN_FLIGHT`], of those that should not be answered: bounds open files alone.
pub(super) const MAX_SILENT: usize = 2048;

/// Sends the probes, each from the namespace beside it, and waits for all outcomes.
pub(super) fn fly(
    probes: &[Probe],
    sources: &[&Namespace],
    timeout: Duration,
) -> Result<Vec<Observation>> {
    let mut by_source: BTreeMap<&str, (&Namespace, Vec<usize>)> = BTreeMap::new();
    for (at, source) in sources.iter().enumerate() {
        by_source.entry(source.name()).or_insert((source, Vec::new())).1.push(at);
    }
    let mut queue = Queue::new(probes.len())?;
    thread::scope(|scope| {
        let (launched, arrivals) = std::sync::mpsc::channel();
        for (source, wanted) in by_source.into_values() {
            let launched = launched.clone();
            scope.spawn(move || {
                let result = source.run(|| {
                    for at in wanted {
                        let Some(probe) = probes.get(at) else { continue };
                        let flight = Flight::launch(probe, timeout)
                            .with_context(|| format!("failed to send probe {probe}"));
                        let _ = launched.send(flight.map(|flight| (at, flight)));
                    }
                });
                if let Err(error) = result {
                    let _ = launched.send(Err(error));
                }
            });
        }
        drop(launched);
        for arrival in arrivals {
            let (at, flight) = arrival?;
            queue.add(at, flight)?;
        }
        anyhow::Ok(())
    })?;
    queue.run()
}

/// The flights that have no outcome yet, and the outcomes of the others.
struct Queue {
    poll: Poll,
    flights: BTreeMap<usize, Flight>,
    seen: Vec<Option<Observation>>,
}

impl Queue {
    fn new(probes: usize) -> Result<Self> {
        let poll = Poll::new().context("failed to create an event queue")?;
        let seen = std::iter::repeat_with(|| None).take(probes).collect();
        Ok(Self { poll, flights: BTreeMap::new(), seen })
    }

    fn add(&mut self, at: usize, flight: Flight) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&flight.socket.as_raw_fd()), Token(at), interest)
            .context("failed to watch a probe's socket")?;
        self.flights.insert(at, flight);
        self.step(at);
        Ok(())
    }

    fn run(mut self) -> Result<Vec<Observation>> {
        let mut events = Events::with_capacity(MAX_IN_FLIGHT);
        while let Some(next) = self.flights.values().map(Flight::next_timer).min() {
            let wait = next.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error).context("failed to wait for probes");
                }
                _ => {}
            }
            for event in &events {
                self.step(event.token().0);
            }
            self.tick(Instant::now());
        }
        let nothing =
            || Observation { outcome: Outcome::Dropped, seen_from: None, took: Duration::ZERO };
        Ok(self.seen.into_iter().map(|seen| seen.unwrap_or_else(nothing)).collect())
    }

    fn step(&mut self, at: usize) {
        if let Some(flight) = self.flights.get_mut(&at)
            && let Some((outcome, seen_from)) = flight.step()
        {
            self.land(at, outcome, seen_from);
        }
    }

    /// Sends again what is due and gives up on what is late.
    fn tick(&mut self, now: Instant) {
        let due: Vec<usize> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.next_timer() <= now)
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            let Some(flight) = self.flights.get_mut(&at) else { continue };
            if flight.deadline <= now {
                // It may have been answered while other flights were looked at.
                self.step(at);
                self.land(at, Outcome::Dropped, None);
            } else if let Some(outcome) = flight.again() {
                self.land(at, outcome, None);
            }
        }
    }

    fn land(&mut self, at: usize, outcome: Outcome, seen_from: Option<SocketAddr>) {
        if let Some(flight) = self.flights.remove(&at)
            && let Some(slot) = self.seen.get_mut(at)
        {
            *slot = Some(Observation { outcome, seen_from, took: flight.started.elapsed() });
        }
    }
}
