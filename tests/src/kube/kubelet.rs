//! What stands in for the kubelets of a lab: it watches Pods, gives each a network namespace in the
//! lab, and publishes its addresses and phase.
//!
//! ```text
//! API server ── watch of Pods ──► queue ──► turn(lab): namespace and veth come, go
//!      ▲                                        │
//!      └──────── status, or the end of the Pod ─┘
//! ```
//!
//! The watch runs by itself; the lab changes only while the test says so ([`Kubelet::until`]), so
//! that a test may probe the lab in between without a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::runtime::Runtime;

use super::ApiServer;
use crate::cluster::MARKERS;
use portcullis_lab::{Lab, Listener, PodSpec};

/// The annotation of a Pod with the addresses that it is to get, separated by commas. Without it
/// the lab chooses.
pub const ADDRESSES: &str = "lab.portcullis.dev/addresses";

/// The kubelets of all nodes of a lab. When it is dropped, pods stay as they are.
pub struct Kubelet {
    client: Client,
    /// In a lock only so that a cluster can be shared; it is never contended.
    events: Mutex<Receiver<Event<Pod>>>,
    /// The uid of each pod that runs, by `namespace/name`.
    pods: BTreeMap<String, String>,
    /// The pods of a list that is being read.
    listed: BTreeSet<String>,
    listeners: Vec<Listener>,
    // The last to go: the watch ends with it.
    runtime: Runtime,
}

