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
//! A pass reads all entries once, so its cost depends on the size of the kernel's table. It begins
//! when a change is applied, and at most five passes begin in a second. One pass serves all changes
//! that came during the pass before. Policies are applied without waiting for a pass.

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

/// The most messages that wait for the agent.
const QUEUED: usize = 4;

/// The agent's side: keeps what has to be judged, starts passes and judges connections.
#[derive(Debug)]
pub struct Connections {
    choices: Choices,
    owners: Owners,
    /// What the next pass reads.
    pending: Order,
    /// What the running pass reads; `None` while no pass runs.
    current: Option<Order>,
    /// The channels of the thread; without a thread, why it was not started (`None`: turned off).
    link: Result<Link, Option<io::Error>>,
}

/// The channels of the thread.
#[derive(Debug)]
struct Link {
    orders: std_mpsc::Sender<Filter>,
    messages: mpsc::Receiver<Message>,
    endings: std_mpsc::Sender<Ending>,
}

/// A message of a pass to the agent.
#[derive(Debug)]
pub struct Report(Message);

impl Connections {
    /// A value that ends no connections.
    #[must_use]
    pub fn off() -> Self {
        let choices = Choices { revoke: RevokeEstablished::None, allow_egress_to_own_node: false };
        Self::new("", choices, Err(None))
    }

    /// Starts the thread in this network namespace, which waits for changes. If the kernel does not
    /// let this process list or delete entries, [`Connections::diagnostics`] reports that.
    #[must_use]
    pub fn start(node: &str, choices: Choices, metrics: Metrics) -> Self {
        let started = conntrack::probe().and_then(|()| Link::start(metrics));
        Self::new(node, choices, started.map_err(Some))
    }

    fn new(node: &str, choices: Choices, link: Result<Link, Option<io::Error>>) -> Self {
        let (owners, pending) = (Owners::new(node), Order::default());
        Self { choices, owners, pending, current: None, link }
    }

    /// Notes a change that will be applied to `world` next.
    pub fn note(&mut self, world: &World, change: &Change) {
        if self.link.is_ok() {
            self.owners.note(world, change);
        }
    }

    /// Notes an update of the rules that will be applied next.
    pub fn update(&mut self, update: &Update, compiled: &Compiled) {
        self.look_at(|| Order::of(update, compiled));
    }

    /// Notes how many rules were repaired after another program changed them: for some time, not
    /// all new connections were judged.
    pub fn repaired(&mut self, changes: usize) {
        if changes > 0 {
            self.judge_all();
        }
    }

    /// Lets the next pass judge all connections of isolated pods.
    pub fn judge_all(&mut self) {
        self.look_at(Order::all);
    }

    fn look_at(&mut self, order: impl FnOnce() -> Order) {
        if self.link.is_ok() && self.choices.revoke != RevokeEstablished::None {
            self.pending.merge(order());
        }
    }

    /// Starts a pass if one is needed and none runs. All changes must be enforced before.
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

    /// Waits for a message of the pass, which [`Connections::handle`] takes while all changes are
    /// enforced.
    pub async fn next(&mut self) -> Report {
        if let Ok(link) = &mut self.link
            && let Some(message) = link.messages.recv().await
        {
            return Report(message);
        }
        std::future::pending().await
    }

    /// Judges a batch of connections, or notes that a pass has ended.
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
                // The thread does not end before this value is dropped.
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

    /// The warning for the node's report when connections cannot be ended.
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
