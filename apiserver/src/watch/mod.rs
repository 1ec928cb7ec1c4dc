//! The watch of one kind, which never ends while its events are read.
//!
//! ```text
//!            ┌── 410, an answer that makes no sense ──┐
//!            ▼                                        │
//! view: streaming list ─────────────────────────────────► watch from there ─┐
//!            │ failed                                 ▲  ▲                  │ ended, failed
//!            └──► list in pages ──────────────────────┘  └── from the last version seen
//! 404 of a kind that the cluster may lack: see `presence`; it is looked for until it is there, in any
//! version that is understood
//! ```
//!
//! It sends the events of `kube_runtime::watcher`, and does the same with kube's requests. It also
//! handles three cases that the watcher does not: a quiet watch that works again after an outage
//! (the watcher neither resets its back-off nor reports it), a streaming list that is older than
//! what was shown before (the watcher requests *any* version), and servers without streaming lists.

mod contact;
mod lists;
mod outage;
mod presence;
mod refusal;
mod sink;

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::api::{WatchEvent, WatchParams};
use kube::core::{NamespaceResourceScope, Request};
use kube::{Client, Resource};
use portcullis_crds::lean::{Lean, Projected};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

pub use kube::runtime::watcher::Event;

use crate::failure::{Failure, Reason};
use contact::Contact;
pub use contact::Contacts;
use lists::Lists;
use outage::Outage;
use presence::{Definition, Presence};
use refusal::Refusal;
pub use sink::{Closed, Sink};

/// The most events of one batch, which has only events that were received already. After some 2 ms
/// of decoding, the watches of the other kinds can run.
const BATCH: usize = 128;

/// The server ends a watch after so many seconds. Each watch chooses at random, so that agents
/// which lost their server at the same time do not reconnect at the same time for ever.
const WATCH_SECONDS: RangeInclusive<u32> = 145..=290;

/// A watch without an event for longer than the server keeps it open is dead.
const WATCH_LIMIT: Duration = Duration::from_secs(*WATCH_SECONDS.end() as u64 + 10);

/// A list fails when the next object or page does not arrive within this time.
const LIST_LIMIT: Duration = Duration::from_mins(1);

/// How often a waiting watch checks whether other kinds wait for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A watch without a failure for this long after it was opened works.
const SETTLED: Duration = Duration::from_secs(2);

/// The watch of one kind.
pub struct Watch<K, S> {
    client: Client,
    kind: &'static str,
    /// The version that is watched, and the path of the resource in it.
    served_version: &'static str,
    path: String,
    fields: Option<String>,
    labels: Option<String>,
    lists: Lists,
    /// The version from which the watch continues; `None`: the next step is a list.
    version: Option<String>,
    /// The highest resource version that was read, if versions are numbers.
    highest: Option<u64>,
    /// Whether no list has been complete yet.
    is_first: bool,
    outage: Outage,
    contact: Option<Contact>,
    refusal: Refusal,
    sink: S,
    /// The CRD of a kind that the cluster may lack; `None` for a built-in kind.
    definition: Option<Definition>,
    /// Whether the cluster lacks the kind, so that there is nothing to watch.
    away: bool,
    of: PhantomData<fn() -> K>,
}

/// Why a step ended before its time.
enum End {
    Failed(Failure),
    Closed,
}

fn watch_seconds() -> u32 {
    fastrand::u32(WATCH_SECONDS)
}

impl<F: Into<Failure>> From<F> for End {
    fn from(failure: F) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl<K, S> Watch<K, S>
where
    K: Projected + Resource<DynamicType = ()>,
    S: Sink<K>,
{
    /// A watch of all objects of the kind `K`, which is named `kind` in logs.
    pub fn new(client: Client, kind: &'static str, sink: S) -> Self {
        Self {
            client,
            kind,
            served_version: "",
            path: K::url_path(&(), None),
            fields: None,
            labels: None,
            lists: Lists::Streamed,
            version: None,
            highest: None,
            is_first: true,
            outage: Outage::new(kind),
            contact: None,
            refusal: Refusal::default(),
            sink,
            definition: None,
            away: false,
            of: PhantomData,
        }
    }

    /// Restricts the watch to objects that match this field selector.
    #[must_use]
    pub fn fields(self, selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..self }
    }

