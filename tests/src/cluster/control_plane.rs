//! The API server of a cluster: objects go in by kubectl, its kubelet runs the pods, and markers
//! tell when agents have heard of all of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::{Api, ResourceExt as _};
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef};
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::cluster_network_policy::ClusterNetworkPolicy;
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::lean::Lean;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cases::Manifest;
use crate::kube::{ADDRESSES, ApiServer, Kubelet, Options};
use portcullis_lab::{Lab, Listener};

/// How long pods may take to start or end.
const POD_LIMIT: Duration = Duration::from_secs(30);

/// The namespace of the markers.
pub(crate) const MARKERS: &str = "portcullis-marker";

/// The address of a marker. Nothing has it.
const ADDRESS: &str = "203.0.113.250";

/// An API server beside a lab, and what works on it besides the agents.
pub struct ControlPlane {
    /// Runs the pods.
    pub kubelet: Kubelet,
    /// The API server; for kubectl, clients and faults.
    pub server: ApiServer,
    /// What was applied of each object last.
    applied: BTreeMap<ObjectRef, Value>,
}

impl ControlPlane {
    /// Starts all of it. Pods will serve `listeners`.
    pub(super) fn start(lab: &Lab, listeners: Vec<Listener>) -> Result<Self> {
        let server = ApiServer::start(Options::beside(lab)?)?;
        // Nothing runs the DaemonSet here, but agents have the rights that it would give them.
        server
            .kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")], None)?;
        server.kubectl(&["create", "namespace", MARKERS], None)?;
        let kubelet = Kubelet::start(&server, lab, listeners)?;
        Ok(Self { kubelet, server, applied: BTreeMap::new() })
    }

    /// Who the agent of a node is to the API server.
    pub(super) fn agent_kubeconfig(&self, node: &str) -> Result<PathBuf> {
        self.server.kubeconfig_for_agent(node)
    }

    /// See [`Cluster::change`](super::Cluster::change).
    pub(super) fn change(
        &mut self,
        lab: &mut Lab,
        deleted: &[ObjectRef],
        applied: &[Manifest],
    ) -> Result<()> {
        // A node is its kubelet's, but for its labels.
        let (nodes, applied): (Vec<&Manifest>, Vec<&Manifest>) =
            applied.iter().partition(|manifest| manifest.object.kind == Kind::Node);
        self.label(&nodes)?;
        // Every API server has this one, and keeps it.
        let mut gone: Vec<&ObjectRef> =
            deleted.iter().filter(|object| *object.name != *"kube-system").collect();
        // What a pod runs where can't be changed: it ends, and another one begins.
        gone.extend(applied.iter().filter(|m| self.is_another_pod(m)).map(|m| &m.object));
        if !gone.is_empty() {
            self.delete(&gone)?;
            let pods: Vec<String> = gone.iter().filter_map(|object| pod_key(object)).collect();
            self.kubelet.until("pods to end", lab, POD_LIMIT, |kubelet| {
                !pods.iter().any(|pod| kubelet.knows(pod))
            })?;
        }
        if !applied.is_empty() {
            self.apply(applied.iter().map(|manifest| (&manifest.object, for_server(manifest))))?;
            let placed = applied.iter().filter(|manifest| addresses(manifest).is_some());
            let pods: Vec<String> =
                placed.filter_map(|manifest| pod_key(&manifest.object)).collect();
            self.kubelet.until("pods to start", lab, POD_LIMIT, |kubelet| {
                pods.iter().all(|pod| kubelet.knows(pod))
            })?;
        }
        Ok(())
    }

    /// Gives nodes the labels of their manifests, and takes those away that were so given before.
    fn label(&mut self, nodes: &[&Manifest]) -> Result<()> {
        self.apply(nodes.iter().map(|manifest| {
            let mut value = named(&manifest.object);
            let labels = manifest.value.pointer("/metadata/labels").cloned();
            value["metadata"]["labels"] = labels.unwrap_or_else(|| json!({}));
            (&manifest.object, value)
        }))
    }

