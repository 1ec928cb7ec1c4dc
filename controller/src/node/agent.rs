//! The node agent: changes from a source become rules in the kernel.
//!
//! ```text
//! source ─ Event ─► Engine::apply … flush ─► Update ─► Dataplane::enforce ─► one log line
//!                                               ▲ failure: again, with back-off, until it succeeds
//!                                               ▲ a set or chain was refused: retry, with back-off
//!                                               ▲ many members join sets: some in each round
//!                                               ▲ no changes: remove unreferenced rules and sets
//!                                               ▲ once a period: verify and repair
//! ```
//!
//! One task owns all state. Nothing is programmed before the source's first complete view. Rules of
//! an earlier agent stay enforced until then, and the rules of this agent stay after it ends.

mod answers;
mod awaited;
mod comparison;
mod findings;
mod hooks;
mod interfaces;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use policy_engine::cidr::Family;
use policy_engine::compiled::Update;
use policy_engine::engine::Engine;
use portcullis_apiserver::back_off::BackOff;
use portcullis_crds::convert::Object;
use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, trace};

use crate::dataplane::{self, Dataplane};
use crate::node::answers::Inquiries;
use crate::node::boot::Marker;
use crate::node::conflicts::Examinations;
use crate::node::connections::Connections;
use crate::node::denials::Feed;
use crate::node::hooks::{History, HookTouches};
use crate::node::local_pods::LocalPods;
use crate::node::node_name::NodeName;
use crate::node::publisher::Publisher;
use crate::node::refused::Denied;
use crate::node::status::Rules;
use crate::watch::Event;

use awaited::{examination, found, next};
use comparison::Comparison;

/// The waits after failed applies.
const BACK_OFF: BackOff = BackOff::new(Duration::from_millis(100), Duration::from_secs(10));

/// Changes that come while only one IP family fails are applied to the other one after this time.
const OTHER_FAMILY_PAUSE: Duration = Duration::from_millis(200);

/// How often an idle agent shows that it is alive.
const BEAT_PERIOD: Duration = Duration::from_secs(5);

/// Unreferenced rules and sets are removed once nothing has changed for this time.
const CLEANUP_AFTER: Duration = Duration::from_millis(200);
/// Unreferenced rules and sets are removed after this time at the latest; the removal of sets in
/// use is retried as often.
const CLEANUP_LIMIT: Duration = Duration::from_secs(2);

/// How often the denied packets are read from the kernel, which takes about 5 ms a kind of denial.
const COUNT_PERIOD: Duration = Duration::from_secs(10);

/// The agent of one node.
pub struct Agent {
    engine: Engine,
    dataplane: Dataplane,
    verify_period: Duration,
    verify_at: Instant,
    state: State,
    diagnostics: BTreeMap<Arc<str>, Vec<Diagnostic>>,
    diagnostics_changed: bool,
    /// When the oldest change that is not enforced yet was received.
    oldest: Option<Instant>,
    publisher: Publisher,
    /// The running comparison of the kernel with the policies.
    comparison: Comparison,
    /// How many members still have to join sets; each round adds some of them.
    members_waiting: usize,
    /// The time since which the kernel has unreferenced rules or sets.
    unreferenced: Option<Instant>,
    /// When refused rules are tried again; `None` while no rules are refused.
    refused_retry: Option<(Instant, BackOff)>,
    /// Pods that are denied connections because rules were refused.
    refused: BTreeSet<Denied>,
    /// Denied packets; `None` when they are not logged.
    denials: Option<Feed>,
    /// Examinations of the node for conflicts; `None` when it is not examined.
    examinations: Option<Examinations>,
    /// The interfaces of the node's pods; `None` when pods are judged by their addresses only.
    local_pods: Option<LocalPods>,
    /// Records on disk that policies were enforced on this node.
    marker: Marker,
    /// Whether packets of pods are dropped until all objects are known.
    is_closed: bool,
    /// Connections that must end.
    connections: Connections,
    /// Changes by other programs that may concern the hooks; `None` when they are not watched.
    touches: Option<HookTouches>,
    /// When the hooks were displaced and repaired.
    hooks: History,
    /// When the hooks are checked next; `None` while they are in place.
    hooks_at: Option<Instant>,
    /// When the last comparison of everything began.
    verified_at: Instant,
    /// The name of the node; `None` when its existence is not checked.
    node_name: Option<NodeName>,
    /// When denials are counted next.
    count_at: Instant,
    /// Whether the last count failed: the failure is logged once.
    count_failed: bool,
    /// Questions of other programs on the node; `None` when there is no socket for them.
    inquiries: Option<Inquiries>,
}

