//! The thread that reads the kernel's log. It never waits for the agent: denials that the agent
//! has not received yet stay in a table of bounded size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tracing::{error, info};

use super::message::{self, Logged};
use super::metrics::{Lost, Metrics};
use super::table::{Moment, Noted, Sighting, Table};
use crate::dataplane::netlink::nflog::{self, Error};
use crate::dataplane::netlink::{Received, Socket};

/// How often the table is searched for denials that are due.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// How often the table is searched while denials wait for room in the agent's channel.
const BACKLOG_PERIOD: Duration = Duration::from_millis(100);
/// The time between two attempts to open a log that cannot be read.
const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// The most datagrams that are read before the clock is read again.
const BATCH: usize = 64;

/// Reads the log of one NFLOG group until the listener is dropped.
pub struct Reader {
    group: u16,
    listener: Sender<Sighting>,
    metrics: Metrics,
    /// How many times policies have changed.
    changes: Arc<AtomicU64>,
    table: Table,
    sweep_at: Instant,
    /// The sequence number that the next message has if no message is lost.
    expected: Option<u32>,
    /// The failure that was logged last, while the log cannot be read.
    last_failure: Option<Arc<str>>,
}

impl Reader {
    /// A reader that has read nothing yet.
    #[must_use]
    pub fn new(
        group: u16,
        listener: Sender<Sighting>,
        metrics: Metrics,
        changes: Arc<AtomicU64>,
    ) -> Self {
        let (table, sweep_at) = (Table::default(), Instant::now());
        let (expected, last_failure) = (None, None);
        Self { group, listener, metrics, changes, table, sweep_at, expected, last_failure }
    }

    /// Reads until the listener is dropped.
    pub fn run(mut self) {
        while !self.listener.is_closed() {
            let failure = match nflog::open(self.group) {
                Ok(mut socket) => {
                    info!(group = self.group, "reading the log of denials");
                    (self.expected, self.last_failure) = (None, None);
                    self.metrics.listening(true);
                    let ended = self.read(&mut socket);
                    self.metrics.listening(false);
                    ended.err()
                }
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                self.log_failure(&failure);
                self.wait_to_retry();
            }
        }
    }

    /// Logs a failure once, and again when its text changes.
    fn log_failure(&mut self, failure: &Error) {
        let failure = failure.to_string();
        if self.last_failure.as_deref() != Some(&*failure) {
            error!(
                error = failure,
                group = self.group,
                "denials are not logged; policies are still enforced; retrying every 10 s"
            );
            self.last_failure = Some(failure.into());
        }
    }

    fn wait_to_retry(&mut self) {
        let until = Instant::now() + RETRY_PERIOD;
        while Instant::now() < until && !self.listener.is_closed() {
            thread::sleep(SWEEP_PERIOD);
            self.sweep(Instant::now());
        }
    }

    fn read(&mut self, socket: &mut Socket) -> Result<(), Error> {
        let broken = |said| Error::Kernel { what: "read the NFLOG group", said };
        while !self.listener.is_closed() {
            let left = self.sweep_at.saturating_duration_since(Instant::now());
            socket.wait(left).map_err(broken)?;
            let now = Instant::now();
            for _ in 0..BATCH {
                match socket.receive().map_err(broken)? {
                    Received::Datagram(datagram) => {
                        message::read(datagram)
                            .into_iter()
                            .for_each(|logged| self.note(logged, now));
                    }
                    // The next sequence number shows how many messages were lost.
                    Received::Overrun => {}
                    Received::Nothing => break,
                }
            }
            if now >= self.sweep_at {
                self.sweep(now);
            }
        }
        Ok(())
    }

    fn note(&mut self, logged: Logged, now: Instant) {
        self.metrics.message();
        if let Some(number) = logged.sequence {
            let missing = self.expected.map_or(0, |expected| number.wrapping_sub(expected));
            // A number below the expected one is no loss.
            if missing <= u32::MAX / 2 {
                self.metrics.lost(Lost::Overrun, missing.into());
            }
            self.expected = Some(number.wrapping_add(1));
        }
        let Some((denial, packet)) = logged.what else {
            return self.metrics.lost(Lost::Unreadable, 1);
        };
        let (listener, at) = (&self.listener, self.moment(now));
        let noted =
            self.table.note(denial, packet, at, |sighting| listener.try_send(sighting).is_ok());
        if noted == Noted::Merged {
            self.metrics.lost(Lost::NoRoom, 1);
        }
        if self.table.has_backlog() {
            self.sweep_at = self.sweep_at.min(now + BACKLOG_PERIOD);
        }
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment { now, changes: self.changes.load(Ordering::Relaxed) }
    }

    fn sweep(&mut self, now: Instant) {
        let (listener, at) = (&self.listener, self.moment(now));
        self.table.sweep(at, |sighting| listener.try_send(sighting).is_ok());
        let backlog = self.table.has_backlog();
        self.sweep_at = now + if backlog { BACKLOG_PERIOD } else { SWEEP_PERIOD };
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn numbered(sequence: u32) -> Logged {
        Logged { what: None, sequence: Some(sequence) }
    }

    #[test]
    fn gaps_in_the_numbers_are_messages_lost() {
        let metrics = Metrics::default();
        let (sender, _listener) = mpsc::channel(1);
        let mut reader = Reader::new(1, sender, metrics.clone(), Arc::default());
        let mut lost = |sequence| {
            let before = metrics.lost_so_far(Lost::Overrun);
            reader.note(numbered(sequence), Instant::now());
            metrics.lost_so_far(Lost::Overrun) - before
        };
        assert_eq!(lost(5), 0, "the first one may have any number");
        assert_eq!(lost(6), 0);
        assert_eq!(lost(10), 3);
        assert_eq!(lost(11), 0);
        assert_eq!(lost(9), 0, "a number below the expected one");
        assert_eq!(lost(u32::MAX / 2), u64::from(u32::MAX / 2 - 10));
        assert_eq!(lost(u32::MAX), u64::from(u32::MAX / 2));
        assert_eq!(lost(0), 0, "the numbers wrap around");
        assert_eq!(metrics.lost_so_far(Lost::Unreadable), 8);
    }
}
