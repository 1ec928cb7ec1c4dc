//! A task between the watches and an agent: it watches one kind of objects while a policy needs them,
//! and makes one view of the pods of two watches. There are two such tasks, one behind the other: for
//! the Nodes besides the agent's own, and for the EndpointSlices of the API server.
//!
//! ```text
//! all other watches ─ Message ─► Passage ─ Event ─► agent
//!                                  ▲ │ the first policy that needs the objects comes, the last one goes
//!               objects that changed │ ▼
//!                          the watch of these objects
//! ```
//!
//! [`Naming`] and [`Pods`] decide what the agent receives. All events pass through each task, so
//! their order stays.

use std::time::Duration;

use kube::{Client, Resource};
use portcullis_apiserver::watch::{self, Closed, Contacts, Sink, Watch};
use portcullis_crds::diagnostic::Diagnostic;
use portcullis_crds::lean::Lean;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Message;
use super::known::Known;
use super::naming::{Naming, Needed, Unknown};
use super::pods::Pods;
use crate::watch::{Batch, Event};

/// After this time without the objects, policies that wait for them are decided closed, which is
/// reported, and an agent that starts does not wait any longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the watch of the objects sends.
enum Sent {
    /// Objects that changed, and whether the first list is complete.
    Objects(Batch, bool),
    /// The diagnostics about the kind itself.
    Diagnostics(String, Vec<Diagnostic>),
}

/// The watch of the objects of a kind.
pub(super) type ObjectWatch<K> = Watch<K, NeededObjects<K>>;

/// A task between the watches and the agent. It sends messages `M`.
pub(super) struct Passage<K, M> {
    client: Client,
    contacts: Contacts,
    /// Restricts the watch to the objects that are needed.
    restrict: Box<dyn Fn(ObjectWatch<K>) -> ObjectWatch<K> + Send>,
    /// How long the objects stay watched after the last policy that needs them has gone.
    kept: Duration,
    messages: mpsc::Sender<M>,
    naming: Naming<K>,
    pods: Pods,
    watch: Option<Running>,
    /// When the watch ends, if no policy needs the objects until then.
    stop_at: Option<Instant>,
    /// When missing objects count as late; `None` when they are late or known.
    late_at: Option<Instant>,
    /// What is reported of policies that are decided closed.
    reported: Vec<Diagnostic>,
    /// The origins of the diagnostics that are reported of the watch.
    origins: Vec<String>,
    /// [`Event::Synced`] was received and is not sent yet: an agent with rules of an earlier agent
    /// waits for the objects, so that the rules do not close and open again.
    holds_synced: bool,
    /// The agent has received that it may enforce policies.
    is_enforcing: bool,
}

/// The watch of the objects. It ends when this is dropped.
struct Running {
    _task: JoinSet<()>,
    sent: mpsc::Receiver<Sent>,
}

