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
//! Enforcement never waits for any of it: the channel has an end, and each round of the agent
//! spends [`ROUND_BUDGET`] here and no more.

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
use std::time::{Duration, Instant};

use policy_engine::world::World;
use tokio::sync::mpsc::{self, Receiver};

use self::metrics::Metrics;
use self::reader::Reader;
use self::table::Sighting;

/// How many sightings may wait for the agent; what does not fit waits in the table.
const QUEUED: usize = 256;

/// How long a round of the agent may take over lines: one line costs up to a millisecond or two in
/// a world of ten thousand policies, and a change of policy must not wait for many.
pub const ROUND_BUDGET: Duration = Duration::from_millis(2);

/// The agent's end of the log.
#[derive(Debug)]
pub struct Feed {
    node: String,
    sightings: Receiver<Sighting>,
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
        Ok(Self { node: node.to_owned(), sightings })
    }

    /// Waits for the next sighting; for ever, once none will come.
    pub async fn next(&mut self) -> Sighting {
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
    }
}
