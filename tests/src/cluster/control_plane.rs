//! The API server of a cluster: objects go in by kubectl, its kubelet runs the pods, and markers
//! tell when agents have heard of all of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cases::{Kind, Manifest, ObjectRef};
use crate::kube::{ADDRESSES, ApiServer, Kubelet, Options};
use crate::lab::{Lab, Listener};

/// How long pods may take to start or end.
const POD_LIMIT: Duration = Duration::from_secs(30);

/// The namespace of the markers.
const MARKERS: &str = "portcullis-marker";

/// The namespace that `deploy/` installs into, and the account of its agents.
const INSTALLED: (&str, &str) = ("portcullis-system", "portcullis-node");

/// The policies of the cluster: group, version, kind, plural.
const CLUSTER_KINDS: [(&str, &str, &str, &str); 2] = [
    ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies"),
    ("portcullis.dev", "v1alpha1", "ClusterDefaultNetworkPolicy", "clusterdefaultnetworkpolicies"),
];

/// An API server beside a lab, and what works on it besides the agents.
pub struct ControlPlane {
    /// Runs the pods.
    pub kubelet: Kubelet,
    /// The API server; for kubectl, clients and faults.
    pub server: ApiServer,
    agent_kubeconfig: PathBuf,
    /// The pods as kubectl was given them, by `namespace/name`.
    pods: BTreeMap<String, Value>,
}

impl ControlPlane {
    /// Starts all of it. Pods will serve `listeners`.
    pub(super) fn start(lab: &Lab, listeners: Vec<Listener>) -> Result<Self> {
        let server = ApiServer::start(Options::beside(lab)?)?;
        // Nothing runs the DaemonSet here, but agents have the rights that it would give them.
        server
            .kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")], None)?;
        server.install_cluster_network_policy()?;
        server.kubectl(&["create", "namespace", MARKERS], None)?;
        let (namespace, account) = INSTALLED;
        let agent_kubeconfig = server.kubeconfig_for_service_account(namespace, account)?;
        let kubelet = Kubelet::start(&server, lab, listeners)?;
        Ok(Self { kubelet, server, agent_kubeconfig, pods: BTreeMap::new() })
    }