impl<K, M> Passage<K, M>
where
    K: Needed + Resource<DynamicType = ()> + 'static,
    M: From<Event>,
{
    /// Watches objects of the kind `K`, as `restrict` has it, while a policy needs them and for
    /// `kept` after that.
    pub(super) fn new(
        client: Client,
        restrict: impl Fn(ObjectWatch<K>) -> ObjectWatch<K> + Send + 'static,
        kept: Duration,
        messages: mpsc::Sender<M>,
    ) -> Self {
        Self {
            client,
            contacts: Contacts::default(),
            restrict: Box::new(restrict),
            kept,
            messages,
            naming: Naming::default(),
            pods: Pods::default(),
            watch: None,
            stop_at: None,
            late_at: None,
            reported: Vec::new(),
            origins: Vec::new(),
            holds_synced: false,
            is_enforcing: false,
        }
    }

    /// Records in `contacts` when the API server sends something.
    pub(super) fn contacts(self, contacts: Contacts) -> Self {
        Self { contacts, ..self }
    }

    /// Passes what it receives on until one of the two ends.
    pub(super) async fn run(mut self, mut received: mpsc::Receiver<Message>) {
        while let Ok(()) = self.step(&mut received).await {}
    }

    async fn step(&mut self, received: &mut mpsc::Receiver<Message>) -> Result<(), Closed> {
        let (stop_at, late_at) = (self.stop_at, self.late_at);
        tokio::select! {
            message = received.recv() => {
                let event = match message.ok_or(Closed)? {
                    Message::Event(event) => event,
                    Message::Pods(place, changes) => {
                        Event::Changes(self.pods.pass(place, changes))
                    }
                };
                self.pass(event).await?;
                self.follow_need().await
            }
            sent = next(&mut self.watch) => self.take(sent).await,
            () = sleep_until(stop_at.unwrap_or_else(Instant::now)), if stop_at.is_some() => {
                self.stop().await
            }
            () = sleep_until(late_at.unwrap_or_else(Instant::now)), if late_at.is_some() => {
                self.late_at = None;
                let closed = self.naming.close_held();
                self.put(Event::Changes(closed)).await?;
                self.report().await?;
                self.release_synced().await
            }
        }
    }

    async fn pass(&mut self, event: Event) -> Result<(), Closed> {
        match event {
            Event::Changes(changes) => {
                // Once policies are enforced, a new one waits for the objects for a moment: what it allows
                // must not be denied meanwhile.
                let may_wait = self.watch.is_none() || self.late_at.is_some();
                let unknown =
                    if self.is_enforcing && may_wait { Unknown::Hold } else { Unknown::Close };
                let changes = self.naming.pass(changes, unknown);
                self.put(Event::Changes(changes)).await
            }
            Event::Synced if self.naming.is_closed() && self.late_at.is_some() => {
                self.holds_synced = true;
                // An agent without rules of an earlier agent need not wait.
                self.put(Event::SyncedInPart).await
            }
            event => self.put(event).await,
        }
    }

    /// Starts the watch with the first policy that needs the objects, and sets the time when it stops
    /// with the last one.
    async fn follow_need(&mut self) -> Result<(), Closed> {
        match (self.naming.is_needed(), &self.watch) {
            (true, Some(_)) => self.stop_at = None,
            (true, None) => self.start(),
            (false, Some(_)) => {
                self.stop_at = self.stop_at.or_else(|| Some(Instant::now() + self.kept));
            }
            (false, None) => {}
        }
        self.report().await?;
        if self.naming.is_closed() { Ok(()) } else { self.release_synced().await }
    }

    fn start(&mut self) {
        debug!(kind = K::KIND.as_str(), "a policy needs objects of this kind; watching them");
        let (sender, sent) = mpsc::channel(1);
        let watch = Watch::new(self.client.clone(), K::KIND.as_str(), NeededObjects::new(sender));
        let mut task = JoinSet::new();
        task.spawn((self.restrict)(watch).contacts(&self.contacts).run());
        self.watch = Some(Running { _task: task, sent });
        self.late_at = Some(Instant::now() + PATIENCE);
    }

    async fn stop(&mut self) -> Result<(), Closed> {
        debug!(kind = K::KIND.as_str(), "no policy needs objects of this kind any more");
        (self.watch, self.stop_at, self.late_at) = (None, None, None);
        let removals = self.naming.forget();
        self.put(Event::Changes(removals)).await?;
        for origin in std::mem::take(&mut self.origins) {
            self.put(Event::Diagnostics(origin.into(), Vec::new())).await?;
        }
        self.report().await
    }

    async fn take(&mut self, sent: Sent) -> Result<(), Closed> {
        match sent {
            Sent::Objects(batch, is_complete) => {
                let was_closed = self.naming.is_closed();
                let changes = self.naming.take(batch.changes, is_complete);
                self.put(Event::Changes(changes)).await?;
                for (origin, found) in batch.diagnostics {
                    self.diagnose(&origin, found).await?;
                }
                if is_complete {
                    self.late_at = None;
                    if was_closed {
                        debug!(kind = K::KIND.as_str(), "all objects of this kind are known");
                    }
                    self.report().await?;
                    self.release_synced().await?;
                }
                Ok(())
            }
            Sent::Diagnostics(origin, found) => self.diagnose(&origin, found).await,
        }
    }

    /// Reports which policies are decided closed because the objects are not known.
    async fn report(&mut self) -> Result<(), Closed> {
        let found = match self.late_at {
            Some(_) => Vec::new(),
            None => self.naming.diagnostics(),
        };
        if found == self.reported {
            return Ok(());
        }
        self.reported.clone_from(&found);
        self.put(Event::Diagnostics(K::ORIGIN.into(), found)).await
    }

    async fn diagnose(&mut self, origin: &str, found: Vec<Diagnostic>) -> Result<(), Closed> {
        self.origins.retain(|known| known != origin);
        if !found.is_empty() {
            self.origins.push(origin.to_owned());
        }
        self.put(Event::Diagnostics(origin.into(), found)).await
    }

    async fn release_synced(&mut self) -> Result<(), Closed> {
        if std::mem::take(&mut self.holds_synced) {
            return self.put(Event::Synced).await;
        }
        Ok(())
    }

    async fn put(&mut self, event: Event) -> Result<(), Closed> {
        match &event {
            Event::Changes(changes) if changes.is_empty() => return Ok(()),
            Event::Synced | Event::SyncedInPart => self.is_enforcing = true,
            Event::Changes(_) | Event::Diagnostics(..) => {}
        }
        self.messages.send(event.into()).await.map_err(|_| Closed)
    }
}

/// What the watch sends next; never, while there is none.
async fn next(watch: &mut Option<Running>) -> Sent {
    if let Some(Running { sent, .. }) = watch
        && let Some(sent) = sent.recv().await
    {
        return sent;
    }
    std::future::pending().await
}

/// The sink of the watch.
pub(super) struct NeededObjects<K> {
    known: Known<K>,
    sender: mpsc::Sender<Sent>,
}

impl<K: Needed> NeededObjects<K> {
    fn new(sender: mpsc::Sender<Sent>) -> Self {
        Self { known: Known::default(), sender }
    }

    async fn send(&self, sent: Sent) -> Result<(), Closed> {
        self.sender.send(sent).await.map_err(|_| Closed)
    }
}

impl<K: Needed> Sink<K> for NeededObjects<K> {
    async fn take(&mut self, events: Vec<watch::Event<Lean<K>>>) -> Result<(), Closed> {
        let is_complete = self.known.take(events);
        let batch = self.known.flush();
        self.send(Sent::Objects(batch, is_complete)).await
    }

    async fn diagnose(&mut self, origin: String, found: Vec<Diagnostic>) -> Result<(), Closed> {
        self.send(Sent::Diagnostics(origin, found)).await
    }

    fn restored(&mut self) {
        self.known.forget_versions();
    }

    fn known(&self) -> Option<usize> {
        Some(self.known.len())
    }
}
