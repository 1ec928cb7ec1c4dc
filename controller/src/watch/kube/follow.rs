//! One kind, followed for ever.
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
//! This is `kube_runtime::watcher` done anew on kube's requests, for what that hides: whether a
//! quiet watch works again after an outage (its back-off is never reset and nobody is told), that
//! its streaming list may be older than what it showed before (it asks for *any* version), and
//! servers that have no streaming lists.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::Client;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use portcullis_crds::lean::{Lean, LeanKind};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::Outlet;
use super::failure::{Failure, failure, refusal, request_failure, silence};
use super::known::{Batch, Known};
use super::outage::{Outage, Reason};
use super::page::{PAGE_LIMIT, Page};
use super::presence::{Definition, Presence};

/// Events of one batch at most: what waits already, never more. Some 2 ms of decoding, after
/// which the other kinds get their turn.
const BATCH: usize = 128;

/// The server ends a watch after so many seconds; it goes on in the next one.
const WATCH_SECONDS: u32 = 290;

/// A watch that says nothing for longer than the server lets it live is dead.
const WATCH_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// Within this time a streaming list goes on, or there is none.
const LIST_LIMIT: Duration = Duration::from_mins(1);

/// A watch that is quiet for so long after it was opened works.
const SETTLED: Duration = Duration::from_secs(2);

/// The watch of one kind.
pub(super) struct Watch<K> {
    client: Client,
    /// Of a kind that the cluster may lack: the version that is watched.
    served_version: &'static str,
    request: Request,
    fields: Option<&'static str>,
    lists: Lists,
    /// Where to go on; `None`: the next step is a list.
    version: Option<String>,
    known: Known<K>,
    outage: Outage,
    outlet: Outlet,
    /// Of a kind that the cluster may lack.
    definition: Option<Definition>,
    /// It does: there is nothing to watch.
    away: bool,
}

/// How the next list is requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lists {
    /// As the first events of a watch: objects one by one, small for both sides.
    Streamed,
    /// In pages, since the streaming list before it failed: API servers on an etcd without progress
    /// requests answer it with 500, others are only overloaded. The list after it is streamed again.
    PagedOnce,
    /// In pages: the server has no streaming lists (before Kubernetes 1.32, or with the feature
    /// `WatchList` off).
    Paged,
}