    /// Restricts the watch to objects of this namespace that match this label selector.
    #[must_use]
    pub fn labels(self, namespace: &str, selector: impl Into<String>) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        let path = K::url_path(&(), Some(namespace));
        Self { path, labels: Some(selector.into()), ..self }
    }

    /// Declares that the kind has a CRD that the cluster may lack: then it is requested every
    /// `period`. `versions` are those that can be read, the preferred one first.
    #[must_use]
    pub fn optional(self, versions: &'static [&'static str], period: Duration) -> Self {
        let served_version = versions.first().copied().unwrap_or_default();
        let definition = Some(Definition::of::<K>(self.kind, versions, period));
        Self { served_version, definition, ..self }
    }

    /// Records in `contacts` when the server sends something.
    #[must_use]
    pub fn contacts(self, contacts: &Contacts) -> Self {
        Self { contact: Some(contacts.of(self.kind)), ..self }
    }

    /// Watches until the sink is closed.
    pub async fn run(mut self) {
        loop {
            let failure = match self.step().await {
                Ok(()) => continue,
                Err(End::Closed) => return,
                Err(End::Failed(failure)) => failure,
            };
            // The server does not have the version any more from which the watch would continue.
            if failure.reason == Reason::Status(410) && self.version.take().is_some() {
                info!(kind = self.kind, "the watch has expired; listing again");
                sleep(self.outage.expired()).await;
                continue;
            }
            let wait = self.outage.failed(&failure, self.is_first);
            if self.pause(wait, &failure).await.is_err() {
                return;
            }
        }
    }

    /// Waits after a failure, and reports the failure once it has lasted.
    async fn pause(&mut self, wait: Duration, failure: &Failure) -> Result<(), Closed> {
        let end = Instant::now() + wait;
        loop {
            let is_awaited = self.is_first && self.definition.is_some();
            let holds_up = is_awaited && self.sink.waits_for_optional_kinds();
            if let Some(found) = self.refusal.failed(self.kind, failure, self.is_first, holds_up) {
                self.sink.diagnose(self.refusal_origin(), vec![found]).await?;
                if is_awaited {
                    self.sink.unreadable().await?;
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Whether other kinds wait for this one can change meanwhile.
            sleep(if is_awaited { left.min(LOOK_AGAIN) } else { left }).await;
        }
    }

    /// Records that the kind can be read.
    async fn over(&mut self) -> Result<(), Closed> {
        self.heard();
        self.outage.over();
        if self.refusal.over() {
            self.sink.diagnose(self.refusal_origin(), Vec::new()).await?;
        }
        Ok(())
    }

    fn heard(&self) {
        if let Some(contact) = &self.contact {
            contact.heard();
        }
    }

    /// The origin of the diagnostics about refusals.
    fn refusal_origin(&self) -> String {
        format!("permission to read {}", self.kind)
    }

    async fn step(&mut self) -> Result<(), End> {
        if self.away {
            return self.look().await;
        }
        match self.round().await {
            Err(End::Failed(Failure { reason: Reason::Status(404), .. }))
                if self.definition.is_some() =>
            {
                self.look().await
            }
            ended => ended,
        }
    }

    /// Requests the CRD of the kind, and waits when the cluster lacks the kind.
    async fn look(&mut self) -> Result<(), End> {
        let Some(definition) = &mut self.definition else { return Ok(()) };
        let request = self.client.request_text(definition.request()?);
        let answer = timeout(LIST_LIMIT, request).await.map_err(|_| silence(LIST_LIMIT))?;
        let presence = definition.read(answer)?;
        let is_news = std::mem::replace(&mut definition.reported, presence.clone()) != presence;
        let wait = definition.wait();
        if is_news {
            let found = definition.diagnostics(&presence);
            self.sink.diagnose(definition.origin(), found).await?;
        }
        if let Presence::Served(version) = presence {
            return self.served(version);
        }
        self.over().await?;
        self.away = true;
        if is_news {
            presence.log(self.kind, self.is_first, self.sink.known());
        }
        // Without the CRD no object exists. If the CRD exists, the objects known before stay.
        if presence == Presence::Absent || self.is_first {
            self.is_first = false;
            self.version = None;
            self.sink.take(vec![Event::Init, Event::InitDone]).await?;
        }
        sleep(wait).await;
        Ok(())
    }

    /// The cluster has the kind, in this version.
    fn served(&mut self, version: &'static str) -> Result<(), End> {
        let is_other = std::mem::replace(&mut self.served_version, version) != version;
        if is_other {
            self.path = format!("/apis/{}/{version}/{}", K::group(&()), K::plural(&()));
            // The objects and their resource versions are the same: the list brings no changes.
            self.version = None;
        }
        if std::mem::take(&mut self.away) || is_other {
            info!(kind = self.kind, version, "the cluster has this kind in this version");
            return Ok(());
        }
        let error = "the server lacks what the CRD serves";
        Err(Failure::new(Reason::Status(404), error).into())
    }

    /// One watch, with the list before it where one is needed.
    async fn round(&mut self) -> Result<(), End> {
        if self.version.is_none() || self.outage.is_on() {
            self.compare_versions().await?;
        }
        if self.version.is_none() && self.lists != Lists::Streamed {
            if self.lists == Lists::PagedOnce {
                self.lists = Lists::Streamed;
            }
            self.list_pages().await?;
        }
        let lists = self.version.is_none();
        match self.watch().await {
            Err(End::Failed(failure)) if lists && self.version.is_none() => {
                self.list_failed(failure)
            }
            ended => ended,
        }
    }

    /// One watch, which begins with the list where one is needed. It returns `Ok` when the
    /// server closes the watch, which it does after some minutes.
    async fn watch(&mut self) -> Result<(), End> {
        let opened = Instant::now();
        let mut params = WatchParams::default().timeout(watch_seconds());
        params.field_selector.clone_from(&self.fields);
        params.label_selector.clone_from(&self.labels);
        params.send_initial_events = self.version.is_none();
        // Without a version the list is as new as the request: never older than an earlier list,
        // also of another API server.
        let version = self.version.clone().unwrap_or_default();
        let request = Request::new(&*self.path).watch(&params, &version)?;
        let stream = self.client.request_events::<Lean<K>>(request).await?;
        self.heard();
        if self.version.is_none() {
            self.sink.take(vec![Event::Init]).await?;
        }
        self.follow(stream).await?;
        if opened.elapsed() < SETTLED {
            let error = "the server ended the watch at once";
            return Err(Failure::new(Reason::Answer, error).into());
        }
        Ok(())
    }

    /// Passes events to the sink until the stream ends; a batch has all that were received already.
    async fn follow(
        &mut self,
        stream: impl Stream<Item = Result<WatchEvent<Lean<K>>, kube::Error>>,
    ) -> Result<(), End> {
        let mut batches = pin!(stream.ready_chunks(BATCH));
        loop {
            let listing = self.version.is_none();
            let limit = match (listing, self.outage.is_on()) {
                (true, _) => LIST_LIMIT,
                (false, true) => SETTLED,
                (false, false) => WATCH_LIMIT,
            };
            let batch = match timeout(limit, batches.next()).await {
                Ok(Some(batch)) => batch,
                Ok(None) if listing => {
                    let error = "the server ended a list before it was complete";
                    return Err(Failure::new(Reason::Answer, error).into());
                }
                Ok(None) => return Ok(()),
                Err(_) if !listing && self.outage.is_on() => {
                    self.over().await?;
                    continue;
                }
                Err(_) => {
                    // A server without streaming lists never sends the bookmark that ends them.
                    self.lists = if listing { Lists::Paged } else { self.lists };
                    return Err(silence(limit).into());
                }
            };
            let mut events = Vec::with_capacity(batch.len());
            let ended = batch.into_iter().try_for_each(|event| self.read(event, &mut events));
            // The events before a failure are valid.
            self.sink.take(events).await?;
            ended?;
            if self.version.is_some() {
                self.over().await?;
            } else {
                self.heard();
            }
        }
    }

    /// Decodes one event of the server into `events`.
    fn read(
        &mut self,
        event: Result<WatchEvent<Lean<K>>, kube::Error>,
        events: &mut Vec<Event<Lean<K>>>,
    ) -> Result<(), Failure> {
        let event = event.inspect_err(|error| {
            if let kube::Error::SerdeError(_) = error {
                // The object of the event is unknown, so all objects are listed again.
                self.version = None;
            }
        })?;
        let listing = self.version.is_none();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.advance(object.resource_version());
                events.push(if listing { Event::InitApply(object) } else { Event::Apply(object) });
            }
            WatchEvent::Deleted(object) => {
                self.advance(object.resource_version());
                events.push(Event::Delete(object));
            }
            WatchEvent::Bookmark(bookmark) => {
                let metadata = bookmark.metadata;
                let ends_list = metadata.annotations.contains_key("k8s.io/initial-events-end");
                if listing && ends_list {
                    events.push(self.complete(metadata.resource_version));
                } else {
                    self.advance(Some(&metadata.resource_version));
                }
            }
            WatchEvent::Error(status) => return Err(Failure::from(&*status)),
        }
        Ok(())
    }

    /// Records the version after which the watch continues, once the list is complete.
    fn advance(&mut self, version: Option<&str>) {
        if let Some((known, version)) = self.version.as_mut().zip(version) {
            version.clone_into(known);
            self.highest = self.highest.max(version.parse().ok());
        }
    }
}

fn silence(limit: Duration) -> Failure {
    let error = format!("nothing was heard for {} s", limit.as_secs());
    Failure::new(Reason::Connection, error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn watches_end_at_different_times() {
        let drawn: BTreeSet<u32> = (0..100).map(|_| watch_seconds()).collect();
        assert!(drawn.len() > 20 && drawn.iter().all(|n| WATCH_SECONDS.contains(n)), "{drawn:?}");
    }
}
