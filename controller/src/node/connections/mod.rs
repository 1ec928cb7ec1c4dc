//! Connections that must end: those that policies no longer allow, and those of addresses that
//! pods of this node have lost.
//!
//! ```text
//! agent: changes ─► order ── Filter ──► thread (pass): reads the kernel's entries
//!           judge ◄─ a batch of entries ──┘    ▲
//!             └──── those that end ────────────┘ deletes them
//! ```
//!
//! | file | what it contains |
//! |---|---|
//! | [`owners`] | which addresses pods of this node have lost |
//! | [`order`] | which entries have to be judged again after a change |
//! | [`judge`] | decides which of them end |
//! | `pass` | the thread that reads and deletes entries |
//! | [`metrics`] | how many ended |
//!
//! A pass reads all entries once, so its cost follows the size of the kernel's table. It begins
//! when a change is applied, and at most five passes begin in a second. One pass serves all changes
//! that came during the one before. Applying policies waits for none of it.

pub mod judge;
pub mod metrics;
pub mod order;
pub mod owners;
mod pass;

use std::io;
use std::sync::mpsc as std_mpsc;

use policy_engine::compiled::{Compiled, Update};
use policy_engine::engine::Engine;
use policy_engine::model::Change;
use policy_engine::world::World;
use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::mpsc;

pub use self::judge::Choices;
use self::judge::{RevokeEstablished, View};
use self::metrics::Metrics;
use self::order::{Filter, Order};
use self::owners::Owners;
use self::pass::{Candidate, Ending, Message, Outcome, Worker};
use crate::dataplane::netlink::conntrack;
use crate::node::status::node_warning;

/// Batches that wait for the agent.
const QUEUED: usize = 4;

/// The agent's end.
#[derive(Debug)]
pub struct Connections {
    choices: Choices,
    owners: Owners,
    /// What the next pass looks at.
    pending: Order,
    /// What the pass that runs looks at.
    current: Option<Order>,
    /// The way to the thread; where there is none, why.
    link: Result<Link, Option<io::Error>>,
}

/// The way to the thread.
#[derive(Debug)]
struct Link {
    orders: std_mpsc::Sender<Filter>,
    messages: mpsc::Receiver<Message>,
    endings: std_mpsc::Sender<Ending>,
}

/// What a pass says to the agent.
#[derive(Debug)]
pub struct Report(Message);

impl Connections {
    /// Ends no connections.
    #[must_use]
    pub fn off() -> Self {
        let choices = Choices { revoke: RevokeEstablished::None, allow_egress_to_own_node: false };
        Self::new("", choices, Err(None))
    }

    /// Starts the thread in this network namespace, which waits for changes. Where the kernel does
    /// not list or delete its entries for this process, [`Connections::diagnostics`] says so.
    #[must_use]
    pub fn start(node: &str, choices: Choices, metrics: Metrics) -> Self {
        let started = conntrack::probe().and_then(|()| Link::start(metrics));
        Self::new(node, choices, started.map_err(Some))
    }

    fn new(node: &str, choices: Choices, link: Result<Link, Option<io::Error>>) -> Self {
        let (owners, pending) = (Owners::new(node), Order::default());
        Self { choices, owners, pending, current: None, link }
    }

    /// A change is about to be applied to `world`.
    pub fn note(&mut self, world: &World, change: &Change) {
        if self.link.is_ok() {
            self.owners.note(world, change);
        }
    }

    /// An update of the rules is about to be applied.
    pub fn update(&mut self, update: &Update, compiled: &Compiled) {
        self.look_at(|| Order::of(update, compiled));
    }

    /// Others changed so many of our rules: for some time, not all new connections were judged.
    pub fn repaired(&mut self, changes: usize) {
        if changes > 0 {
            self.judge_all();
        }
    }

    /// All connections of isolated pods have to be judged again.
    pub fn judge_all(&mut self) {
        self.look_at(Order::all);
    }

    fn look_at(&mut self, order: impl FnOnce() -> Order) {
        if self.link.is_ok() && self.choices.revoke != RevokeEstablished::None {
            self.pending.merge(order());
        }
    }

    /// All changes are enforced: starts a pass if it is needed and none runs.
    pub fn begin(&mut self, engine: &Engine) {
        self.pending.released.append(&mut self.owners.released(engine.world()));
        let Ok(link) = &self.link else { return };
        if self.current.is_some() || self.pending.is_empty() {
            return;
        }
        let order = std::mem::take(&mut self.pending);
        let filter = order.filter(engine.compiled(), self.choices.revoke);
        // The thread does not end before this value is dropped.
        if link.orders.send(filter).is_ok() {
            self.current = Some(order);
        }
    }

    /// Whether no pass runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Waits for the pass. To be handled while all changes are enforced.
    pub async fn next(&mut self) -> Report {
        if let Ok(link) = &mut self.link
            && let Some(message) = link.messages.recv().await
        {
            return Report(message);
        }
        std::future::pending().await
    }

    /// Judges a batch of connections, or notes that a pass is over.
    pub fn handle(&mut self, Report(message): Report, engine: &Engine) {
        let Ok(link) = &self.link else { return };
        match message {
            Message::Judge(candidates) => {
                let nothing = Order::default();
                let view = View {
                    compiled: engine.compiled(),
                    released: &self.current.as_ref().unwrap_or(&nothing).released,
                    is_owned: &|address| engine.world().subject(address).is_some(),
                    choices: self.choices,
                };
                let ends = |found: Candidate| {
                    let (reason, means) = view.ending(&found.question)?;
                    Some((reason, means, found))
                };
                // As above.
                let _ = link.endings.send(candidates.into_iter().filter_map(ends).collect());
            }
            Message::Done(outcome) => {
                let passed = self.current.take();
                self.pending.merge(match outcome {
                    Outcome::Ended => Order::default(),
                    Outcome::Again => Order::revived(),
                    Outcome::Failed => passed.unwrap_or_default(),
                });
                self.begin(engine);
            }
        }
    }

    /// What the report lists where connections cannot be ended.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let Err(Some(why)) = &self.link else { return Vec::new() };
        let message = format!(
            "connections that lose their permission are not ended ({why}); new connections are \
             judged; load nf_conntrack_netlink"
        );
        vec![node_warning(message)]
    }
}

impl Link {
    fn start(metrics: Metrics) -> io::Result<Self> {
        let (orders, ordered) = std_mpsc::channel();
        let (sender, messages) = mpsc::channel(QUEUED);
        let (endings, ended) = std_mpsc::channel();
        Worker::new(ordered, sender, ended, metrics).start()?;
        Ok(Self { orders, messages, endings })
    }
}
