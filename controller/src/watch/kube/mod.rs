//! The API server as a source: one watch per kind.
//!
//! ```text
//! API server ─watch─► follow (one task per kind) ─► Known ─► one batch ─► Event ─► channel
//!    ▲                  │ again, with back-off                (what is new)
//!    └──────────────────┘
//! ```
//!
//! - All watches run on a thread of their own. The agent's thread writes rules for some 10 ms at a
//!   time; meanwhile events go on being read and decoded, and decoding the list of a large cluster,
//!   which takes seconds, does not stand in the way of enforcing. What is read waits in the bounded
//!   channel; when that is full the watch stops reading, so memory stays bounded.
//! - Kinds arrive in any order. Nothing is programmed before all of them are there, and after that
//!   any order is safe: a policy isolates pods that come later, and a namespace that is not known
//!   yet matches no selector. So no watch waits for another.
//! - While a watch is broken, what is known stays in force.

mod failure;
mod follow;
mod known;
mod outage;
mod page;
mod presence;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Event;
use crate::client::{Access, AccessError};
use follow::Watch;
pub use known::{Batch, Known};

/// Pods that have ended take no part. The server leaves them out: one that ends is deleted here.
const LIVE_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// The API server cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no way to it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No thread could be started.
    #[error("failed to start the thread that watches the API server")]
    Thread(#[source] io::Error),
}

/// Watches the API server from a thread of its own until the receiver of `events` is dropped:
/// first everything and [`Event::Synced`], then what changes.
///
/// # Errors
/// When it is not clear which server to watch. That it does not answer is no error: it is tried
/// again until it does. Nor is it one that the cluster lacks a kind which a CRD brings: such a kind
/// has no objects, and is looked for every `missing_kind_period`.
pub fn start(
    access: Access,
    missing_kind_period: Duration,
    events: mpsc::Sender<Event>,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let (started, starting) = sync_channel(1);
    let thread = std::thread::Builder::new().name("watch-kube".to_owned());
    let watch = move || {
        runtime.block_on(async {
            match access.client().await {
                Ok(client) => {
                    let _ = started.send(Ok(()));
                    watch_all(client, missing_kind_period, events).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    };
    thread.spawn(watch).map_err(StartError::Thread)?;
    let ended = || StartError::Thread(io::Error::other("it ended at once"));
    starting.recv().map_err(|_| ended())?.map_err(StartError::Access)
}

/// The kinds that are watched. A new kind is one line here and one `LeanKind` in the `crds` crate.
///
/// The first four are part of every Kubernetes. The others come with CRDs, which may be installed
/// later and may go: nothing waits for a kind that the cluster does not have.
async fn watch_all(client: Client, missing_kind_period: Duration, events: mpsc::Sender<Event>) {
    let lacking = Arc::new(AtomicUsize::new(6));
    let outlet = || Outlet { events: events.clone(), lacking: Arc::clone(&lacking) };
    let mut watches = JoinSet::new();
    watches.spawn(Watch::<NetworkPolicy>::new(client.clone(), None, outlet()).run());
    watches.spawn(Watch::<Namespace>::new(client.clone(), None, outlet()).run());
    watches.spawn(Watch::<Node>::new(client.clone(), None, outlet()).run());
    watches.spawn(Watch::<Pod>::new(client.clone(), Some(LIVE_PODS), outlet()).run());
    let cluster_policies = Watch::<ClusterNetworkPolicy>::new(client.clone(), None, outlet());
    watches.spawn(cluster_policies.optional(missing_kind_period).run());
    let defaults = Watch::<ClusterDefaultNetworkPolicy>::new(client, None, outlet());
    watches.spawn(defaults.optional(missing_kind_period).run());
    tokio::select! {
        () = events.closed() => {}
        // It cannot end while somebody listens; if one broke, the agent must not go on without it.
        _ = watches.join_next() => {}
    }
}

/// Where a watch sends what it found.
struct Outlet {
    events: mpsc::Sender<Event>,
    /// How many kinds have not delivered their first complete view.
    lacking: Arc<AtomicUsize>,
}

/// Nobody listens any more.
struct Closed;

impl Outlet {
    async fn send(&self, batch: Batch) -> Result<(), Closed> {
        if !batch.changes.is_empty() {
            self.put(Event::Changes(batch.changes)).await?;
        }
        for (origin, diagnostics) in batch.diagnostics {
            self.put(Event::Diagnostics(origin, diagnostics)).await?;
        }
        Ok(())
    }

    /// The first complete view of this kind has been sent.
    async fn complete(&self) -> Result<(), Closed> {
        if self.lacking.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.put(Event::Synced).await?;
        }
        Ok(())
    }

    async fn put(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}
