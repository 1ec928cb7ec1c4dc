//! What policy denies, told: from the kernel's log to lines and metrics.
//!
//! ```text
//! kernel: NFLOG, limited ─► reader: socket ─► message ─► packet ─► table ─ Sighting ─┐
//!         chain counters ─┐ (its own thread, waits for nobody)                      │ try_send
//!                         └─► agent's task: metrics, Status                         │
//!                                           telling ─► log lines ◄──────────────────┘
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | [`packet`], [`message`] | bytes as values; they may be anything |
//! | [`socket`], [`reader`] | where they come from |
//! | [`table`] | which are told now, counted, or let go: of bounded size |
//! | [`telling`], [`words`] | who, to whom, and by which policies |
//! | [`metrics`] | numbers |
//!
//! Enforcement hardly waits for any of it: the channel has an end, each round of the agent spends
//! [`ROUND_BUDGET`] here, and all of them together a tenth of its time.

pub mod message;
pub mod metrics;
pub mod packet;
pub mod reader;
pub mod socket;
pub mod table;
pub mod telling;
pub mod words;

use std::io;
use std::thread;
use std::time::Duration;

use policy_engine::world::World;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{Instant, sleep_until};

use self::metrics::Metrics;
use self::reader::Reader;
use self::table::Sighting;

/// How many sightings may wait for the agent; what does not fit waits in the table.
const QUEUED: usize = 256;

/// How long a round of the agent may take over lines; the one that it is at is finished.
///
/// A line costs what it takes to read the specification for one packet. Of 10,000 policies and pods:
/// 0.4 ms when 10 of them select the pod, 0.9 ms when 100 do, 150 ms when all do.
pub const ROUND_BUDGET: Duration = Duration::from_millis(2);

/// After telling lines, the agent tells none for so many times as long as that took.
const REST: u32 = 9;

/// The agent's end of the log.
#[derive(Debug)]
pub struct Feed {
    node: String,
    sightings: Receiver<Sighting>,
    /// Until when nothing is told.
    rest: Instant,
}

impl Feed {
    /// Starts to read the log of a group of NFLOG, on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(node: &str, group: u16, metrics: &Metrics) -> io::Result<Self> {
        let (sender, sightings) = mpsc::channel(QUEUED);
        let reader = Reader::new(group, sender, metrics.clone());
        thread::Builder::new().name("denial-log".into()).spawn(|| reader.run())?;
        Ok(Self { node: node.to_owned(), sightings, rest: Instant::now() })
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
    pub fn tell(&mut self, first: &Sighting, world: &World) {
        let start = Instant::now();
        telling::log(&self.node, world, first);
        while start.elapsed() < ROUND_BUDGET
            && let Ok(sighting) = self.sightings.try_recv()
        {
            telling::log(&self.node, world, &sighting);
        }
        self.rest = Instant::now() + start.elapsed() * REST;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use policy_engine::world::Options;

    use super::packet::{Packet, Transport};
    use super::*;
    use crate::dataplane::denial::Denial;

    fn sighting(port: u8) -> Sighting {
        let packet = Packet {
            source: Ipv4Addr::LOCALHOST.into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Other(port),
        };
        let denial = Denial::all().next().expect("there are sixteen");
        Sighting { denial, packet: Some(packet), count: 1, period: None }
    }

    #[tokio::test(start_paused = true)]
    async fn after_lines_the_agent_is_left_alone_for_longer_than_they_took() {
        let (sender, sightings) = mpsc::channel(2);
        let mut feed = Feed { node: "n1".into(), sightings, rest: Instant::now() };
        let start = Instant::now();
        sender.send(sighting(1)).await.expect("there is room");
        assert_eq!(feed.next().await, sighting(1));
        assert_eq!(start.elapsed(), Duration::ZERO, "the first one is told at once");
        feed.tell(&sighting(1), &World::new(Options::default()));
        // The clock stands still in this test: as if it had taken a millisecond.
        feed.rest += Duration::from_millis(1) * REST;
        sender.send(sighting(2)).await.expect("there is room");
        assert_eq!(feed.next().await, sighting(2));
        assert!(start.elapsed() >= Duration::from_millis(9), "{:?}", start.elapsed());
    }
}
