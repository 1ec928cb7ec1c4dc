//! The log of denials: from the messages of the kernel to log lines and metrics.
//!
//! ```text
//! kernel: NFLOG, limited ─► reader ─► message ─► packet ─► table ─ Sighting ─┐
//!         chain counters ─┐ (its own thread, never blocked by the agent)     │ try_send
//!                         └─► agent's task: metrics, Status                  │
//!                                             lines ─► log       ◄───────────┘
//! ```
//!
//! | file | what it contains |
//! |---|---|
//! | [`packet`], [`message`] | parse the bytes of a packet and of a message of the kernel, which may be anything |
//! | [`reader`] | reads the messages from the kernel |
//! | [`table`] | decides which denials are logged now, counted or dropped; its size is bounded |
//! | [`lines`], [`words`] | write source, destination and policies of a denial |
//! | [`metrics`] | the metrics of denials and of this log |
//!
//! The log delays enforcement little: the channel is bounded, a round of the agent spends at most
//! [`ROUND_BUDGET`] on log lines, and all rounds together spend at most a tenth of its time.

pub mod lines;
pub mod message;
pub mod metrics;
pub mod packet;
pub mod reader;
pub mod table;
pub mod words;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use policy_engine::engine::Engine;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{Instant, sleep_until};

use self::metrics::Metrics;
use self::reader::Reader;
use self::table::Sighting;

/// The most sightings that wait for the agent in the channel; further ones wait in the table.
const QUEUED: usize = 256;

/// How long a round of the agent may write log lines; a line that has begun is finished. The cost
/// of one line is bounded: see [`policy_engine::engine::blame`].
pub const ROUND_BUDGET: Duration = Duration::from_millis(2);

/// After writing lines, the agent writes none for this many times as long as that took.
const REST: u32 = 9;

/// The receiving end of the log, which the agent owns.
#[derive(Debug)]
pub struct Feed {
    node: String,
    sightings: Receiver<Sighting>,
    /// No line is logged before this time.
    rest: Instant,
    /// How many times policies have changed.
    changes: Arc<AtomicU64>,
}

impl Feed {
    /// Starts a thread that reads the log of an NFLOG group.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(node: &str, group: u16, metrics: &Metrics) -> io::Result<Self> {
        let (sender, sightings) = mpsc::channel(QUEUED);
        let changes = Arc::<AtomicU64>::default();
        let reader = Reader::new(group, sender, metrics.clone(), changes.clone());
        thread::Builder::new().name("denial-log".into()).spawn(|| reader.run())?;
        Ok(Self { node: node.to_owned(), sightings, rest: Instant::now(), changes })
    }

    /// Records that the enforced policies changed: other policies may deny the same packets now.
    pub fn policies_changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the next sighting; never returns after the reading thread has ended.
    pub async fn next(&mut self) -> Sighting {
        sleep_until(self.rest).await;
        match self.sightings.recv().await {
            Some(sighting) => sighting,
            None => std::future::pending().await,
        }
    }

    /// Logs a sighting, and then the waiting ones until the budget of a round is spent.
    pub fn log(&mut self, first: &Sighting, engine: &Engine) {
        let start = Instant::now();
        lines::log(&self.node, engine, first);
        while start.elapsed() < ROUND_BUDGET
            && let Ok(sighting) = self.sightings.try_recv()
        {
            lines::log(&self.node, engine, &sighting);
        }
        self.rest = Instant::now() + start.elapsed() * REST;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use policy_engine::engine::Scope;
    use policy_engine::world::Options;

    use super::packet::{Packet, Transport};
    use super::table::{Occasion, Reported};
    use super::*;
    use crate::dataplane::denial::Denial;

    fn sighting(port: u8) -> Sighting {
        let packet = Packet {
            source: Ipv4Addr::LOCALHOST.into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Other(port),
        };
        let denial = Denial::all().next().expect("there are some");
        let reported = Arc::<Reported>::default();
        Sighting { denial, packet: Some(packet), packets: 1, occasion: Occasion::First, reported }
    }

    #[tokio::test(start_paused = true)]
    async fn after_lines_no_line_is_written_for_longer_than_they_took() {
        let (sender, sightings) = mpsc::channel(2);
        let (rest, changes) = (Instant::now(), Arc::default());
        let mut feed = Feed { node: "n1".into(), sightings, rest, changes };
        let engine = Engine::new(Scope::Cluster, Options::default());
        let start = Instant::now();
        sender.send(sighting(1)).await.expect("there is room");
        assert_eq!(feed.next().await.packet, sighting(1).packet);
        assert_eq!(start.elapsed(), Duration::ZERO, "the first one is returned at once");
        feed.log(&sighting(1), &engine);
        // The clock is paused in this test: add the rest after one millisecond of writing.
        feed.rest += Duration::from_millis(1) * REST;
        sender.send(sighting(2)).await.expect("there is room");
        assert_eq!(feed.next().await.packet, sighting(2).packet);
        assert!(start.elapsed() >= Duration::from_millis(9), "{:?}", start.elapsed());
    }
}
