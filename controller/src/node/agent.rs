//! The node agent: changes from a source become rules in the kernel.
//!
//! ```text
//! source ─ Event ─► Engine::apply … flush ─► Update ─► Dataplane::enforce ─► one log line
//!                                               ▲ failure: again, with back-off, until it is true
//!                                               ▲ a set or chain was refused: that again, with back-off
//!                                               ▲ many members join sets: some in each round
//!                                               ▲ when it is quiet: remove unreferenced rules and sets
//!                                               ▲ now and then: verify and repair
//! ```
//!
//! One task owns all state. Nothing is programmed before the source's first complete view; what an
//! earlier run left in the kernel stays enforced until then, and after this one ends.

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

use crate::dataplane::Dataplane;
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

/// Changes that come while only one family fails are applied to the other one after this time.
const OTHER_FAMILY_PAUSE: Duration = Duration::from_millis(200);

/// How often an agent that has nothing to do shows that it goes on.
const BEAT_PERIOD: Duration = Duration::from_secs(5);

/// Unreferenced rules and sets are removed once nothing has changed for this time.
const CLEANUP_AFTER: Duration = Duration::from_millis(200);
/// They are removed after this time at the latest. Sets that are still in use are tried again as often.
const CLEANUP_LIMIT: Duration = Duration::from_secs(2);

/// How often the kernel is asked how much it denied. It takes some 5 ms a kind of denial.
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
    /// When the oldest change that is not enforced yet came in.
    oldest: Option<Instant>,
    publisher: Publisher,
    /// What is compared with the kernel now.
    comparison: Comparison,
    /// How many members still have to join sets: some of them in each round.
    members_waiting: usize,
    /// Since when the kernel has unreferenced rules or sets.
    unreferenced: Option<Instant>,
    /// When what was refused is tried again; none while nothing is.
    refused_retry: Option<(Instant, BackOff)>,
    /// Pods that are denied connections because of that.
    refused: BTreeSet<Denied>,
    /// Denied packets; none when nobody logs them.
    denials: Option<Feed>,
    /// What else is found on the node; none when nobody looks.
    examinations: Option<Examinations>,
    /// The interfaces of the node's pods; none when pods are judged by their addresses alone.
    local_pods: Option<LocalPods>,
    /// Records on disk that policies were enforced on this node.
    marker: Marker,
    /// Whether packets of pods are dropped until all objects are known.
    is_closed: bool,
    /// Connections that must end.
    connections: Connections,
    /// What others do that may concern our hooks; none when nobody watches.
    touches: Option<HookTouches>,
    /// What happened to the hooks.
    hooks: History,
    /// When the hooks are looked at next; none while they are in place.
    hooks_at: Option<Instant>,
    /// When everything was compared last.
    verified_at: Instant,
    /// The name of the node; none when nobody asks whether such a node exists.
    node_name: Option<NodeName>,
    /// When denials are counted next.
    count_at: Instant,
    /// Whether the last count failed: that is said once.
    uncounted: bool,
    /// Questions of programs beside the agent; none when nobody can ask.
    inquiries: Option<Inquiries>,
}

/// How far the agent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The source has not delivered all objects yet.
    Loading,
    /// All objects are known, and nothing was applied yet. The interfaces of pods are awaited until
    /// then.
    Loaded { apply_at: Instant },
    /// The kernel does what the engine says.
    Applied { cleanup_at: Option<Instant> },
    /// The last apply failed: for one family, or for all.
    Failing { retry_at: Instant, back_off: BackOff, family: Option<Family> },
}

