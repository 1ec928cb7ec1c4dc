//! Objects that only the controller needs, followed by kube's own watcher: names, uids and
//! generations of policies, uids of nodes, the reports, and the status of defaults.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
use portcullis_crds::api::node_policy_report::NodePolicyReport;
use tokio::sync::mpsc;
use tracing::warn;

/// What one of the watches has to say.
pub enum Fact {
    /// Of a policy, what names its generation.
    Policy(Event<PartialObjectMeta<NetworkPolicy>>),
    /// Of a node, what tells it from an earlier one of that name.
    Node(Event<PartialObjectMeta<Node>>),
    /// A report.
    Report(Box<Event<NodePolicyReport>>),
    /// Of a ClusterNetworkPolicy, the same.
    Tier(Box<Event<DynamicObject>>),
    /// A ClusterDefaultNetworkPolicy with its status. In no type: nobody's status can stall it.
    Default(Box<Event<DynamicObject>>),
}

/// The kind ClusterDefaultNetworkPolicy.
#[must_use]
pub fn default_policies() -> ApiResource {
    ApiResource::erase::<ClusterDefaultNetworkPolicy>(&())
}

/// Follows all of them until the receiver is dropped. What fails is tried again, with back-off.
pub fn start(client: &Client, facts: &mpsc::Sender<Fact>) {
    let config = || watcher::Config::default();
    let policies = watcher::watcher(Api::all(client.clone()), config());
    let nodes = watcher::watcher(Api::all(client.clone()), config());
    let reports = watcher::watcher(Api::all(client.clone()), config());
    tokio::spawn(forward("NetworkPolicy", policies.default_backoff(), facts.clone(), Fact::Policy));
    tokio::spawn(forward("Node", nodes.default_backoff(), facts.clone(), Fact::Node));
    let boxed = |event| Fact::Report(Box::new(event));
    tokio::spawn(forward("NodePolicyReport", reports.default_backoff(), facts.clone(), boxed));
    let of_kind = |kind| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        watcher::watcher(api, config()).default_backoff()
    };
    let (tiers, defaults) = (ApiResource::erase::<ClusterNetworkPolicy>(&()), default_policies());
    let (tiers, defaults) = (of_kind(tiers), of_kind(defaults));
    let boxed = |event| Fact::Tier(Box::new(event));
    tokio::spawn(forward("ClusterNetworkPolicy", tiers, facts.clone(), boxed));
    let boxed = |event| Fact::Default(Box::new(event));
    tokio::spawn(forward("ClusterDefaultNetworkPolicy", defaults, facts.clone(), boxed));
}

async fn forward<K>(
    kind: &'static str,
    events: impl futures_util::Stream<Item = Result<Event<K>, watcher::Error>>,
    facts: mpsc::Sender<Fact>,
    fact: impl Fn(Event<K>) -> Fact,
) {
    let mut events = std::pin::pin!(events);
    let mut told = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                told = false;
                if facts.send(fact(event)).await.is_err() {
                    return;
                }
            }
            // A cluster without the kind has no object of it. The source of objects, which asks for
            // the CRD, says so in the log.
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 404 =>
            {
                for event in [Event::Init, Event::InitDone] {
                    if facts.send(fact(event)).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) if !told => {
                warn!(kind, %error, "cannot watch; trying again until it works");
                told = true;
            }
            Err(_) => {}
        }
    }
}

/// The objects of one kind as they are now.
#[derive(Debug)]
pub struct Mirror<V> {
    now: BTreeMap<String, V>,
    /// What a new list has brought so far.
    listed: Option<BTreeMap<String, V>>,
    synced: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), listed: None, synced: false }
    }
}

impl<V: Clone> Mirror<V> {
    /// Takes in an event. `read` gives an object's key and what is kept of it, seeing what was
    /// kept before.
    pub fn take<K>(&mut self, event: Event<K>, read: impl Fn(K, Option<V>) -> (String, V))
    where
        K: kube::ResourceExt,
    {
        match event {
            Event::Apply(object) => {
                let before = self.now.remove(&key(&object));
                let (key, value) = read(object, before);
                self.now.insert(key, value);
            }
            Event::Delete(object) => {
                self.now.remove(&key(&object));
            }
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let before = self.now.get(&key(&object)).cloned();
                let (key, value) = read(object, before);
                if let Some(listed) = &mut self.listed {
                    listed.insert(key, value);
                }
            }
            Event::InitDone => {
                self.now = self.listed.take().unwrap_or_default();
                self.synced = true;
            }
        }
    }

    /// What is known, by `namespace/name` or name; while it is listed anew, what was known before.
    #[must_use]
    pub fn get(&self) -> &BTreeMap<String, V> {
        &self.now
    }

    /// The same, to be changed in place.
    pub fn get_mut(&mut self) -> &mut BTreeMap<String, V> {
        &mut self.now
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }
}

/// `namespace/name`, or the name of what has no namespace.
pub fn key(object: &impl kube::ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
