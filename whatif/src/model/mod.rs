//! The cluster that objects describe: a world for the engine, and the workloads that users name.

mod inventory;
mod misplaced;
mod owners;
mod reference;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::port::Protocol;
use policy_engine::words::few;
use policy_engine::world::{Options, World};
use portcullis_crds::convert::assumed_namespace;
use portcullis_crds::convert::custom::is_to_come;
use portcullis_crds::convert::frontend::{API_SERVER, Endpoints, Frontend, missing_api_server};
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::convert::service::Service;
use portcullis_crds::convert::workload::Workload as Template;
use portcullis_crds::diagnostic::{Diagnostic, Origin};
use portcullis_crds::manifest::Document;
use portcullis_crds::path::FieldPath;

use crate::gap::Gap;

pub use inventory::{Inventory, Object, policy_mut};
pub use reference::WorkloadRef;
pub use units::{Unit, Units};

/// How many names a note writes out.
const NAMES_SHOWN: usize = 5;

/// A cluster as questions use it.
pub struct Cluster {
    /// The objects that the engine evaluates.
    pub world: World,
    /// Every workload, and every pod without one, with its pods.
    pub workloads: BTreeMap<WorkloadRef, Workload>,
    /// All Services by namespace and name.
    pub services: BTreeMap<(Str, Str), Service>,
    /// The addresses of Services that select no pods, by namespace and name of the Service.
    pub endpoints: BTreeMap<(Str, Str), Vec<Endpoints>>,
    /// The objects that lead connections to Services.
    pub frontends: Vec<Frontend>,
    /// Assumptions, for people.
    pub notes: Vec<String>,
    /// The objects of a live cluster that could not be read.
    pub gaps: Vec<Gap>,
    /// The namespaces of which only the name is known.
    pub assumed: BTreeSet<Str>,
    /// The policies, Services and frontends that are written in files.
    pub documents: BTreeMap<ObjectRef, Arc<Document>>,
    workload_of: BTreeMap<PodKey, WorkloadRef>,
    /// The ServiceAccounts whose tokens pods have.
    accounts: BTreeMap<PodKey, Str>,
    /// The ServiceAccounts that have permissions in the API, by namespace and name.
    bound: BTreeSet<(Str, Str)>,
}

/// The pods of one workload.
#[derive(Clone, Default, Debug)]
pub struct Workload {
    /// The pods in the world.
    pub pods: Vec<PodKey>,
    /// Whether the pods do not run, and were made from the template.
    pub would_be: bool,
}

impl Cluster {
    /// The cluster of all objects of an inventory.
    #[must_use]
    pub fn new(inventory: &Inventory, options: Options) -> Self {
        let mut cluster = Self {
            world: World::new(options),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            frontends: Vec::new(),
            notes: inventory.hidden.iter().map(ToString::to_string).collect(),
            gaps: inventory.gaps(),
            assumed: BTreeSet::new(),
            documents: BTreeMap::new(),
            workload_of: BTreeMap::new(),
            accounts: BTreeMap::new(),
            bound: BTreeSet::new(),
        };
        let (mut templates, mut to_come) = (Vec::new(), Vec::new());
        for (name, object) in inventory.objects() {
            if let (Item::Service(_) | Item::Frontend(_), Some(document)) =
                (&object.item, &object.document)
            {
                cluster.documents.insert(name.clone(), document.clone());
            }
            match &object.item {
                Item::Object(change) => cluster.add_object(change.clone(), object),
                Item::Pod(pod, owner, account) => {
                    let workload = owners::of_pod(inventory, pod, owner.as_ref());
                    if is_to_come(&pod.key.name) {
                        to_come.push((pod, workload, account));
                        continue;
                    }
                    cluster.note_account(&pod.key, account.as_ref());
                    cluster.add_pod(pod.clone(), workload, false);
                }
                Item::Workload(template) => templates.push(template),
                Item::Service(service) => {
                    let key = (service.namespace.clone(), service.name.clone());
                    cluster.services.insert(key, service.clone());
                }
                Item::Endpoints(endpoints) => {
                    if let Some(change) = endpoints.api_server() {
                        cluster.world.apply(change);
                    }
                    let key = (endpoints.object.namespace.clone(), endpoints.service.clone());
                    cluster.endpoints.entry(key).or_default().push(endpoints.clone());
                }
                Item::Frontend(frontend) => cluster.frontends.push(frontend.clone()),
                Item::Binding(binding) => cluster.bound.extend(binding.accounts.iter().cloned()),
                // These are reported as gaps or in diagnostics.
                Item::UnknownVersion(_)
                | Item::Custom(_)
                | Item::Foreign { .. }
                | Item::Unusable => {}
            }
        }
        for template in templates {
            cluster.add_template(inventory, template);
        }
        to_come.retain(|(pod, workload, _)| !cluster.has_pods_of(workload, pod));
        for (pod, workload, account) in to_come {
            cluster.note_account(&pod.key, account.as_ref());
            cluster.add_pod(pod.clone(), workload, true);
        }
        cluster.assume_namespaces();
        for Diagnostic { about, field, message, .. } in missing_api_server(&cluster.world) {
            cluster.notes.push(format!("{about}: {field} {message}"));
        }
        cluster
    }

