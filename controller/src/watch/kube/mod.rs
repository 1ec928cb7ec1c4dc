//! The API server as a source: one watch per kind.
//!
//! ```text
//! API server ─► Watch (one task per kind) ─► Known ─► one batch ─► Event ─► channel
//!                                                (changes only)
//! ```
//!
//! - All watches run on their own thread. While the agent's thread writes rules, for about 10 ms at
//!   a time, events are read and decoded; and decoding the list of a large cluster, which takes
//!   seconds, does not delay enforcement. Events wait in the bounded channel; when it is full, the
//!   watch stops reading, so memory stays bounded.
//! - Kinds arrive in any order. Nothing is programmed before all kinds have arrived, except for an
//!   optional kind that cannot be read: then the agent decides, because it knows the rules in the
//!   kernel. After that any order is safe: a policy isolates pods that come later, and a namespace
//!   that is not known yet matches no selector. So no watch waits for another.
//! - While a watch fails, the known objects stay enforced.
//! - An agent gets its own Node, and all others only while a policy names nodes; the addresses of the
//!   API server only while a policy allows connections to it; and all pods of its own node, and those
//!   of others that have an address: see `passage`.

mod fields;
mod known;
mod naming;
mod passage;
mod pods;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Client, Resource};
use portcullis_apiserver::client::{Access, AccessError};
use portcullis_apiserver::watch::{self, Closed, Contacts, Sink, Watch};
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
use portcullis_crds::convert::Object;
use portcullis_crds::convert::frontend::API_SERVER;
use portcullis_crds::diagnostic::Diagnostic;
use portcullis_crds::lean::{Lean, LeanKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Event, Needs};
pub use known::Known;
use passage::{ObjectWatch, Passage};
use pods::Place;

/// Policies do not apply to pods that have ended. The server does not send them: a pod that ends is
/// a deletion in the watch.
const LIVE_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Selects pods that have an address.
const WITH_ADDRESS: &str = "status.podIP!=";

/// The messages that wait between the watches and the task that passes them on.
const QUEUED_MESSAGES: usize = 16;

/// Starts a thread that watches the API server until the receiver of `events` is dropped. It sends
/// all objects that `needs` asks for and [`Event::Synced`] first, then changes.
///
/// # Errors
/// When the configuration does not name a server. A server that does not answer is no error:
/// requests are retried. A kind of a CRD that is not installed is no error either: it has no
/// objects, and is searched every `missing_kind_period`.
pub fn start(
    access: Access,
    needs: Needs,
    missing_kind_period: Duration,
    contacts: Contacts,
    events: mpsc::Sender<Event>,
) -> Result<(), AccessError> {
    access.spawn("watch-kube", move |client| {
        watch_all(client, needs, missing_kind_period, contacts, events)
    })
}

/// The kinds that are watched. A new kind is one line here and one `LeanKind` in the `crds` crate.
///
/// The first four are part of every Kubernetes cluster. The others have CRDs, which may be
/// installed or removed at any time: nothing waits for a kind that the cluster does not have.
async fn watch_all(
    client: Client,
    needs: Needs,
    missing_kind_period: Duration,
    contacts: Contacts,
    events: mpsc::Sender<Event>,
) {
    let (messages, received) = mpsc::channel(QUEUED_MESSAGES);
    let outlet = Outlet {
        messages,
        contacts,
        place: None,
        required: Arc::default(),
        optional: Arc::default(),
        unreadable: Arc::default(),
    };
    let mut watches = JoinSet::new();
    let (client, outlet) = (&client, &outlet);
    match needs {
        Needs::All => {
            watches.spawn(forward(received, events.clone()));
            watches.spawn(outlet.required::<Node>(client).run());
            watches.spawn(outlet.required::<Pod>(client).fields(LIVE_PODS).run());
        }
        Needs::OfNode { name, nodes_kept } => {
            let own = fields::is("metadata.name", &name);
            let others = fields::differs("metadata.name", &name);
            let other_nodes = move |watch: ObjectWatch<Node>| watch.fields(&*others);
            let slices = |watch: ObjectWatch<EndpointSlice>| {
                let (namespace, service) = API_SERVER;
                watch.labels(namespace, format!("kubernetes.io/service-name={service}"))
            };
            let (to_second, from_first) = mpsc::channel::<Message>(QUEUED_MESSAGES);
            let first = Passage::new(client.clone(), other_nodes, nodes_kept, to_second);
            let second = Passage::new(client.clone(), slices, nodes_kept, events.clone());
            watches.spawn(first.contacts(outlet.contacts.clone()).run(received));
            watches.spawn(second.contacts(outlet.contacts.clone()).run(from_first));
            watches.spawn(outlet.required::<Node>(client).fields(own).run());
            let own = fields::is("spec.nodeName", &name);
            let others = fields::differs("spec.nodeName", &name);
            for (place, fields) in [
                (Place::Own, format!("{own},{LIVE_PODS}")),
                (Place::Elsewhere, format!("{others},{WITH_ADDRESS},{LIVE_PODS}")),
            ] {
                let outlet = Outlet { place: Some(place), ..outlet.clone() };
                watches.spawn(outlet.required::<Pod>(client).fields(fields).run());
            }
        }
    }
    watches.spawn(outlet.required::<NetworkPolicy>(client).run());
    watches.spawn(outlet.required::<Namespace>(client).run());
    let period = missing_kind_period;
    watches.spawn(outlet.optional::<ClusterNetworkPolicy>(client, period).run());
    watches.spawn(outlet.optional::<ClusterDefaultNetworkPolicy>(client, period).run());
    tokio::select! {
        () = events.closed() => {}
        // A watch never ends while the receiver exists. If one fails, the agent must not continue.
        _ = watches.join_next() => {}
    }
}