    /// As `kubectl apply` does, without a process for each change.
    fn apply<'a>(&mut self, objects: impl Iterator<Item = (&'a ObjectRef, Value)>) -> Result<()> {
        for (object, value) in objects {
            // In the version that it is written in.
            let version = value.get("apiVersion").and_then(Value::as_str);
            let version = version.and_then(|version| version.rsplit('/').next());
            let version = version.unwrap_or_else(|| object.kind.preferred_version());
            let (api, known) = (self.api(object, version), self.applied.get(object));
            let applied = self.kubelet.block_on(async {
                let merge = |patch| async {
                    let patch = Patch::Merge(patch);
                    api.patch(&object.name, &PatchParams::default(), &patch).await.map(drop)
                };
                if let Some(known) = known {
                    return anyhow::Ok(merge(difference(known, &value)).await?);
                }
                let new = serde_json::from_value(value.clone())?;
                match api.create(&PostParams::default(), &new).await {
                    // A node is its kubelet's, and kube-system the API server's.
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        Ok(merge(value.clone()).await?)
                    }
                    created => Ok(created.map(drop)?),
                }
            });
            applied.with_context(|| format!("failed to apply {object}"))?;
            self.applied.insert(object.clone(), value);
        }
        Ok(())
    }

    /// As `kubectl delete --wait=false` does.
    fn delete(&mut self, objects: &[&ObjectRef]) -> Result<()> {
        for object in objects {
            let api = self.api(object, object.kind.preferred_version());
            let deleted = self.kubelet.block_on(api.delete(&object.name, &DeleteParams::default()));
            deleted.with_context(|| format!("failed to delete {object}"))?;
            self.applied.remove(*object);
        }
        Ok(())
    }

    fn api(&self, object: &ObjectRef, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(object.kind.group(), version, object.kind.as_str());
        let (client, resource) = (self.kubelet.client(), ApiResource::from_gvk(&kind));
        if object.namespace.is_empty() {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, &object.namespace, &resource)
        }
    }

    fn is_another_pod(&self, manifest: &Manifest) -> bool {
        let known = self.applied.get(&manifest.object);
        known.filter(|_| manifest.object.kind == Kind::Pod).is_some_and(|known| {
            let wanted = for_server(manifest);
            let same = |pointer: &str| known.pointer(pointer) == wanted.pointer(pointer);
            !(same("/spec") && same("/metadata/annotations"))
        })
    }

    /// Changes one object of each kind that agents watch and that the cluster has, and all Nodes.
    pub(super) fn mark(&self, number: usize) -> Result<Markers> {
        let old = number.checked_sub(1).filter(|old| *old > 0);
        let mut of_all = self.mark_kubernetes_kinds(number, old)?;
        let (mut of_nodes, mut of_pods) = (BTreeMap::new(), BTreeMap::new());
        let mut all_nodes = false;
        self.kubelet.block_on(async {
            let client = self.kubelet.client();
            // They select nothing.
            let nobody = json!({"matchLabels": {MARKERS: "nobody"}});
            let defaults: Api<ClusterDefaultNetworkPolicy> = Api::all(client.clone());
            let spec = json!({"namespaceSelector": nobody, "policyTypes": ["Ingress"]});
            of_all.extend(mark_if_installed(&defaults, "default", number, old, spec).await?);
            let policies: Api<ClusterNetworkPolicy> = Api::all(client.clone());
            let spec = json!({"tier": "Baseline", "priority": 1000,
                "subject": {"namespaces": nobody}});
            of_all.extend(mark_if_installed(&policies, "cluster", number, old, spec).await?);
            let found = policies.list(&ListParams::default()).await.map(Some);
            if let Some(policies) = found.or_else(none_if_absent)? {
                all_nodes = policies.items.iter().any(names_nodes);
            }
            let nodes: Api<Node> = Api::all(client.clone());
            for node in nodes.list_metadata(&ListParams::default()).await? {
                let name = node.name_any();
                let marker = marker(&format!("node-{name}"), number);
                put(&nodes, &name, json!({"metadata": {"labels": {"marker": marker}}})).await?;
                of_nodes.insert(name.clone(), marker);
                of_pods.insert(
                    name.clone(),
                    self.mark_pod(&format!("pod-{name}"), &name, number).await?,
                );
            }
            anyhow::Ok(())
        })?;
        Ok(Markers { of_all, of_nodes, of_pods, all_nodes })
    }

    /// Creates a pod that policies do not apply to. No kubelet runs the pods of this namespace.
    async fn mark_pod(&self, kind: &str, node: &str, number: usize) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.kubelet.client(), MARKERS);
        let name = marker(kind, number);
        let node = Some(node).filter(|node| !node.is_empty());
        let spec = json!({"nodeName": node, "hostNetwork": true,
            "containers": [{"name": "main", "image": "none"}]});
        let labels = json!({MARKERS: number.to_string()});
        put(&pods, &name, json!({"metadata": {"labels": labels}, "spec": spec})).await?;
        Ok(name)
    }

    fn mark_kubernetes_kinds(&self, number: usize, old: Option<usize>) -> Result<Vec<String>> {
        let [pod, policy, namespace] =
            ["pod", "policy", "namespace"].map(|kind| marker(kind, number));
        self.kubelet.block_on(async {
            let client = self.kubelet.client();
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), MARKERS);
            let pods: Api<Pod> = Api::namespaced(client.clone(), MARKERS);
            put(&namespaces, MARKERS, json!({"metadata": {"labels": {"marker": namespace}}}))
                .await?;
            put(&policies, &policy, json!({"spec": {"podSelector": {}}})).await?;
            // Without a node: agents look for it among the pods of other nodes.
            self.mark_pod("pod", "", number).await?;
            let status = json!({"status": {"podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}]}});
            pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status)).await?;
            if let Some(old) = old {
                let at_once = DeleteParams::default().grace_period(0);
                policies.delete(&marker("policy", old), &at_once).await?;
                let all_old = ListParams::default().labels(&format!("{MARKERS}={old}"));
                pods.delete_collection(&at_once, &all_old).await?;
            }
            anyhow::Ok(())
        })?;
        Ok(vec![pod, policy, namespace])
    }
}