/// The source has ended, which it never should.
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
            uncounted: false,
            inquiries: None,
        }
    }

    /// The same agent, which also logs what policies deny.
    #[must_use]
    pub fn logging(self, denials: Option<Feed>) -> Self {
        Self { denials, ..self }
    }

    /// The same, reporting conflicts on the node.
    #[must_use]
    pub fn examined_by(self, examinations: Examinations) -> Self {
        Self { examinations: Some(examinations), ..self }
    }

    /// The same, judging pods by their interfaces, too.
    #[must_use]
    pub fn judging_interfaces_of(self, local_pods: Option<LocalPods>) -> Self {
        Self { local_pods, ..self }
    }

    /// The same, which also ends connections that lost their permission.
    #[must_use]
    pub fn ending(mut self, connections: Connections) -> Self {
        self.report("connections".into(), connections.diagnostics());
        Self { connections, ..self }
    }

    /// The same, told when others may have changed our hooks.
    #[must_use]
    pub fn watched_by(self, touches: HookTouches) -> Self {
        Self { touches: Some(touches), ..self }
    }

    /// The same, which reports it when no Node has this name.
    #[must_use]
    pub fn on(self, node_name: NodeName) -> Self {
        Self { node_name: Some(node_name), ..self }
    }

    /// The same, which also answers questions about what it enforces.
    #[must_use]
    pub fn answering(self, inquiries: Inquiries) -> Self {
        Self { inquiries: Some(inquiries), ..self }
    }

    /// Enforces until `shutdown`. What is in the kernel stays there.
    ///
    /// # Errors
    /// When the source ends by itself.
    pub async fn run(
        mut self,
        mut events: Receiver<Event>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), SourceEnded> {
        tokio::pin!(shutdown);
        loop {
            self.publisher.beat();
            let (alarm, is_applied) = (self.alarm(), self.is_applied());
            // Who is who is not known before all objects are.
            let log = self.denials.as_mut().filter(|_| self.state != State::Loading);
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                touched = HookTouches::next_of(self.touches.as_mut()) => self.touched(&touched),
                event = events.recv() => self.take(event.ok_or(SourceEnded)?),
                // Before what may be ready again and again: a pass waits for each answer.
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
            // Whatever has come meanwhile goes into the same round.
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            // First: an agent that lacks something is never ready, not for a moment.
            self.report_node_name();
            self.publish_diagnostics();
            self.sync();
            self.report_contests();
            self.report_budgets();
            self.report_refused();
            self.publish_diagnostics();
            if self.is_applied() {
                self.connections.begin(&self.engine);
            }
            if let State::Applied { .. } = self.state {
                debug!("all that the source said so far is enforced");
            }
        }
    }

    /// Whether all changes are applied, to one family at least.
    fn is_applied(&self) -> bool {
        match self.state {
            State::Applied { .. } => true,
            State::Failing { family, .. } => family.is_some() && self.oldest.is_none(),
            State::Loading | State::Loaded { .. } => false,
        }
    }

    fn alarm(&self) -> Option<Instant> {
        let alarm = self.regular_alarm();
        alarm.map(|at| self.hooks_at.map_or(at, |hooks_at| hooks_at.min(at)))
    }

    fn regular_alarm(&self) -> Option<Instant> {
        match self.state {
            State::Loading => None,
            State::Loaded { apply_at } => Some(apply_at),
            State::Applied { .. } if self.members_waiting > 0 || self.comparison.is_read() => {
                Some(Instant::now())
            }
            State::Applied { cleanup_at } => {
                let regular = self.verify_at.min(self.count_at);
                let retry_at = self.refused_retry.map(|(at, _)| at);
                [cleanup_at, retry_at].into_iter().flatten().chain([regular]).min()
            }
            State::Failing { retry_at, .. } => Some(retry_at.min(self.count_at)),
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

    /// Brings the kernel to where the engine is, when it is not there.
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
                // What is enforced still denies.
                if now >= self.count_at {
                    self.count();
                }
            }
            State::Failing { back_off, .. } => self.apply(back_off),
            State::Applied { .. } => {
                let update = self.engine.flush();
                // Once a round: what it gives next must not be applied in the same one.
                let is_attached_elsewhere = self.attach();
                if update.is_empty() && !is_attached_elsewhere && self.members_waiting == 0 {
                    self.oldest = None; // Changes that do not concern this node.
                    if let Some(selection) = self.engine.take_selection() {
                        // Other policies with the same rules.
                        self.publisher.selected(selection);
                        self.policies_changed();
                    }
                } else {
                    self.apply_update(&update, BACK_OFF);
                }
                self.look_after(now);
            }
        }
    }

    fn apply(&mut self, back_off: BackOff) {
        let update = self.engine.flush();
        self.attach();
        self.apply_update(&update, back_off);
    }

    fn apply_update(&mut self, update: &Update, mut back_off: BackOff) {
        self.connections.update(update, self.engine.compiled());
        match self.dataplane.enforce(self.engine.compiled(), update) {
            Ok(report) => {
                if matches!(self.state, State::Failing { .. }) {
                    // So far, connections of a family that failed were judged by its former rules.
                    self.connections.judge_all();
                }
                self.marker.set();
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
                    self.oldest = None; // Applied to the other one.
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

    /// What is denied may be denied by others now.
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
