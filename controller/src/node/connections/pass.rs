//! The thread that reads the kernel's connections and ends some. It never judges: the agent judges
//! a few hundred connections at a time, and handles changes between the batches.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tracing::{debug, info, warn};

use super::judge::{Means, Question, Reason};
use super::metrics::Metrics;
use super::order::Filter;
use crate::dataplane::netlink::addresses;
use crate::dataplane::netlink::conntrack::{Connection, Deleter, Entry, Handle, Reader};

/// How many connections the agent judges at a time, in a fraction of a millisecond.
const BATCH: usize = 256;
/// The least time between the starts of two passes. Changes in between share the next pass.
const PASS_PERIOD: Duration = Duration::from_millis(200);
/// Passes take at most one part in this many of the time, however large the kernel's table is.
const SHARE: u32 = 5;
/// The least time between the start of a pass that failed and the next pass.
const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// How many passes follow a pass that ended a connection. A late answer opens the connection again
/// in the reverse direction where policies allow that; each of these passes ends it again.
const REPEATS: u32 = 10;
/// The most connections that these passes search for.
const REVIVED_MAX: usize = 100_000;

/// One connection for the agent to judge, with the entry of the kernel.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) question: Question,
    pub(super) entry: Handle,
}

/// The candidates of a batch that end, with reason and means.
pub(super) type Ending = Vec<(Reason, Means, Candidate)>;

/// The result of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// All connections that had to end have ended.
    Ended,
    /// All of them have ended, but late answers may have opened some again.
    Again,
    /// The pass has to be repeated.
    Failed,
}

/// A message from the thread to the agent.
#[derive(Debug)]
pub(super) enum Message {
    /// Connections to judge: the agent answers with those that end.
    Judge(Vec<Candidate>),
    /// The pass has ended, and the next one can begin.
    Done(Outcome),
}

/// What the thread owns.
pub(super) struct Worker {
    orders: Receiver<Filter>,
    messages: Sender<Message>,
    endings: Receiver<Ending>,
    metrics: Metrics,
    /// The failure that was logged last; `None` after a pass that succeeded.
    last_failure: Option<String>,
    /// The connections that late answers to ended connections would open.
    revived: HashSet<Connection>,
    /// How many passes still search for these.
    repeats: u32,
}

/// The counts of a pass so far.
#[derive(Default)]
struct Tally {
    tracked: u64,
    judged: u64,
    /// The number of ended connections, by the position of the reason in [`Reason::ALL`].
    ended: [u64; 2],
    refused: Option<io::Error>,
    /// The connections that late answers could open, of those that ended by a change of policies.
    new: Vec<Connection>,
}

/// The agent has ended.
struct AgentEnded;

impl Worker {
    pub(super) fn new(
        orders: Receiver<Filter>,
        messages: Sender<Message>,
        endings: Receiver<Ending>,
        metrics: Metrics,
    ) -> Self {
        let (last_failure, revived, repeats) = (None, HashSet::new(), 0);
        Self { orders, messages, endings, metrics, last_failure, revived, repeats }
    }

