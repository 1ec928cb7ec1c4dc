//! The log of denials: from the messages of the kernel to log lines and metrics.
//!
//! ```text
//! kernel: NFLOG, limited ─► reader ─► message ─► packet ─► table ─ Sighting ─┐
//!         chain counters ─┐ (its own thread, waits for nobody)                      │ try_send
//!                         └─► agent's task: metrics, Status                         │
//!                                             lines ─► log       ◄──────────────────┘
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
//! Enforcement hardly waits for any of it: the channel has an end, each round of the agent spends
//! [`ROUND_BUDGET`] here, and all of them together a tenth of its time.

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

/// How many sightings may wait for the agent; what does not fit waits in the table.
const QUEUED: usize = 256;

/// How long a round of the agent may take over lines; the one that it is at is finished. What a line
/// costs has an end: see [`policy_engine::engine::blame`].
pub const ROUND_BUDGET: Duration = Duration::from_millis(2);

/// After writing lines, the agent writes none for this many times as long as that took.
const REST: u32 = 9;

/// The agent's end of the log.
#[derive(Debug)]
pub struct Feed {
    node: String,
    sightings: Receiver<Sighting>,
    /// Until when nothing is told.
    rest: Instant,
    /// How often policies have changed.
    changes: Arc<AtomicU64>,
}

impl Feed {
    /// Starts to read the log of a group of NFLOG, on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(node: &str, group: u16, metrics: &Metrics) -> io::Result<Self> {
        let (sender, sightings) = mpsc::channel(QUEUED);
        let changes = Arc::<AtomicU64>::default();
        let reader = Reader::new(group, sender, metrics.clone(), changes.clone());
        thread::Builder::new().name("denial-log".into()).spawn(|| reader.run())?;
        Ok(Self { node: node.to_owned(), sightings, rest: Instant::now(), changes })
    }

    /// Other policies are enforced now: packets may be denied by others than before.
    pub fn policies_changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the next sighting; for ever, once none will come.
    pub async fn next(&mut self) -> Sighting {
        sleep_until(self.rest).await;
        match self.sightings.recv().await {
            Some(sighting) => sighting,
            None => std::future::pending().await,
        }
    }

    /// Logs a sighting, and others that wait while the budget of a round lasts.
    pub fn tell(&mut self, first: &Sighting, engine: &Engine) {
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
    use super::table::{Occasion, Said};
    use super::*;
    use crate::dataplane::denial::Denial;

    fn sighting(port: u8) -> Sighting {
        let packet = Packet {
            source: Ipv4Addr::LOCALHOST.into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Other(port),
        };
        let denial = Denial::all().next().expect("there are some");
        let said = Arc::<Said>::default();
        Sighting { denial, packet: Some(packet), packets: 1, occasion: Occasion::First, said }
    }

    #[tokio::test(start_paused = true)]
    async fn after_lines_the_agent_is_left_alone_for_longer_than_they_took() {
        let (sender, sightings) = mpsc::channel(2);
        let (rest, changes) = (Instant::now(), Arc::default());
        let mut feed = Feed { node: "n1".into(), sightings, rest, changes };
        let engine = Engine::new(Scope::Cluster, Options::default());
        let start = Instant::now();
        sender.send(sighting(1)).await.expect("there is room");
        assert_eq!(feed.next().await.packet, sighting(1).packet);
        assert_eq!(start.elapsed(), Duration::ZERO, "the first one is told at once");
        feed.tell(&sighting(1), &engine);
        // The clock stands still in this test: as if it had taken a millisecond.
        feed.rest += Duration::from_millis(1) * REST;
        sender.send(sighting(2)).await.expect("there is room");
        assert_eq!(feed.next().await.packet, sighting(2).packet);
        assert!(start.elapsed() >= Duration::from_millis(9), "{:?}", start.elapsed());
    }
}