/// What agents log when they come to the markers.
pub(super) struct Markers {
    /// What all agents log.
    pub(super) of_all: Vec<String>,
    /// What the agents that watch a Node log, by its name: its own agent always.
    pub(super) of_nodes: BTreeMap<String, String>,
    /// What the agent of a node logs of a pod there.
    pub(super) of_pods: BTreeMap<String, String>,
    /// Whether a policy names nodes, so that all agents watch all Nodes.
    pub(super) all_nodes: bool,
}

impl Markers {
    /// Markers that all agents come to.
    pub(super) fn of_all(of_all: Vec<String>) -> Self {
        Self { of_all, of_nodes: BTreeMap::new(), of_pods: BTreeMap::new(), all_nodes: false }
    }

    /// What the agent of `node` logs.
    pub(super) fn of(&self, node: &str) -> impl Iterator<Item = &String> {
        let watched = move |name: &String| self.all_nodes || name == node;
        let of_nodes = self.of_nodes.iter().filter(move |(name, _)| watched(name));
        let of_pods = self.of_pods.get(node);
        self.of_all.iter().chain(of_nodes.map(|(_, marker)| marker)).chain(of_pods)
    }
}

/// Whether a rule has nodes as peers, as agents understand it.
fn names_nodes(policy: &ClusterNetworkPolicy) -> bool {
    let value = serde_json::to_value(policy).unwrap_or_default();
    let Ok(lean) = serde_json::from_value::<Lean<ClusterNetworkPolicy>>(value) else {
        return false;
    };
    match convert::lean(&lean).0 {
        Converted::Object(Change::Policy(_, Some(policy))) => policy.names_nodes(),
        _ => false,
    }
}

fn none_if_absent<T>(error: kube::Error) -> Result<Option<T>, kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(None),
        error => Err(error),
    }
}

/// What names the marker of a kind in a log.
fn marker(kind: &str, number: usize) -> String {
    format!("marker-{kind}-{number}-end")
}

/// Marks a kind that comes with a CRD, where that is installed.
async fn mark_if_installed<K>(
    api: &Api<K>,
    kind: &str,
    number: usize,
    old: Option<usize>,
    spec: Value,
) -> Result<Option<String>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = marker(kind, number);
    if let Err(error) = put(api, &name, json!({"spec": spec})).await {
        let is_absent =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        return if error.downcast_ref().is_some_and(is_absent) { Ok(None) } else { Err(error) };
    }
    if let Some(old) = old {
        // It is not there when the kind was installed meanwhile.
        let _ = api.delete(&marker(kind, old), &DeleteParams::default()).await;
    }
    Ok(Some(name))
}

/// Creates an object, or makes it like this.
async fn put<K>(api: &Api<K>, name: &str, mut value: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    value["metadata"]["name"] = json!(name);
    let params = PatchParams::apply("marker").force();
    let put = api.patch(name, &params, &Patch::Apply(value)).await;
    put.with_context(|| format!("failed to write marker {name}")).map(drop)
}

fn pod_key(object: &ObjectRef) -> Option<String> {
    (object.kind == Kind::Pod).then(|| format!("{}/{}", object.namespace, object.name))
}

/// The addresses of a pod that has a place.
fn addresses(manifest: &Manifest) -> Option<String> {
    manifest.value.pointer("/spec/nodeName")?;
    let ips = manifest.value.pointer("/status/podIPs")?.as_array()?;
    let ips = ips.iter().filter_map(|ip| ip.pointer("/ip").and_then(Value::as_str));
    let ips: Vec<&str> = ips.collect();
    (!ips.is_empty()).then(|| ips.join(","))
}

/// A manifest as a user would write it: the status is the kubelet's, who learns by an annotation
/// which addresses are wanted.
fn for_server(manifest: &Manifest) -> Value {
    let mut value = manifest.value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let on_host = value.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    if let Some(addresses) = addresses(manifest).filter(|_| !on_host)
        && let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("annotations".to_owned(), json!({ ADDRESSES: addresses }));
    }
    value
}

/// The merge patch that makes one of the other.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key, Value::Null));
    let there = new.iter().map(|(key, value)| {
        (key, old.get(key).map_or_else(|| value.clone(), |old| difference(old, value)))
    });
    gone.chain(there).map(|(key, value)| (key.clone(), value)).collect()
}

fn named(object: &ObjectRef) -> Value {
    let version = object.kind.api_version();
    json!({"apiVersion": version, "kind": object.kind.as_str(), "metadata": {"name": object.name}})
}
