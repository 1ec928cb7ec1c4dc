//! Objects that only the controller needs, followed by kube's own watcher: names, uids and
//! generations of policies, uids of nodes, the reports, and the status of defaults.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use policy_engine::object::Kind;
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
use portcullis_crds::api::node_policy_report::NodePolicyReport;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

/// The first wait after a failure, give or take a half; it doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait after a failure, give or take a half.
const WAIT_MAX: Duration = Duration::from_secs(30);

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

/// Follows all of them until the receiver is dropped. What fails is tried again, with back-off;
/// kinds that the cluster lacks are looked for every `missing_kind_period`.
pub fn start(client: &Client, missing_kind_period: Duration, facts: &mpsc::Sender<Fact>) {
    let follow = Follow { facts: facts.clone(), missing_kind_period };
    let policies: Api<PartialObjectMeta<NetworkPolicy>> = Api::all(client.clone());
    tokio::spawn(follow.clone().run("NetworkPolicy", vec![policies], Fact::Policy));
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    tokio::spawn(follow.clone().run("Node", vec![nodes], Fact::Node));
    let reports: Api<NodePolicyReport> = Api::all(client.clone());
    let report = |event| Fact::Report(Box::new(event));
    tokio::spawn(follow.clone().run("NodePolicyReport", vec![reports], report));
    let tier = |event| Fact::Tier(Box::new(event));
    tokio::spawn(follow.clone().run("ClusterNetworkPolicy", tiers(client), tier));
    let defaults: Api<DynamicObject> = Api::all_with(client.clone(), &default_policies());
    let default = |event| Fact::Default(Box::new(event));
    tokio::spawn(follow.run("ClusterDefaultNetworkPolicy", vec![defaults], default));
}

/// ClusterNetworkPolicies in every version that is understood, the preferred one first.
fn tiers(client: &Client) -> Vec<Api<DynamicObject>> {
    let preferred = ApiResource::erase::<ClusterNetworkPolicy>(&());
    let of_version = |version: &&str| {
        let version = (*version).to_owned();
        let api_version = format!("{}/{version}", preferred.group);
        let resource = ApiResource { version, api_version, ..preferred.clone() };
        Api::all_with(client.clone(), &resource)
    };
    Kind::ClusterNetworkPolicy.versions().iter().map(of_version).collect()
}

#[derive(Clone)]
struct Follow {
    facts: mpsc::Sender<Fact>,
    missing_kind_period: Duration,
}

impl Follow {
    /// Follows a kind in the first of `versions` that the cluster serves, and in another one when it
    /// serves that no more.
    async fn run<K>(
        self,
        kind: &'static str,
        versions: Vec<Api<K>>,
        fact: impl Fn(Event<K>) -> Fact,
    ) where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (mut told, mut wait) = (false, WAIT_MIN);
        while let Some(api) = self.served(&versions, &fact).await {
            let mut events =
                std::pin::pin!(watcher::watcher(api.clone(), watcher::Config::default()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        // A list that begins is no success: the answer to it is.
                        if !matches!(event, Event::Init) {
                            (told, wait) = (false, WAIT_MIN);
                        }
                        if self.facts.send(fact(event)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) if is_missing(&error) => break,
                    Err(error) => {
                        if !std::mem::replace(&mut told, true) {
                            warn!(kind, %error, "cannot watch; trying again until it works");
                        }
                        sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
                        wait = (wait * 2).min(WAIT_MAX);
                    }
                }
            }
        }
    }

    /// The first of `versions` that is not missing. Waits while the cluster has none of them, and so no
    /// object of the kind; none when nobody listens. The source of objects, which asks for the CRD, says
    /// in the log what is missing.
    async fn served<'a, K>(
        &self,
        versions: &'a [Api<K>],
        fact: &impl Fn(Event<K>) -> Fact,
    ) -> Option<&'a Api<K>>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug,
    {
        let one = ListParams::default().limit(1);
        loop {
            for api in versions {
                match api.list_metadata(&one).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    // Another failure is the watch's to deal with.
                    Ok(_) | Err(_) => return Some(api),
                }
            }
            for event in [Event::Init, Event::InitDone] {
                self.facts.send(fact(event)).await.ok()?;
            }
            sleep(self.missing_kind_period.mul_f64(1.0 + fastrand::f64())).await;
        }
    }
}

/// Whether the cluster does not serve what is watched, in this version at least.
fn is_missing(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    matches!(
        error,
        InitialListFailed(kube::Error::Api(status))
            | WatchStartFailed(kube::Error::Api(status))
            | WatchFailed(kube::Error::Api(status)) if status.code == 404
    )
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