/// The progress of the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The source has not delivered all objects yet.
    Loading,
    /// All objects are known, and nothing was applied yet. The agent waits for the interfaces of
    /// pods until `apply_at`.
    Loaded { apply_at: Instant },
    /// The kernel enforces the rules of the engine.
    Applied { cleanup_at: Option<Instant> },
    /// The last apply failed for `family`, or for all families.
    Failing { retry_at: Instant, back_off: BackOff, family: Option<Family> },
}

/// The source of objects ended although the agent was not asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("the source of objects ended; what is in the kernel stays enforced")]
pub struct SourceEnded;

impl Agent {
    /// An agent that has done nothing yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        dataplane: Dataplane,
        verify_period: Duration,
        publisher: Publisher,
    ) -> Self {
        Self {
            engine,
            dataplane,
            verify_period,
            verify_at: Instant::now() + verify_period,
            state: State::Loading,
            diagnostics: BTreeMap::new(),
            diagnostics_changed: false,
            oldest: None,
            publisher,
            comparison: Comparison::default(),
            members_waiting: 0,
            unreferenced: None,
            refused_retry: None,
            refused: BTreeSet::new(),
            denials: None,
            examinations: None,
            local_pods: None,
            marker: Marker::default(),
            is_closed: false,
            connections: Connections::off(),
            touches: None,
            hooks: History::default(),
            hooks_at: None,
            verified_at: Instant::now(),
            node_name: None,
            count_at: Instant::now(),
            count_failed: false,
            inquiries: None,
        }
    }

    /// The same agent, which also logs what policies deny.
    #[must_use]
    pub fn logging(self, denials: Option<Feed>) -> Self {
        Self { denials, ..self }
    }

    /// The same agent, which also reports conflicts on the node.
    #[must_use]
    pub fn examined_by(self, examinations: Examinations) -> Self {
        Self { examinations: Some(examinations), ..self }
    }

    /// The same agent, which also judges pods by their interfaces.
    #[must_use]
    pub fn judging_interfaces_of(self, local_pods: Option<LocalPods>) -> Self {
        Self { local_pods, ..self }
    }

    /// The same agent, which also ends connections that policies no longer allow.
    #[must_use]
    pub fn ending(mut self, connections: Connections) -> Self {
        self.report("connections".into(), connections.diagnostics());
        Self { connections, ..self }
    }

    /// The same agent, which also checks the hooks when other programs may have changed them.
    #[must_use]
    pub fn watched_by(self, touches: HookTouches) -> Self {
        Self { touches: Some(touches), ..self }
    }

    /// The same agent, which also reports when no Node has this name.
    #[must_use]
    pub fn on(self, node_name: NodeName) -> Self {
        Self { node_name: Some(node_name), ..self }
    }

    /// The same agent, which also answers questions about what it enforces.
    #[must_use]
    pub fn answering(self, inquiries: Inquiries) -> Self {
        Self { inquiries: Some(inquiries), ..self }
    }

    /// Enforces policies until `shutdown` completes. The rules in the kernel stay enforced.
    ///
    /// # Errors
    /// When the source ends before `shutdown` completes.
    pub async fn run(
        mut self,
        mut events: Receiver<Event>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), SourceEnded> {
        tokio::pin!(shutdown);
        loop {
            self.publisher.beat();
            let (alarm, is_applied) = (self.alarm(), self.is_applied());
            // The pods behind the addresses are unknown until all objects are known.
            let log = self.denials.as_mut().filter(|_| self.state != State::Loading);
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                touched = HookTouches::next_of(self.touches.as_mut()) => self.touched(&touched),
                event = events.recv() => self.take(event.ok_or(SourceEnded)?),
                // Before branches that are often ready: a pass waits for each answer.
                report = self.connections.next(), if is_applied => {
                    self.connections.handle(report, &self.engine);
                    continue;
                }
                () = sleep(BEAT_PERIOD) => continue,
                () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
                found = examination(self.examinations.as_mut()) => {
                    self.examined(found);
                    self.publish_diagnostics();
                    continue;
                }
                found = found(self.local_pods.as_mut()) => self.attached(found),
                reading = self.comparison.next() => self.read(reading),
                denial = next(log) => {
                    if let Some(denials) = &mut self.denials {
                        denials.log(&denial, &self.engine);
                    }
                    continue;
                }
                inquiry = answers::next(self.inquiries.as_mut()) => {
                    self.answer(inquiry);
                    continue;
                }
            }
            // Events that came meanwhile belong to the same round.
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            // Before `sync`, so that an agent that lacks something is never ready for a moment.
            self.report_node_name();
            self.publish_diagnostics();
            self.sync();
            self.report_contests();
            self.report_budgets();
            self.report_api_server();
            self.report_refused();
            self.publish_diagnostics();
            if self.is_applied() {
                self.connections.begin(&self.engine);
            }
            if matches!(self.state, State::Applied { .. }) && !self.has_members_left() {
                debug!("all that the source said so far is enforced");
            }
        }
    }

    /// Whether all changes are applied to at least one family.
    fn is_applied(&self) -> bool {
        match self.state {
            State::Applied { .. } => true,
            State::Failing { family, .. } => family.is_some() && self.oldest.is_none(),
            State::Loading | State::Loaded { .. } => false,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Changes(changes) => {
                let now = Instant::now();
                self.oldest.get_or_insert(now);
                if let State::Failing { retry_at, family: Some(_), .. } = &mut self.state {
                    *retry_at = (*retry_at).min(now + OTHER_FAMILY_PAUSE);
                }
                for Object { change, .. } in changes {
                    trace!(?change, "received a change");
                    let change = match &mut self.local_pods {
                        Some(local_pods) => local_pods.complete(change, &self.engine),
                        None => change,
                    };
                    self.connections.note(self.engine.world(), &change);
                    self.engine.apply(change);
                }
            }
            Event::Diagnostics(origin, diagnostics) => self.report(origin, diagnostics),
            Event::Synced => {
                if self.state == State::Loading {
                    self.loaded();
                }
            }
            Event::SyncedInPart => self.loaded_in_part(),
        }
    }

    /// Applies the rules of the engine that the kernel does not enforce yet.
    fn sync(&mut self) {
        let now = Instant::now();
        if self.hooks_at.is_some_and(|at| now >= at) {
            self.check_hooks();
        }
        match self.state {
            State::Loading => {}
            State::Loaded { apply_at } if now < apply_at => {}
            State::Loaded { .. } => self.apply(BACK_OFF),
            State::Failing { retry_at, .. } if now < retry_at => {
                // The rules in the kernel still deny packets.
                if now >= self.count_at {
                    self.count();
                }
            }
            State::Failing { back_off, .. } => self.apply(back_off),
            State::Applied { .. } => {
                self.engine.applied(|set| self.dataplane.has_all_members(set));
                let update = self.engine.flush();
                // Once a round: the next attachments must not be applied in the same round.
                let is_attached_elsewhere = self.attach();
                if update.is_empty() && !is_attached_elsewhere && self.members_waiting == 0 {
                    self.oldest = None; // Changes that do not concern this node.
                    if let Some(selection) = self.engine.take_selection() {
                        // Other policies select the pods, with the same rules.
                        self.publisher.selected(selection);
                        self.policies_changed();
                    }
                } else {
                    self.apply_update(&update, BACK_OFF);
                }
                self.maintain(now);
            }
        }
    }

    fn apply(&mut self, back_off: BackOff) {
        self.engine.fill_at_once(); // Not all is enforced, so no pod waits.
        let update = self.engine.flush();
        self.attach();
        self.apply_update(&update, back_off);
    }

    fn apply_update(&mut self, update: &Update, mut back_off: BackOff) {
        self.connections.update(update, self.engine.compiled());
        match self.dataplane.enforce(self.engine.compiled(), update) {
            Ok(report) => {
                if matches!(self.state, State::Failing { .. }) {
                    // Until now, a family that failed judged connections by its former rules.
                    self.connections.judge_all();
                }
                self.marker.set();
                self.engine.fill_in_slices(dataplane::MEMBERS_AT_ONCE);
                if !matches!(self.state, State::Applied { .. }) {
                    Self::end_boot(None);
                }
                self.log_applied(&report);
                self.policies_changed();
                self.enforced(&report, CLEANUP_AFTER);
            }
            Err(failure) => {
                let (family, rules) = (failure.family(), Rules::after(&failure));
                let (failure, wait) = (chain(&failure), back_off.wait());
                self.publisher.failed(&failure, family, rules);
                if family.is_some() {
                    self.marker.set();
                    Self::end_boot(family);
                    self.oldest = None; // Applied to the other family.
                }
                error!(
                    error = failure,
                    retry_in_ms = wait.as_millis(),
                    "failed to apply policies; {}",
                    rules.effect(family)
                );
                self.state = State::Failing { retry_at: Instant::now() + wait, back_off, family };
            }
        }
    }

    /// Notes that other policies may deny the same packets now.
    fn policies_changed(&self) {
        if let Some(denials) = &self.denials {
            denials.policies_changed();
        }
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
