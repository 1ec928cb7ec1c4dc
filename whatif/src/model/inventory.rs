//! Objects by kind and name, as they were read. `--with` and `--without` change them.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use anyhow::{Result, bail};
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef, ParseObjectError};
use policy_engine::policy::Policy;
use policy_engine::tier::Mode;
use portcullis_crds::convert::UnknownVersion;
use portcullis_crds::convert::custom::Custom;
use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::manifest::Document;
use portcullis_crds::path::FieldPath;
use portcullis_lint::near;
use serde_json::Value;

use super::reference::WorkloadRef;
use crate::gap::{Cause, Gap, Place};

/// One object, and the place where it is written.
#[derive(Clone, Debug)]
pub struct Object {
    /// The parsed object.
    pub item: Item,
    /// The document that contains it; `None` for an object of an API server.
    pub document: Option<Arc<Document>>,
    /// The response of the API server; `None` for an object of a file.
    served: Option<Arc<Value>>,
    diagnostics: Vec<Diagnostic>,
    /// The number of the path on the command line that it was read from.
    path: usize,
}

/// The place that an object comes from.
#[derive(Clone)]
enum Written {
    Here(Arc<Document>),
    Served(Arc<Value>),
    /// An argument of the command.
    Nowhere,
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
    /// Objects of a live cluster that could not be listed.
    pub hidden: Vec<Gap>,
    /// Diagnostics of objects without a name.
    nameless: Vec<Diagnostic>,
    /// Objects that several documents contain: each with a diagnostic of the later one.
    repeated: Vec<Diagnostic>,
    /// How many paths of the command line were read.
    paths: usize,
}

