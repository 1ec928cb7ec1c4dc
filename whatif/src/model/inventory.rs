//! Objects by kind and name, as they were read: what `--with` and `--without` change.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail};
use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::tier::Mode;
use portcullis_crds::convert::UnknownVersion;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::diagnostic::{Diagnostic, Severity};
use portcullis_crds::manifest::Document;
use serde_json::Value;

use super::reference::{kind_by_word, nearest};
use crate::source::gap::{Cause, Gap, Place};

/// What an object is called.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectName {
    /// Its kind in lower case, as `networkpolicy`.
    pub kind: String,
    /// Its namespace; empty for kinds of the whole cluster.
    pub namespace: Str,
    /// Its name.
    pub name: Str,
}

impl ObjectName {
    fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_lowercase(), namespace: namespace.into(), name: name.into() }
    }

    /// The same, in `namespace` where it names none and its kind needs one.
    #[must_use]
    pub fn or_in(self, namespace: &str) -> Self {
        let lacks = self.namespace.is_empty() && !is_cluster_wide(&self.kind);
        if lacks { Self { namespace: namespace.into(), ..self } } else { self }
    }
}

/// Whether objects of a kind, in lower case, are in no namespace.
fn is_cluster_wide(kind: &str) -> bool {
    ["node", "namespace", "clusternetworkpolicy", "clusterdefaultnetworkpolicy"].contains(&kind)
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_ref() {
            "" => write!(formatter, "{}/{}", self.kind, self.name),
            namespace => write!(formatter, "{}/{namespace}/{}", self.kind, self.name),
        }
    }
}

impl FromStr for ObjectName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, name] => (*kind, "", *name),
            [kind, namespace, name] => (*kind, *namespace, *name),
            _ => bail!("`{text}` is no object: write KIND/NAMESPACE/NAME"),
        };
        let kind = kind_by_word(kind).unwrap_or(kind);
        Ok(Self::new(kind, namespace, name))
    }
}

/// One object, and where it is written.
#[derive(Clone, Debug)]
pub struct Object {
    /// What it is.
    pub item: Item,
    /// Where it is written; `None` for an object of an API server.
    pub document: Option<Arc<Document>>,
    /// What an API server said; `None` for an object of a file.
    served: Option<Arc<Value>>,
    diagnostics: Vec<Diagnostic>,
}

/// Where an object comes from.
enum Written {
    Here(Arc<Document>),
    Served(Arc<Value>),
}

impl Object {
    /// The object as JSON.
    #[must_use]
    pub fn value(&self) -> Option<&Value> {
        let written = self.document.as_ref().map(|document| document.value());
        written.or(self.served.as_deref())
    }
}

/// All objects by name.
#[derive(Clone, Default, Debug)]
pub struct Inventory {
    objects: BTreeMap<ObjectName, Object>,
    /// What could not be listed of a live cluster.
    pub hidden: Vec<Gap>,
    /// What is wrong with objects that have no name.
    nameless: Vec<Diagnostic>,
    /// Objects that several documents give: each with what is to be said of the later one.
    repeated: Vec<Diagnostic>,
}

/// Kinds of policies that are not enforced, and what is to be said of that.
const OTHER_POLICIES: [(&str, &str); 5] = [
    ("AdminNetworkPolicy", SUPERSEDED),
    ("BaselineAdminNetworkPolicy", SUPERSEDED),
    ("CiliumClusterwideNetworkPolicy", NOT_SUPPORTED),
    ("CiliumNetworkPolicy", NOT_SUPPORTED),
    ("GlobalNetworkPolicy", NOT_SUPPORTED),
];

const NOT_SUPPORTED: &str =
    "is not supported: answers leave it out, and Portcullis does not enforce it";

const SUPERSEDED: &str = "is not supported: answers leave it out, and Portcullis does not enforce it; \
                          write a ClusterNetworkPolicy of policy.networking.k8s.io/v1beta1";

impl Inventory {
    /// Adds or replaces the object of a file.
    pub fn add_document(&mut self, document: Document, default_namespace: &str) {
        let (item, diagnostics) = item(document.value(), Some(&document), default_namespace);
        self.add(item, Written::Here(Arc::new(document)), diagnostics);
    }

    /// Adds or replaces an object of an API server.
    pub fn add_value(&mut self, value: &Value, default_namespace: &str) {
        let (item, diagnostics) = item(value, None, default_namespace);
        self.add(item, Written::Served(Arc::new(value.clone())), diagnostics);
    }

    /// Adds, replaces or removes what a change is about, as if an API server had said so.
    pub fn apply(&mut self, change: Change) {
        let (name, item) = match change {
            Change::Pod(key, pod) => {
                let name = ObjectName::new("pod", &key.namespace, &key.name);
                (name, pod.map(|pod| Item::Pod(pod, None)))
            }
            change => {
                let Some(name) = name(&Item::Object(change.clone())) else { return };
                let is_there = !matches!(
                    change,
                    Change::Namespace(_, None)
                        | Change::Node(_, None)
                        | Change::NetworkPolicy(_, None)
                        | Change::ClusterNetworkPolicy(_, None)
                        | Change::ClusterDefaultNetworkPolicy(_, None)
                );
                (name, is_there.then_some(Item::Object(change)))
            }
        };
        let object =
            item.map(|item| Object { item, document: None, served: None, diagnostics: Vec::new() });
        self.put(name, object);
    }

    /// Removes an object.
    ///
    /// # Errors
    /// When it is not there; names the nearest one that is.
    pub fn remove(&mut self, name: &ObjectName) -> Result<()> {
        if self.objects.remove(name).is_some() {
            return Ok(());
        }
        let wanted = name.to_string();
        let known: Vec<String> = self.objects.keys().map(ToString::to_string).collect();
        let near = nearest(&wanted, known.iter().map(String::as_str));
        let hint = near.first().map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        bail!("--without {wanted}: there is no such object{hint}")
    }

