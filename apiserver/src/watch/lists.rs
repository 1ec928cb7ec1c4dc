//! How the objects of a kind are listed, and what happens if a list fails or is of an older state.

use kube::Resource;
use portcullis_crds::lean::{Lean, Projected};
use tracing::{debug, info, warn};

use super::{End, Event, LIST_LIMIT, Sink, Watch};
use crate::failure::{Failure, Reason, within};
use crate::pages::{Pages, current_version};

/// How the next list is requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lists {
    /// As the first events of a watch: one object an event, which needs little memory.
    Streamed,
    /// In pages, since the streaming list before it failed: API servers on an etcd without progress
    /// requests answer it with 500, others are overloaded. The list after it is streamed again.
    PagedOnce,
    /// In pages: the server has no streaming lists (before Kubernetes 1.32, or with the feature
    /// `WatchList` off).
    Paged,
}

impl<K, S> Watch<K, S>
where
    K: Projected + Resource<DynamicType = ()>,
    S: Sink<K>,
{
    /// Detects that the server has gone back to an older state. A watch from a version that the
    /// server has not reached would return no events, and a known version may be of another object.
    pub(super) async fn compare_versions(&mut self) -> Result<(), End> {
        let Some(highest) = self.highest else { return Ok(()) };
        let current = within(LIST_LIMIT, current_version(&self.client, &self.path)).await?;
        if current.parse().is_ok_and(|current: u64| current < highest) {
            let kind = self.kind;
            warn!(kind, current, highest, "resourceVersions went back; listing again");
            (self.version, self.highest) = (None, None);
            self.sink.restored();
        }
        Ok(())
    }

    /// Chooses what follows a streaming list that failed: a list in pages after any error, as in
    /// client-go. It follows at once if the server answered, else after the usual wait.
    pub(super) fn list_failed(&mut self, failure: Failure) -> Result<(), End> {
        match failure.reason {
            // A list in pages would get the same answer, or add load to an overloaded server.
            Reason::Status(401 | 403 | 404 | 429) => return Err(failure.into()),
            // `sendInitialEvents` or its `resourceVersionMatch` is not allowed.
            Reason::Status(400 | 422) => self.lists = Lists::Paged,
            _ if self.lists == Lists::Streamed => self.lists = Lists::PagedOnce,
            _ => {}
        }
        let (kind, error) = (self.kind, &failure.error);
        match failure.reason {
            Reason::Connection => return Err(failure.into()),
            _ if self.outage.is_on() => debug!(kind, error, "the streaming list failed again"),
            _ => info!(kind, error, "the streaming list failed; listing in pages"),
        }
        Ok(())
    }

    pub(super) async fn list_pages(&mut self) -> Result<(), End> {
        let mut events = vec![Event::Init];
        let pages = Pages::new(&*self.path, self.fields.as_deref());
        let mut pages = pages.labels(self.labels.as_deref());
        loop {
            let page = within(LIST_LIMIT, pages.next::<Lean<K>>(&self.client)).await?;
            events.extend(page.items.into_iter().map(Event::InitApply));
            if let Some(version) = page.last {
                events.push(self.complete(version));
                self.sink.take(events).await?;
                return Ok(self.over().await?);
            }
            self.sink.take(std::mem::take(&mut events)).await?;
        }
    }

    /// The list is complete as of `version`.
    pub(super) fn complete(&mut self, version: String) -> Event<Lean<K>> {
        self.highest = self.highest.max(version.parse().ok());
        self.version = Some(version);
        if std::mem::take(&mut self.is_first) {
            debug!(kind = self.kind, "all objects are read for the first time");
        }
        Event::InitDone
    }
}
