//! Objects by kind and name, as they were read: what `--with` and `--without` change.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use anyhow::{Result, bail};
use policy_engine::model::{Change, PodKey};
use policy_engine::object::{Kind, ObjectRef, ParseObjectError};
use policy_engine::tier::Mode;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::manifest::Document;
use serde_json::Value;

use super::reference::{WorkloadRef, nearest};
use crate::source::gap::Gap;

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
    objects: BTreeMap<ObjectRef, Object>,
    /// What could not be read of a live cluster.
    pub gaps: Vec<Gap>,
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
                          write a ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2";

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
        let name = change.object();
        let item = match change {
            Change::Pod(_, pod) => pod.map(|pod| Item::Pod(pod, None)),
            change => (!change.is_removal()).then_some(Item::Object(change)),
        };
        let object =
            item.map(|item| Object { item, document: None, served: None, diagnostics: Vec::new() });
        self.put(name, object);
    }

    /// Removes the object that is named `KIND/NAMESPACE/NAME`; one that names no namespace is in
    /// `namespace` where its kind needs one.
    ///
    /// # Errors
    /// When it is not there; names the nearest one that is.
    pub fn remove(&mut self, text: &str, namespace: &str) -> Result<()> {
        let mut wanted = text.to_owned();
        match text.parse::<ObjectRef>() {
            Ok(mut name) => {
                if name.namespace.is_empty() && name.kind.is_namespaced() {
                    name.namespace = namespace.into();
                }
                if self.objects.remove(&name).is_some() {
                    return Ok(());
                }
                wanted = name.to_string();
            }
            // An object of such a kind is never there.
            Err(ParseObjectError::Kind(..)) => {}
            Err(error @ ParseObjectError::Parts(_)) => bail!(error),
        }
        let known: Vec<String> = self.objects().map(|(name, _)| name.to_string()).collect();
        let near = nearest(&wanted, known.iter().map(String::as_str));
        let hint = near.first().map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        bail!("--without {wanted}: there is no such object{hint}")
    }

    /// Makes `name` what `object` is; `None` removes it.
    pub fn put(&mut self, name: ObjectRef, object: Option<Object>) {
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

    /// All objects in the order of their names, kinds in alphabetical order.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let mut all: Vec<_> = self.objects.iter().collect();
        all.sort_unstable_by_key(|(name, _)| name.alphabetical());
        all.into_iter()
    }

    /// The object of that name.
    #[must_use]
    pub fn get(&self, name: &ObjectRef) -> Option<&Object> {
        self.objects.get(name)
    }

    /// The object that a workload is; none of a kind that is not known here.
    #[must_use]
    pub fn workload(&self, workload: &WorkloadRef) -> Option<&Object> {
        let WorkloadRef { namespace, kind, name } = workload;
        self.get(&ObjectRef::new(Kind::from_word(kind)?, namespace.clone(), name.clone()))
    }

    /// What is wrong with the objects.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let objects = self.objects().flat_map(|(_, object)| &object.diagnostics);
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
                about: About::Other(match name {
                    Some(name) => format!("{kind} {name}"),
                    None => (*kind).to_owned(),
                }),
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
                about: About::Other(name.to_string()),
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

fn name(item: &Item) -> Option<ObjectRef> {
    Some(match item {
        Item::Object(change) => change.object(),
        Item::Pod(pod, _) => (&pod.key).into(),
        Item::Workload(workload) => {
            let PodKey { namespace, name } = workload.template.key.clone();
            ObjectRef::new(workload.kind, namespace, name)
        }
        Item::Service(service) => {
            ObjectRef::new(Kind::Service, service.namespace.clone(), service.name.clone())
        }
        Item::Foreign { .. } | Item::Unusable => return None,
    })
}