    /// Starts the thread, which ends with the agent.
    pub(super) fn start(self) -> io::Result<()> {
        thread::Builder::new().name("connections".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(mut self) {
        while let Ok(filter) = self.orders.recv() {
            let (start, mut tally) = (Instant::now(), Tally::default());
            let passed = match self.pass(&filter, &mut tally) {
                Ok(Ok(())) => tally.refused.take().map_or(Ok(()), Err),
                Ok(Err(AgentEnded)) => return,
                Err(failure) => Err(failure),
            };
            self.follow(&mut tally);
            self.report(&tally, passed.as_ref().err(), start.elapsed());
            let period = if passed.is_ok() { PASS_PERIOD } else { RETRY_PERIOD };
            let took = start.elapsed();
            thread::sleep(period.max(took * SHARE).saturating_sub(took));
            let outcome = match passed {
                Ok(()) if self.repeats > 0 => Outcome::Again,
                Ok(()) => Outcome::Ended,
                Err(_) => Outcome::Failed,
            };
            if self.messages.blocking_send(Message::Done(outcome)).is_err() {
                return;
            }
        }
    }

    /// Reads all entries, lets the agent judge those that `filter` finds, and ends what must end.
    fn pass(&self, filter: &Filter, tally: &mut Tally) -> io::Result<Result<(), AgentEnded>> {
        let node = addresses::local()?;
        let (mut reader, mut deleter) = (Reader::open()?, Deleter::open()?);
        let (mut batch, mut waiting) = (Vec::with_capacity(BATCH), 0_usize);
        let mut agent_ended = false;
        let read = reader.each(|entry| {
            tally.tracked += 1;
            let is_revived = !self.revived.is_empty()
                && entry.zone == 0
                && self.revived.contains(&seen(entry.connection));
            if !is_revived && !filter.concerns(&entry) {
                return ControlFlow::Continue(());
            }
            tally.judged += 1;
            batch.push(candidate(&entry, is_revived, &node));
            if batch.len() < BATCH {
                return ControlFlow::Continue(());
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            agent_ended = self.messages.blocking_send(Message::Judge(full)).is_err();
            waiting += 1;
            for ending in self.endings.try_iter() {
                waiting = waiting.saturating_sub(1);
                tally.end(&mut deleter, ending);
            }
            if agent_ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if !batch.is_empty() {
            agent_ended |= self.messages.blocking_send(Message::Judge(batch)).is_err();
            waiting += 1;
        }
        for _ in 0..waiting {
            let Ok(ending) = self.endings.recv() else { return Ok(Err(AgentEnded)) };
            tally.end(&mut deleter, ending);
        }
        read.map(|()| if agent_ended { Err(AgentEnded) } else { Ok(()) })
    }

    /// Notes the connections that late answers may open.
    fn follow(&mut self, tally: &mut Tally) {
        self.repeats = self.repeats.saturating_sub(1);
        if tally.new.is_empty() && self.repeats == 0 {
            self.revived.clear();
        } else if !tally.new.is_empty() {
            let room = REVIVED_MAX.saturating_sub(self.revived.len());
            self.revived.extend(tally.new.drain(..).take(room));
            self.repeats = REPEATS;
        }
    }

    fn report(&mut self, tally: &Tally, failure: Option<&io::Error>, took: Duration) {
        for (reason, ended) in Reason::ALL.into_iter().zip(tally.ended) {
            self.metrics.ended(reason, ended);
        }
        let [address_released, policy_changed] = tally.ended;
        let Tally { tracked, judged, .. } = tally;
        let took_ms = took.as_secs_f64() * 1e3;
        if tally.ended == [0, 0] {
            debug!(tracked, judged, took_ms, "all connections that were judged are allowed");
        } else {
            info!(
                address_released,
                policy_changed,
                tracked,
                judged,
                took_ms,
                "ended connections that lost their permission"
            );
        }
        let last_failure = failure.map(ToString::to_string);
        if let Some(error) = &last_failure {
            self.metrics.failed();
            if self.last_failure.as_ref() != Some(error) {
                warn!(
                    error,
                    "failed to end connections that lost their permission; new connections are \
                     judged; retrying every 10 s"
                );
            }
        }
        self.last_failure = last_failure;
    }
}

impl Tally {
    fn end(&mut self, deleter: &mut Deleter, ending: Ending) {
        for (reason, means, Candidate { question, entry }) in ending {
            let ended = match means {
                Means::Delete => deleter.delete(&entry),
                Means::Halt => deleter.halt(&entry),
            };
            match ended {
                Ok(true) => {
                    self.ended[usize::from(reason != Reason::AddressReleased)] += 1;
                    let may_revive = means == Means::Delete && reason == Reason::PolicyChanged;
                    if may_revive && !question.is_revived {
                        self.new.push(seen(question.connection.reversed()));
                    }
                }
                Ok(false) => {}
                Err(error) => self.refused = Some(error),
            }
        }
    }
}

/// A connection without NAT: its dialled and answered addresses are its source and destination.
fn seen(connection: Connection) -> Connection {
    let Connection { source, destination, .. } = connection;
    Connection { dialled: destination, answered: source, ..connection }
}

fn candidate(entry: &Entry<'_>, is_revived: bool, node: &HashSet<IpAddr>) -> Candidate {
    let is_node = |address: IpAddr| address.is_loopback() || node.contains(&address);
    let question = Question {
        connection: entry.connection,
        is_expected: entry.is_expected,
        is_revived,
        is_halted: entry.is_halted,
        from_node: is_node(entry.connection.source),
        to_node: is_node(entry.connection.destination),
    };
    Candidate { question, entry: entry.handle() }
}