/// Kinds of policies that are not enforced, each with its message.
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
    /// Adds or replaces the objects of one path of the command line. An object that the path
    /// contains twice is reported. Objects of an earlier path are replaced on purpose.
    pub fn add_path(&mut self, documents: Vec<Document>, default_namespace: &str) {
        self.paths += 1;
        for mut document in documents {
            let (item, diagnostics) = item(document.value(), Some(&document), default_namespace);
            document.release();
            self.add(item, Written::Here(Arc::new(document)), diagnostics);
        }
    }

    /// Adds or replaces all objects of another inventory.
    pub fn merge(&mut self, other: Self) {
        self.objects.extend(other.objects);
        self.nameless.extend(other.nameless);
        self.repeated.extend(other.repeated);
    }

    /// Removes every object that another inventory contains, whatever its content is.
    pub fn remove_all(&mut self, other: &Self) {
        self.objects.retain(|name, _| !other.objects.contains_key(name));
    }

    /// Adds or replaces an object of an API server.
    pub fn add_value(&mut self, value: &Value, default_namespace: &str) {
        let (item, diagnostics) = item(value, None, default_namespace);
        self.add(item, Written::Served(Arc::new(value.clone())), diagnostics);
    }

    /// The objects that an engine compiles, as changes of an empty world.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.objects.values().filter_map(|object| match &object.item {
            Item::Object(change) => Some(change.clone()),
            Item::Pod(pod, ..) => Some(Change::Pod(pod.key.clone(), Some(pod.clone()))),
            Item::Endpoints(endpoints) => endpoints.api_server(),
            _ => None,
        })
    }

    /// Adds, replaces or removes the object of a change, as after an event of an API server.
    pub fn apply(&mut self, change: Change) {
        let name = change.object();
        let item = match change {
            Change::Pod(_, pod) => pod.map(|pod| Item::Pod(pod, None, None)),
            change => (!change.is_removal()).then_some(Item::Object(change)),
        };
        let object = item.map(|item| Object {
            item,
            document: None,
            served: None,
            diagnostics: Vec::new(),
            path: self.paths,
        });
        self.put(name, object);
    }

    /// Removes the object that is named `KIND/NAMESPACE/NAME`. Without a namespace in the name, a
    /// namespaced object is in `namespace`.
    ///
    /// # Errors
    /// When there is no such object; the error names the nearest one.
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
            // An inventory has no object of such a kind.
            Err(ParseObjectError::Kind(..)) => {}
            Err(error @ ParseObjectError::Parts(_)) => bail!(error),
        }
        let known: Vec<String> = self.objects().map(|(name, _)| name.to_string()).collect();
        let near = near::names(&wanted, known.iter().map(String::as_str));
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

    /// Sets every policy in audit to enforced; returns how many were in audit.
    pub fn enforce_all(&mut self) -> usize {
        let objects = self.objects.values_mut();
        let policies = objects.filter_map(|object| policy_mut(&mut object.item));
        policies
            .filter_map(|policy| (mem::take(&mut policy.mode) == Mode::Audit).then_some(()))
            .count()
    }

    /// All objects in the order of their names, kinds in alphabetical order.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let mut all: Vec<_> = self.objects.iter().collect();
        // The objects of each kind are already in order, which makes a stable sort fast.
        all.sort_by_key(|(name, _)| name.alphabetical());
        all.into_iter()
    }

    /// The object of that name.
    #[must_use]
    pub fn get(&self, name: &ObjectRef) -> Option<&Object> {
        self.objects.get(name)
    }

    /// The object of a workload; `None` for a kind that is not known here.
    #[must_use]
    pub fn workload(&self, workload: &WorkloadRef) -> Option<&Object> {
        let WorkloadRef { namespace, kind, name } = workload;
        self.get(&ObjectRef::new(Kind::from_word(kind)?, namespace.clone(), name.clone()))
    }

    /// The objects that could not be listed, and the policies in versions that are not understood.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let unknown = self.objects.values().filter_map(|object| match &object.item {
            Item::UnknownVersion(policy) => Some(policy),
            _ => None,
        });
        let gap = |policy: &UnknownVersion| {
            let UnknownVersion { object, api_version } = policy;
            let place = if object.kind.is_namespaced() {
                Place::Only(object.namespace.clone())
            } else {
                Place::Everywhere
            };
            let version = if api_version.is_empty() { "no apiVersion" } else { api_version };
            let cause = Cause::UnknownVersion(format!("{} of {version}", object.titled()));
            Gap { kind: object.kind, place, cause }
        };
        self.hidden.iter().cloned().chain(unknown.map(gap)).collect()
    }

    /// The diagnostics of the objects.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let objects = self.objects().flat_map(|(_, object)| &object.diagnostics);
        self.nameless.iter().chain(objects).cloned().collect()
    }

    /// The errors about objects of which nothing can be read, because their kind or name cannot.
    pub fn unusable(&self) -> impl Iterator<Item = &Diagnostic> {
        self.nameless.iter().filter(|found| found.severity == Severity::Error)
    }

    /// One diagnostic for each document with an object that an earlier document contains.
    #[must_use]
    pub fn repeated(&self) -> &[Diagnostic] {
        &self.repeated
    }

    /// Adds the pods of an object of another API, each by its name.
    fn add_custom(&mut self, custom: Custom, written: &Written, mut found: Vec<Diagnostic>) {
        let Custom { owner, pods, account } = custom;
        for pod in pods {
            let item = Item::Pod(Arc::new(pod), Some(owner.clone()), account.clone());
            self.add(item, written.clone(), mem::take(&mut found));
        }
    }

    /// Adds pods that are assumed to exist.
    pub fn assume(&mut self, assumed: &Custom) {
        self.add_custom(assumed.clone(), &Written::Nowhere, Vec::new());
    }

    fn add(&mut self, item: Item, written: Written, mut found: Vec<Diagnostic>) {
        if let Item::Custom(custom) = item {
            return self.add_custom(custom, &written, found);
        }
        let (document, served) = match written {
            Written::Here(document) => (Some(document), None),
            Written::Served(value) => (None, Some(value)),
            Written::Nowhere => (None, None),
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
                field: FieldPath::default(),
                message: (*message).to_owned(),
            });
        }
        let Some(name) = name(&item) else {
            self.nameless.extend(found);
            return;
        };
        if let (Some(old), Some(new)) = (self.objects.get(&name), &document)
            && let (path, Some(old)) = (old.path, &old.document)
        {
            let repeated = Diagnostic {
                severity: Severity::Warning,
                source: Some(new.origin()),
                about: About::Other(name.to_string()),
                field: FieldPath::default(),
                message: format!("is given before, at {}; this one is used", old.origin()),
            };
            if path == self.paths {
                found.push(repeated.clone());
            }
            self.repeated.push(repeated);
        }
        let object = Object { item, document, served, diagnostics: found, path: self.paths };
        self.objects.insert(name, object);
    }
}

/// The policy of an object, for changing it.
pub fn policy_mut(item: &mut Item) -> Option<&mut Policy> {
    match item {
        Item::Object(Change::Policy(_, Some(policy))) => Some(Arc::make_mut(policy)),
        _ => None,
    }
}

fn name(item: &Item) -> Option<ObjectRef> {
    Some(match item {
        Item::Object(change) => change.object(),
        Item::Pod(pod, ..) => (&pod.key).into(),
        Item::Workload(workload) => {
            let key = &workload.template.key;
            ObjectRef::new(workload.kind, key.namespace.clone(), key.name.clone())
        }
        Item::Service(service) => {
            ObjectRef::new(Kind::Service, service.namespace.clone(), service.name.clone())
        }
        Item::Endpoints(endpoints) => endpoints.object.clone(),
        Item::Frontend(frontend) => frontend.object.clone(),
        Item::Binding(binding) => binding.object.clone(),
        Item::UnknownVersion(policy) => policy.object.clone(),
        Item::Custom(_) | Item::Foreign { .. } | Item::Unusable => return None,
    })
}