impl<K> Watch<K>
where
    K: LeanKind + kube::Resource<DynamicType = ()>,
{
    pub(super) fn new(client: Client, fields: Option<&'static str>, outlet: Outlet) -> Self {
        Self {
            client,
            served_version: K::KIND.preferred_version(),
            request: Request::new(K::url_path(&(), None)),
            fields,
            lists: Lists::Streamed,
            version: None,
            known: Known::default(),
            outage: Outage::new(K::KIND.as_str()),
            outlet,
            definition: None,
            away: false,
        }
    }

    /// One of a kind that the cluster may lack; see [`Definition::of`].
    pub(super) fn optional(self, period: Duration) -> Self {
        Self { definition: Some(Definition::of::<K>(period)), ..self }
    }

    /// Follows until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(Failure::Closed) => return,
                Err(Failure::Expired) if self.version.take().is_some() => {
                    info!(kind = K::KIND.as_str(), "the watch has expired; listing anew");
                }
                Err(Failure::Expired) => {
                    let wait = self.failed(Reason::Status(410), "the list has expired");
                    sleep(wait).await;
                }
                Err(Failure::Retry { reason, error, wish }) => {
                    let wait = self.failed(reason, &error);
                    sleep(wait.max(wish.unwrap_or_default())).await;
                }
            }
        }
    }

    fn failed(&mut self, reason: Reason, error: &str) -> Duration {
        self.outage.failed(reason, error, self.known.is_first())
    }

    async fn step(&mut self) -> Result<(), Failure> {
        if self.away {
            return self.look().await;
        }
        match self.round().await {
            Err(Failure::Retry { reason: Reason::Status(404), .. })
                if self.definition.is_some() =>
            {
                self.look().await
            }
            ended => ended,
        }
    }

    /// Asks the cluster whether it has the kind, and waits when it lacks it.
    async fn look(&mut self) -> Result<(), Failure> {
        let Some(definition) = &mut self.definition else { return Ok(()) };
        let request = definition.request().map_err(request_failure)?;
        let answer = timeout(LIST_LIMIT, self.client.request_text(request)).await;
        let answer = answer.map_err(|_| silence(LIST_LIMIT))?;
        let presence = definition.read(answer).map_err(|error| failure(&error))?;
        let told = std::mem::replace(&mut definition.told, presence.clone());
        let mut batch = Batch::default();
        if told != presence {
            let origin = definition.origin().into();
            batch.diagnostics.push((origin, definition.diagnostics(&presence)));
        }
        if let Presence::Served(version) = presence {
            self.outlet.send(batch).await?;
            let is_other = std::mem::replace(&mut self.served_version, version) != version;
            if is_other {
                self.request =
                    Request::new(format!("/apis/{}/{version}/{}", K::group(&()), K::plural(&())));
                // The same objects, with the versions that are known: what is listed again is no news.
                self.version = None;
            }
            if std::mem::take(&mut self.away) || is_other {
                info!(
                    kind = K::KIND.as_str(),
                    version, "the cluster has this kind in this version"
                );
                return Ok(());
            }
            let (reason, error) = (Reason::Status(404), "the server lacks what the CRD serves");
            return Err(Failure::Retry { reason, error: error.to_owned(), wish: None });
        }
        let wait = definition.wait();
        self.outage.over();
        self.away = true;
        let (before, is_first) = (self.known.len(), self.known.is_first());
        // Without its CRD no object exists. Of one that is there unread, nothing new is known.
        if presence == Presence::Absent || is_first {
            self.known.clear();
            self.version = None;
        }
        if told != presence {
            presence.tell(K::KIND.as_str(), is_first, before);
        }
        let Batch { changes, diagnostics } = self.known.flush();
        batch.changes = changes;
        batch.diagnostics.extend(diagnostics);
        self.outlet.send(batch).await?;
        if is_first {
            self.outlet.complete().await?;
        }
        sleep(wait).await;
        Ok(())
    }

    /// One watch, with the list before it where one is needed.
    async fn round(&mut self) -> Result<(), Failure> {
        if self.version.is_none() && self.lists != Lists::Streamed {
            if self.lists == Lists::PagedOnce {
                self.lists = Lists::Streamed;
            }
            self.list_pages().await?;
        }
        let lists = self.version.is_none();
        match self.watch().await {
            Err(failure) if lists && self.version.is_none() => self.list_failed(failure),
            ended => ended,
        }
    }

    /// Decides what follows a streaming list that failed: a list in pages, whatever the error is, as
    /// in client-go. At once where the server answered; where it did not, after the usual wait.
    fn list_failed(&mut self, failure: Failure) -> Result<(), Failure> {
        match &failure {
            Failure::Closed => return Err(failure),
            // A list in pages would get the same answer, or more load onto a server that has too much.
            Failure::Retry { reason: Reason::Status(401 | 403 | 404 | 429), .. } => {
                return Err(failure);
            }
            // `sendInitialEvents` or its `resourceVersionMatch` is not allowed.
            Failure::Retry { reason: Reason::Status(400 | 422), .. } => self.lists = Lists::Paged,
            Failure::Retry { .. } | Failure::Expired if self.lists == Lists::Streamed => {
                self.lists = Lists::PagedOnce;
            }
            Failure::Retry { .. } | Failure::Expired => {}
        }
        let (kind, error) = (K::KIND.as_str(), failure.to_string());
        match failure {
            Failure::Retry { reason: Reason::Connection, .. } => return Err(failure),
            _ if self.outage.is_on() => debug!(kind, error, "the streaming list failed again"),
            _ => info!(kind, error, "the streaming list failed; listing in pages"),
        }
        Ok(())
    }

    /// One watch, which begins with the list where one is needed. It ends well when the server ends
    /// it, as it does after some minutes.
    async fn watch(&mut self) -> Result<(), Failure> {
        let opened = Instant::now();
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector = self.fields.map(str::to_owned);
        params.send_initial_events = self.version.is_none();
        // Without a version the list is as new as the moment of asking: never older than what an
        // earlier one, or another API server, has shown.
        let version = self.version.clone().unwrap_or_default();
        let request = self.request.watch(&params, &version).map_err(request_failure)?;
        let stream = self.client.request_events::<Lean<K>>(request).await;
        let stream = stream.map_err(|error| failure(&error))?;
        if self.version.is_none() {
            self.known.begin();
        }
        self.follow(stream).await?;
        if opened.elapsed() < SETTLED {
            let error = "the server ended the watch at once".to_owned();
            return Err(Failure::Retry { reason: Reason::Answer, error, wish: None });
        }
        Ok(())
    }

    /// Takes what comes, as much at once as is there already, until the stream ends.
    async fn follow(
        &mut self,
        stream: impl Stream<Item = Result<WatchEvent<Lean<K>>, kube::Error>>,
    ) -> Result<(), Failure> {
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
                    let error = "the server ended a list before it was complete".to_owned();
                    return Err(Failure::Retry { reason: Reason::Answer, error, wish: None });
                }
                Ok(None) => return Ok(()),
                Err(_) if !listing && self.outage.is_on() => {
                    self.outage.over();
                    continue;
                }
                Err(_) => {
                    // A server that does not know streaming lists never marks their end.
                    self.lists = if listing { Lists::Paged } else { self.lists };
                    return Err(silence(limit));
                }
            };
            let mut failed = None;
            for event in batch {
                if let Err(failure) = self.take(event).await {
                    failed = Some(failure);
                    break;
                }
            }
            // What came before a failure is true.
            self.outlet.send(self.known.flush()).await?;
            if let Some(failure) = failed {
                return Err(failure);
            }
            if self.version.is_some() {
                self.outage.over();
            }
        }
    }

    async fn take(
        &mut self,
        event: Result<WatchEvent<Lean<K>>, kube::Error>,
    ) -> Result<(), Failure> {
        let event = event.map_err(|error| {
            if let kube::Error::SerdeError(_) = &error {
                // Which object it was is unknown, so all are looked at again.
                self.version = None;
            }
            failure(&error)
        })?;
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.known.applied(&object);
                self.advance(object.resource_version());
            }
            WatchEvent::Deleted(object) => {
                self.known.deleted(&object);
                self.advance(object.resource_version());
            }
            WatchEvent::Bookmark(bookmark) => {
                let metadata = bookmark.metadata;
                let ends_list = metadata.annotations.contains_key("k8s.io/initial-events-end");
                if self.version.is_none() && ends_list {
                    self.complete(metadata.resource_version).await?;
                } else {
                    self.advance(Some(&metadata.resource_version));
                }
            }
            WatchEvent::Error(status) => return Err(refusal(&status)),
        }
        Ok(())
    }

    /// The watch can go on behind this version, once the list is complete.
    fn advance(&mut self, version: Option<&str>) {
        if let Some((known, version)) = self.version.as_mut().zip(version) {
            version.clone_into(known);
        }
    }

    async fn list_pages(&mut self) -> Result<(), Failure> {
        self.known.begin();
        // Without a version: as new as the moment of asking.
        let mut params = ListParams::default().limit(PAGE_LIMIT);
        params.field_selector = self.fields.map(str::to_owned);
        loop {
            let request = self.request.list(&params).map_err(request_failure)?;
            let answer = timeout(LIST_LIMIT, self.client.request_text(request)).await;
            let text = answer.map_err(|_| silence(LIST_LIMIT))?.map_err(|error| failure(&error))?;
            let page: Page<K> = serde_json::from_str(&text)
                .map_err(|error| failure(&kube::Error::SerdeError(error)))?;
            drop(text);
            page.items.iter().flatten().for_each(|object| self.known.applied(object));
            let next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                return self.complete(page.metadata.resource_version.unwrap_or_default()).await;
            }
            self.outlet.send(self.known.flush()).await?;
            params.continue_token = next;
        }
    }

    /// The list is complete as of `version`.
    async fn complete(&mut self, version: String) -> Result<(), Failure> {
        let is_first = self.known.end();
        self.version = Some(version);
        self.outage.over();
        self.outlet.send(self.known.flush()).await?;
        if is_first {
            debug!(kind = K::KIND.as_str(), "the first view is complete");
            self.outlet.complete().await?;
        }
        Ok(())
    }
}