    /// Who agents are to the API server.
    pub(super) fn agent_kubeconfig(&self) -> &Path {
        &self.agent_kubeconfig
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
            deleted.iter().filter(|object| object.name != "kube-system").collect();
        // What a pod runs where can't be changed: it ends, and another one begins.
        gone.extend(applied.iter().filter(|m| self.is_another_pod(m)).map(|m| &m.object));
        if !gone.is_empty() {
            let list = list(gone.iter().map(|object| named(object)));
            self.server.kubectl(&["delete", "--wait=false", "-f", "-"], Some(&list))?;
            let pods: Vec<String> = gone.iter().filter_map(|object| pod_key(object)).collect();
            pods.iter().for_each(|pod| drop(self.pods.remove(pod)));
            self.kubelet.until("pods to end", lab, POD_LIMIT, |kubelet| {
                !pods.iter().any(|pod| kubelet.knows(pod))
            })?;
        }
        if !applied.is_empty() {
            let list = list(applied.iter().map(|manifest| for_server(manifest)));
            self.server.kubectl(&["apply", "-f", "-"], Some(&list))?;
            for manifest in &applied {
                let pod = pod_key(&manifest.object);
                self.pods.extend(pod.map(|pod| (pod, for_server(manifest))));
            }
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
    fn label(&self, nodes: &[&Manifest]) -> Result<()> {
        let labelled = |manifest: &&Manifest| {
            let mut value = named(&manifest.object);
            let labels = manifest.value.pointer("/metadata/labels").cloned();
            value["metadata"]["labels"] = labels.unwrap_or_else(|| json!({}));
            value
        };
        if nodes.is_empty() {
            return Ok(());
        }
        let list = list(nodes.iter().map(labelled));
        let apply = ["apply", "--server-side", "--field-manager=cases", "-f", "-"];
        self.server.kubectl(&apply, Some(&list)).map(drop)
    }

    fn is_another_pod(&self, manifest: &Manifest) -> bool {
        let known = pod_key(&manifest.object).and_then(|pod| self.pods.get(&pod));
        known.is_some_and(|known| {
            let wanted = for_server(manifest);
            let same = |pointer: &str| known.pointer(pointer) == wanted.pointer(pointer);
            !(same("/spec") && same("/metadata/annotations"))
        })
    }

    /// Changes one object of each kind that agents watch; gives what the name or label of each is.
    /// The policies of the cluster are about nobody.
    pub(super) fn mark(&self, number: usize) -> Result<Vec<String>> {
        let marker = |kind: &str, number: usize| format!("marker-{kind}-{number}-end");
        let [pod, policy, node, namespace, tier, default] =
            ["pod", "policy", "node", "namespace", "tier", "default"]
                .map(|kind| marker(kind, number));
        self.kubelet.block_on(async {
            let client = self.kubelet.client();
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let nodes: Api<Node> = Api::all(client.clone());
            let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), MARKERS);
            let pods: Api<Pod> = Api::namespaced(client.clone(), MARKERS);
            let [tiers, defaults] = CLUSTER_KINDS.map(|(group, version, kind, plural)| {
                let kind = GroupVersionKind::gvk(group, version, kind);
                let resource = ApiResource::from_gvk_with_plural(&kind, plural);
                (Api::<DynamicObject>::all_with(client.clone(), &resource), resource)
            });
            put(&namespaces, &(), MARKERS, json!({"metadata": {"labels": {"marker": namespace}}}))
                .await?;
            put(&nodes, &(), &node, json!({})).await?;
            put(&policies, &(), &policy, json!({"spec": {"podSelector": {}}})).await?;
            // Without a node: no kubelet is responsible, and it can go at once.
            let container = json!({"name": "main", "image": "none"});
            put(&pods, &(), &pod, json!({"spec": {"containers": [container]}})).await?;
            let nobody = json!({"matchLabels": {"marker": "nobody"}});
            let spec =
                json!({"tier": "Admin", "priority": 1000, "subject": {"namespaces": nobody}});
            put(&tiers.0, &tiers.1, &tier, json!({"spec": spec})).await?;
            let spec = json!({"namespaceSelector": nobody, "policyTypes": ["Ingress"]});
            put(&defaults.0, &defaults.1, &default, json!({"spec": spec})).await?;
            if let Some(old) = number.checked_sub(1).filter(|old| *old > 0) {
                let at_once = DeleteParams::default().grace_period(0);
                nodes.delete(&marker("node", old), &at_once).await?;
                policies.delete(&marker("policy", old), &at_once).await?;
                pods.delete(&marker("pod", old), &at_once).await?;
                tiers.0.delete(&marker("tier", old), &at_once).await?;
                defaults.0.delete(&marker("default", old), &at_once).await?;
            }
            anyhow::Ok(())
        })?;
        Ok(vec![pod, policy, node, namespace, tier, default])
    }
}

/// Creates an object, or makes it like this.
async fn put<K>(api: &Api<K>, kind: &K::DynamicType, name: &str, mut value: Value) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    value["apiVersion"] = json!(K::api_version(kind));
    value["kind"] = json!(K::kind(kind));
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

fn named(object: &ObjectRef) -> Value {
    let version = match object.kind {
        Kind::NetworkPolicy => "networking.k8s.io/v1",
        Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        Kind::ClusterDefaultNetworkPolicy => "portcullis.dev/v1alpha1",
        Kind::Node | Kind::Namespace | Kind::Service | Kind::Pod => "v1",
    };
    let mut metadata = json!({"name": object.name});
    if !object.namespace.is_empty()
        && let Some(fields) = metadata.as_object_mut()
    {
        fields.insert("namespace".to_owned(), json!(object.namespace));
    }
    json!({"apiVersion": version, "kind": object.kind.as_str(), "metadata": metadata})
}

fn list(items: impl Iterator<Item = Value>) -> String {
    let items: Vec<Value> = items.collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