    /// Makes `name` what `object` is; `None` removes it.
    pub fn put(&mut self, name: ObjectName, object: Option<Object>) {
        match object {
            Some(object) => drop(self.objects.insert(name, object)),
            None => drop(self.objects.remove(&name)),
        }
    }

    /// Puts every policy in force, as if none were in audit; how many were.
    pub fn enforce_all(&mut self) -> usize {
        let policies = self.objects.values_mut().filter_map(|object| match &mut object.item {
            Item::Object(change) => Some(change),
            _ => None,
        });
        policies
            .filter_map(mode_of)
            .filter_map(|mode| (mem::take(mode) == Mode::Audit).then_some(()))
            .count()
    }

    /// All objects in the order of their names.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectName, &Object)> {
        self.objects.iter()
    }

    /// What the object of that name is.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&ObjectName::new(kind, namespace, name))
    }

    /// What could not be read: what could not be listed, and policies in versions that are not understood.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let unknown = self.objects.values().filter_map(|object| match &object.item {
            Item::UnknownVersion(policy) => Some(policy),
            _ => None,
        });
        let gap = |policy: &UnknownVersion| {
            let UnknownVersion { kind, namespace, name, api_version } = policy;
            let (place, name) = if kind.is_namespaced() {
                (Place::Only(namespace.clone()), format!("{namespace}/{name}"))
            } else {
                (Place::Everywhere, name.to_string())
            };
            let version = if api_version.is_empty() { "no apiVersion" } else { api_version };
            let cause = Cause::UnknownVersion(format!("{} {name} of {version}", kind.as_str()));
            Gap { kind: kind.as_str().to_lowercase(), place, cause }
        };
        self.hidden.iter().cloned().chain(unknown.map(gap)).collect()
    }

    /// What is wrong with the objects.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let objects = self.objects.values().flat_map(|object| &object.diagnostics);
        self.nameless.iter().chain(objects).cloned().collect()
    }

    /// The documents that give an object which an earlier one gave already, in whatever file.
    #[must_use]
    pub fn repeated(&self) -> &[Diagnostic] {
        &self.repeated
    }

    fn add(&mut self, item: Item, written: Written, mut found: Vec<Diagnostic>) {
        let (document, served) = match written {
            Written::Here(document) => (Some(document), None),
            Written::Served(value) => (None, Some(value)),
        };
        if let Item::Foreign { kind, .. } = &item
            && let Some((kind, message)) = OTHER_POLICIES.iter().find(|(other, _)| other == kind)
        {
            let value = document.as_ref().map(|document| document.value()).or(served.as_deref());
            let name = value.and_then(|value| value.pointer("/metadata/name")?.as_str());
            found.push(Diagnostic {
                severity: Severity::Warning,
                source: document.as_ref().map(|document| document.origin()),
                object: name.map_or_else(|| (*kind).to_owned(), |name| format!("{kind} {name}")),
                field: String::new(),
                message: (*message).to_owned(),
            });
        }
        let Some(name) = name(&item) else {
            self.nameless.extend(found);
            return;
        };
        if let (Some(old), Some(new)) = (self.objects.get(&name), &document)
            && let Some(old) = &old.document
        {
            let repeated = Diagnostic {
                severity: Severity::Warning,
                source: Some(new.origin()),
                object: name.to_string(),
                field: String::new(),
                message: format!("is given before, at {}; this one is used", old.origin()),
            };
            // From file to file objects are replaced on purpose: `--with`, overlays.
            if old.origin().file == new.origin().file {
                found.push(repeated.clone());
            }
            self.repeated.push(repeated);
        }
        self.objects.insert(name, Object { item, document, served, diagnostics: found });
    }
}

/// The mode of the policy that a change makes; `None` for other changes.
pub fn mode_of(change: &mut Change) -> Option<&mut Mode> {
    Some(match change {
        Change::NetworkPolicy(_, Some(policy)) => &mut Arc::make_mut(policy).mode,
        Change::ClusterNetworkPolicy(_, Some(policy)) => &mut Arc::make_mut(policy).mode,
        Change::ClusterDefaultNetworkPolicy(_, Some(policy)) => &mut Arc::make_mut(policy).mode,
        _ => return None,
    })
}

fn name(item: &Item) -> Option<ObjectName> {
    Some(match item {
        Item::Object(Change::Namespace(name, _)) => ObjectName::new("namespace", "", name),
        Item::Object(Change::Node(name, _)) => ObjectName::new("node", "", name),
        Item::Object(Change::NetworkPolicy(key, _)) => {
            ObjectName::new("networkpolicy", &key.namespace, &key.name)
        }
        Item::Object(Change::ClusterNetworkPolicy(name, _)) => {
            ObjectName::new("clusternetworkpolicy", "", name)
        }
        Item::Object(Change::ClusterDefaultNetworkPolicy(name, _)) => {
            ObjectName::new("clusterdefaultnetworkpolicy", "", name)
        }
        Item::Object(Change::Pod(key, _)) => ObjectName::new("pod", &key.namespace, &key.name),
        Item::Pod(pod, _) => ObjectName::new("pod", &pod.key.namespace, &pod.key.name),
        Item::Workload(workload) => {
            let key = &workload.template.key;
            ObjectName::new(workload.kind.lower(), &key.namespace, &key.name)
        }
        Item::Service(service) => ObjectName::new("service", &service.namespace, &service.name),
        Item::UnknownVersion(policy) => {
            ObjectName::new(policy.kind.as_str(), &policy.namespace, &policy.name)
        }
        Item::Foreign { .. } | Item::Unusable => return None,
    })
}