    /// The name of a pod in answers: its workload, unless that is the pod itself.
    #[must_use]
    pub fn workload_of(&self, pod: &PodKey) -> Option<&WorkloadRef> {
        self.workload_of.get(pod)
    }

    /// The name of one pod, `shop/pod/a`; that of its workload if the pod does not run yet.
    #[must_use]
    pub fn pod_ref(&self, pod: &PodKey) -> String {
        let workload = self.workload_of.get(pod);
        let would_be = |name: &&WorkloadRef| self.workloads.get(*name).is_some_and(|w| w.would_be);
        match workload.filter(would_be) {
            Some(workload) => workload.to_string(),
            None => format!("{}/pod/{}", pod.namespace, pod.name),
        }
    }

    /// The place of a rule of a policy; the rules count from 1.
    #[must_use]
    pub fn rule_origin(
        &self,
        policy: &ObjectRef,
        direction: Direction,
        rule: usize,
    ) -> Option<Origin> {
        self.field_origin(policy, &FieldPath::of_rule(direction, rule))
    }

    /// The place of a field of a policy, or of the nearest field around it.
    #[must_use]
    pub fn field_origin(&self, policy: &ObjectRef, field: &FieldPath) -> Option<Origin> {
        Some(self.documents.get(policy)?.origin_at(field))
    }

    /// The place of a policy.
    #[must_use]
    pub fn policy_origin(&self, policy: &ObjectRef) -> Option<Origin> {
        Some(self.documents.get(policy)?.origin())
    }

    /// The pods that probably use the API server: they have the token of a ServiceAccount that a
    /// RoleBinding or ClusterRoleBinding gives permissions to.
    #[must_use]
    pub fn api_clients(&self) -> BTreeSet<PodKey> {
        if self.bound.is_empty() {
            return BTreeSet::new();
        }
        let is_bound = |(pod, account): &(&PodKey, &Str)| {
            self.bound.contains(&(pod.namespace.clone(), Str::clone(account)))
        };
        self.accounts.iter().filter(is_bound).map(|(pod, _)| pod.clone()).collect()
    }

    /// The addresses of the API server that the source has.
    #[must_use]
    pub fn api_server(&self) -> Vec<(IpAddr, Protocol, u16)> {
        let (namespace, service) = API_SERVER;
        let listed = self.endpoints.get(&(namespace.into(), service.into())).into_iter().flatten();
        let listed = listed.flat_map(|endpoints| &endpoints.addresses);
        listed.map(|(address, protocol, port, _)| (*address, *protocol, *port)).collect()
    }

    fn note_account(&mut self, pod: &PodKey, account: Option<&Str>) {
        if let Some(account) = account {
            self.accounts.insert(pod.clone(), account.clone());
        }
    }