/// What a watch sends.
enum Message {
    Event(Event),
    /// Changes of pods, by one of the two watches of pods that an agent has.
    Pods(Place, Vec<Object>),
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// Passes all events on to a receiver that needs all objects.
async fn forward(mut messages: mpsc::Receiver<Message>, events: mpsc::Sender<Event>) {
    while let Some(message) = messages.recv().await {
        let event = match message {
            Message::Event(event) => event,
            Message::Pods(_, changes) => Event::Changes(changes),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Sends the events of all watches, and counts the kinds that have not arrived.
#[derive(Clone)]
struct Outlet {
    messages: mpsc::Sender<Message>,
    contacts: Contacts,
    /// Which pods the watch has, if it is one of two.
    place: Option<Place>,
    /// How many required watches have not delivered their first complete view.
    required: Arc<AtomicUsize>,
    /// How many optional kinds, which the cluster may lack, have not delivered it.
    optional: Arc<AtomicUsize>,
    /// How many optional kinds cannot be read; nothing waits for these.
    unreadable: Arc<AtomicUsize>,
}

impl Outlet {
    fn required<K>(&self, client: &Client) -> Watch<K, Objects<K>>
    where
        K: LeanKind + Resource<DynamicType = ()>,
    {
        self.watch(client, &self.required)
    }

    fn watch<K>(&self, client: &Client, awaited: &Arc<AtomicUsize>) -> Watch<K, Objects<K>>
    where
        K: LeanKind + Resource<DynamicType = ()>,
    {
        awaited.fetch_add(1, Ordering::AcqRel);
        let (known, awaited) = (Known::default(), Arc::clone(awaited));
        let objects = Objects { known, outlet: self.clone(), awaited, is_unreadable: false };
        Watch::new(client.clone(), K::KIND.as_str(), objects).contacts(&self.contacts)
    }

    fn optional<K>(&self, client: &Client, period: Duration) -> Watch<K, Objects<K>>
    where
        K: LeanKind + Resource<DynamicType = ()>,
    {
        self.watch(client, &self.optional).optional(K::KIND.versions(), period)
    }

    async fn put(&self, event: Event) -> Result<(), Closed> {
        let message = match (event, self.place) {
            (Event::Changes(changes), Some(place)) => Message::Pods(place, changes),
            (event, _) => Message::Event(event),
        };
        self.messages.send(message).await.map_err(|_| Closed)
    }

    /// Sends an event when no kind is missing any longer. All watches run on one thread.
    async fn put_synced(&self) -> Result<(), Closed> {
        let count = |kinds: &AtomicUsize| kinds.load(Ordering::Acquire);
        let unreadable = count(&self.unreadable);
        match (count(&self.required), count(&self.optional)) {
            (0, 0) => self.put(Event::Synced).await,
            (0, optional) if optional == unreadable => self.put(Event::SyncedInPart).await,
            _ => Ok(()),
        }
    }
}

/// The objects of one kind, and the outlet for their changes.
struct Objects<K> {
    known: Known<K>,
    outlet: Outlet,
    /// The counter of missing kinds that includes this kind until its first view.
    awaited: Arc<AtomicUsize>,
    /// Whether the kind cannot be read, so that nothing waits for its first view.
    is_unreadable: bool,
}

impl<K: LeanKind> Sink<K> for Objects<K> {
    async fn take(&mut self, events: Vec<watch::Event<Lean<K>>>) -> Result<(), Closed> {
        let is_first_view = self.known.take(events);
        for event in self.known.flush().into_events() {
            self.outlet.put(event).await?;
        }
        if is_first_view {
            self.awaited.fetch_sub(1, Ordering::AcqRel);
            if std::mem::take(&mut self.is_unreadable) {
                self.outlet.unreadable.fetch_sub(1, Ordering::AcqRel);
            }
            self.outlet.put_synced().await?;
        }
        Ok(())
    }

    async fn unreadable(&mut self) -> Result<(), Closed> {
        if !std::mem::replace(&mut self.is_unreadable, true) {
            self.outlet.unreadable.fetch_add(1, Ordering::AcqRel);
            self.outlet.put_synced().await?;
        }
        Ok(())
    }

    fn restored(&mut self) {
        self.known.forget_versions();
    }

    fn waits_for_optional_kinds(&self) -> bool {
        self.outlet.required.load(Ordering::Acquire) == 0
    }

    async fn diagnose(&mut self, origin: String, found: Vec<Diagnostic>) -> Result<(), Closed> {
        self.outlet.put(Event::Diagnostics(origin.into(), found)).await
    }

    fn known(&self) -> Option<usize> {
        Some(self.known.len())
    }
}