impl Kubelet {
    /// Makes the Node objects of the lab and begins to watch Pods. Each pod will serve
    /// `listeners`. Not to be called inside of a tokio runtime.
    ///
    /// # Errors
    /// When the API server does not take the nodes.
    pub fn start(server: &ApiServer, lab: &Lab, listeners: Vec<Listener>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kubelet")
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let client = server.client().await?;
            let nodes: Api<Node> = Api::all(client.clone());
            for node in lab.nodes() {
                let cidrs: Vec<_> = node.pod_cidrs().iter().map(ToString::to_string).collect();
                let addresses = node.addresses().iter();
                let addresses: Vec<_> = addresses
                    .map(|address| json!({"type": "InternalIP", "address": address}))
                    .collect();
                let node = serde_json::from_value(json!({
                    "metadata": {"name": node.name()},
                    "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
                    "status": {"addresses": addresses},
                }))?;
                nodes.create(&PostParams::default(), &node).await?;
            }
            anyhow::Ok(client)
        })?;
        let (sender, events) = channel();
        runtime.spawn(follow(Api::all(client.clone()), sender));
        let (pods, listed) = (BTreeMap::new(), BTreeSet::new());
        let events = Mutex::new(events);
        Ok(Self { client, events, pods, listed, listeners, runtime })
    }

    /// Does what the API server asks for until `done`; `what` is for the error.
    ///
    /// # Errors
    /// When that is not within `limit`, a pod cannot start or end, or the API server does not take
    /// its status.
    pub fn until(
        &mut self,
        what: &str,
        lab: &mut Lab,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let queue = self.events.get_mut().unwrap_or_else(PoisonError::into_inner);
            let first = queue.recv_timeout(left);
            let first = first.with_context(|| format!("waited {limit:?} for {what}"))?;
            let mut events = vec![first];
            events.extend(queue.try_iter());
            self.turn(lab, events)?;
        }
        Ok(())
    }

    /// Whether a pod (`namespace/name`) runs and has published its addresses.
    #[must_use]
    pub fn knows(&self, pod: &str) -> bool {
        self.pods.contains_key(pod)
    }

    /// A client of an administrator, for use in [`Kubelet::block_on`].
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for what a client of [`Kubelet::client`] does. Not to be called inside of a tokio
    /// runtime.
    pub fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    /// All that has come in: pods that come are wired together, which is faster than one by one.
    fn turn(&mut self, lab: &mut Lab, events: Vec<Event<Pod>>) -> Result<()> {
        let mut coming: BTreeMap<String, Pod> = BTreeMap::new();
        for event in events {
            match event {
                Event::Init => self.listed.clear(),
                Event::InitApply(pod) | Event::Apply(pod) => {
                    let key = key(&pod);
                    self.listed.insert(key.clone());
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    let is_marker = pod.namespace().as_deref() == Some(MARKERS);
                    if is_marker || node.is_none_or(|node| lab.node(node).is_err()) {
                        continue;
                    }
                    if pod.metadata.deletion_timestamp.is_some() {
                        coming.remove(&key);
                        self.end(lab, &key)?;
                        self.finalize(&pod)?;
                    } else if self.pods.get(&key) != pod.metadata.uid.as_ref() {
                        self.end(lab, &key)?;
                        coming.insert(key, pod);
                    }
                }
                Event::Delete(pod) => {
                    let key = key(&pod);
                    coming.remove(&key);
                    if self.pods.get(&key) == pod.metadata.uid.as_ref() {
                        self.end(lab, &key)?;
                    }
                }
                Event::InitDone => {
                    let gone = self.pods.keys().filter(|key| !self.listed.contains(*key));
                    for key in gone.cloned().collect::<Vec<_>>() {
                        self.end(lab, &key)?;
                    }
                }
            }
        }
        self.begin(lab, coming)
    }

    fn begin(&mut self, lab: &mut Lab, coming: BTreeMap<String, Pod>) -> Result<()> {
        // One that a test has wired itself only lacks its status.
        let new = coming.iter().filter(|(key, _)| lab.pod(key).is_err());
        let new: Vec<PodSpec> =
            new.map(|(_, pod)| self.wish(pod)).collect::<Result<_>>().context("a Pod's wishes")?;
        lab.add_pods(new)?;
        for (key, pod) in coming {
            self.publish(lab, &key, &pod)
                .with_context(|| format!("failed to publish the status of {key}"))?;
            self.pods.insert(key, pod.uid().unwrap_or_default());
        }
        Ok(())
    }

    /// What the lab is to build.
    fn wish(&self, pod: &Pod) -> Result<PodSpec> {
        let spec = pod.spec.as_ref().context("it has no spec")?;
        let node = spec.node_name.as_deref().context("it has no node")?;
        let wish = PodSpec::new(pod.namespace().unwrap_or_default(), pod.name_any(), node);
        if spec.host_network == Some(true) {
            // Its node serves the same ports in the same network namespace.
            return Ok(wish.host_network());
        }
        let mut wish = self.listeners.iter().fold(wish, |wish, l| wish.listen(*l));
        for address in pod.annotations().get(ADDRESSES).iter().flat_map(|text| text.split(',')) {
            let parsed: IpAddr = address.parse().with_context(|| address.to_owned())?;
            wish = wish.address(parsed);
        }
        Ok(wish)
    }

    fn publish(&self, lab: &Lab, key: &str, pod: &Pod) -> Result<()> {
        let built = lab.pod(key)?;
        let host = lab.node(built.node())?.addresses();
        let list = |all: &[IpAddr]| all.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let status = json!({"status": {
            "phase": "Running",
            "hostIP": host.first(),
            "hostIPs": list(host),
            "podIP": built.addresses().first(),
            "podIPs": list(built.addresses()),
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", "status": "True"},
                {"type": "Ready", "status": "True"},
            ],
        }});
        let pods = self.pods_of(pod);
        let patch = Patch::Merge(status);
        let params = PatchParams::default();
        let published = self.block_on(pods.patch_status(&pod.name_any(), &params, &patch));
        gone_is_fine(published.map(drop))
    }

    /// The pod has ended on its node: its object goes.
    fn finalize(&self, pod: &Pod) -> Result<()> {
        let params = DeleteParams::default().grace_period(0);
        let params = params.preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        gone_is_fine(self.block_on(self.pods_of(pod).delete(&pod.name_any(), &params)).map(drop))
    }

    fn end(&mut self, lab: &mut Lab, key: &str) -> Result<()> {
        if self.pods.remove(key).is_some() && lab.pod(key).is_ok() {
            lab.remove_pod(key)?;
        }
        Ok(())
    }

    fn pods_of(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

/// Passes on what the watch says. One that breaks is begun again.
async fn follow(pods: Api<Pod>, events: Sender<Event<Pod>>) {
    let mut stream = pin!(watch(pods, watcher::Config::default()).default_backoff());
    while let Some(event) = stream.next().await {
        if let Ok(event) = event
            && events.send(event).is_err()
        {
            return;
        }
    }
}

fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Whoever deleted the pod meanwhile has no use for the rest.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map_err(anyhow::Error::from),
    }
}