    fn add_object(&mut self, change: Change, object: &Object) {
        if let (Change::Policy(name, Some(_)), Some(document)) = (&change, &object.document) {
            self.documents.insert(name.clone(), document.clone());
        }
        self.world.apply(change);
    }

    fn add_pod(&mut self, pod: Arc<Pod>, workload: WorkloadRef, would_be: bool) {
        let key = pod.key.clone();
        let found = self.workloads.entry(workload.clone()).or_default();
        found.pods.push(key.clone());
        found.would_be |= would_be;
        self.workload_of.insert(key.clone(), workload);
        self.world.apply(Change::Pod(key, Some(pod)));
    }

    /// Adds pods from a template, unless some of its pods run.
    ///
    /// Two replicas are enough: whether a replica can connect to another one is a question too.
    fn add_template(&mut self, inventory: &Inventory, template: &Template) {
        let key = &template.template.key;
        let own = WorkloadRef::new(&key.namespace, template.kind.lower(), &key.name);
        let workload = owners::top(inventory, &own, template.owner.as_ref());
        let runs = self.workloads.get(&workload).is_some_and(|known| {
            let pods = known.pods.iter().filter_map(|pod| self.world.pods().get(pod));
            known.would_be || pods.into_iter().any(|pod| pod.host_network || pod.takes_part())
        });
        // Old ReplicaSets of a Deployment, and finished Jobs, create no more pods.
        let is_superseded = workload != own && inventory.workload(&workload).is_some();
        if runs || is_superseded || template.finished {
            return;
        }
        let replicas = if template.replicas == Some(1) { 1 } else { 2 };
        for number in 1..=replicas {
            // The name cannot be that of an object: names have no `/`.
            let name = format!("{}/{}#{number}", template.kind.lower(), key.name);
            let key = PodKey::new(&key.namespace, &name);
            self.note_account(&key, template.account.as_ref());
            let pod = Pod { key, ..template.template.clone() };
            self.add_pod(Arc::new(pod), workload.clone(), true);
        }
        if template.replicas == Some(0) && template.kind != Kind::ReplicaSet {
            self.notes.push(format!("{workload} has no replicas; it stands for pods to come"));
        }
    }

    /// Whether the source has pods of an object of another API, or pods with the labels of such a pod,
    /// which the controller of the object probably created by way of another object.
    fn has_pods_of(&self, workload: &WorkloadRef, to_come: &Pod) -> bool {
        if self.workloads.contains_key(workload) {
            return true;
        }
        let first = PodKey::new(&to_come.key.namespace, "");
        let near = self.world.pods().range(first..).map(|(_, pod)| pod);
        let mut near = near.take_while(|pod| pod.key.namespace == to_come.key.namespace);
        let has_labels = |pod: &Pod| {
            let mut labels = to_come.labels.iter();
            labels.all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        to_come.labels.iter().next().is_some()
            && near.any(|pod| (pod.host_network || pod.takes_part()) && has_labels(pod))
    }

    fn assume_namespaces(&mut self) {
        let pods = self.world.pods().keys().map(|key| &key.namespace);
        let policies = self.world.policies().map(|policy| &policy.name.namespace);
        let policies = policies.filter(|namespace| !namespace.is_empty());
        let services = self.services.keys().map(|(namespace, _)| namespace);
        let named: BTreeSet<Str> = pods.chain(policies).chain(services).cloned().collect();
        let mut missing = Vec::new();
        for name in named {
            if !self.world.namespaces().contains_key(&name) {
                let assumed = assumed_namespace(&name);
                missing.push(name.to_string());
                self.assumed.insert(name.clone());
                self.world.apply(Change::Namespace(name, Some(assumed)));
            }
        }
        if !missing.is_empty() {
            let (noun, them) = match missing.len() {
                1 => ("Namespace", "it"),
                _ => ("Namespaces", "them"),
            };
            self.notes.push(format!(
                "no {noun} {} in the source; assumed without labels, so namespaceSelectors \
                 match {them} by name only",
                few(&missing, NAMES_SHOWN)
            ));
        }
    }
}
