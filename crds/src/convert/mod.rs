//! Objects → changes for the engine.
//!
//! ```text
//! Document ─┐
//!           ├─► value + report ─► policy | pod | namespace | node ─► Change
//! Lean ─────┘
//! ```
//!
//! Files and API servers use the same conversion, so an object means the same from both.

mod cluster_policy;
pub mod custom;
mod default_policy;
pub mod frontend;
pub mod inventory;
pub mod labels;
mod mode;
mod peer;
mod pod;
mod policy;
mod port;
mod rules;
pub mod service;
mod source_ranges;
pub mod workload;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::selector::Selector;
use serde_json::Value;

use crate::decode::Field;
use crate::diagnostic::{About, Diagnostic};
use crate::lean::{Lean, LeanKind, MODE_ANNOTATION};
use crate::manifest::Document;
use crate::path::{FieldPath, Path, Step};
use crate::report::Report;
pub use pod::assumed_namespace;
pub use policy::revision;

/// The result of the conversion of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Converted {
    /// A change that applies the object.
    Object(Change),
    /// An object of a kind that policies do not depend on, such as a Deployment.
    Foreign {
        /// Its `apiVersion`, empty when it has none.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A policy of one of our kinds in a version that is not known: it may mean anything. The last
    /// version that was understood stays applied.
    UnknownVersion(UnknownVersion),
    /// An object whose kind or name is not known: no part of it is applied.
    Unusable,
}

/// The change for one object, and its identity if it is from an API server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// The change for the engine.
    pub change: Change,
    /// For policies and nodes of an API server that exist; else `None`.
    pub meta: Option<Box<Meta>>,
}

/// Metadata of an object from an API server, besides its change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The uid, which distinguishes the object from others that had its name.
    pub uid: Str,
    /// The status of a policy; null where it has none.
    pub status: Value,
}

impl From<Change> for Object {
    fn from(change: Change) -> Self {
        Self { change, meta: None }
    }
}

/// A policy in a version that is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownVersion {
    /// Its name.
    pub object: ObjectRef,
    /// Its `apiVersion`, empty when it has none.
    pub api_version: String,
}

/// How the version of an object of our kinds relates to the one we know.
enum Version {
    Known,
    /// Same kind and group, another version: it may have another meaning.
    Unknown,
    /// A kind of the same name in another group, such as Calico's NetworkPolicy.
    Foreign,
}

/// Whether objects of a kind have an engine value.
fn is_read(kind: Kind) -> bool {
    kind.is_policy() || matches!(kind, Kind::Pod | Kind::Namespace | Kind::Node)
}

fn version(kind: Kind, api_version: Option<&str>) -> Version {
    let Some(found) = api_version else { return Version::Unknown };
    let (group, version) = found.split_once('/').unwrap_or(("", found));
    if group == kind.group() {
        let is_known = kind.versions().contains(&version);
        return if is_known { Version::Known } else { Version::Unknown };
    }
    match group {
        // `extensions` was the group of these kinds before `networking.k8s.io` and `apps`.
        "extensions" if ["networking.k8s.io", "apps"].contains(&kind.group()) => Version::Unknown,
        "" => Version::Unknown,
        _ => Version::Foreign,
    }
}

/// The kind that a word probably means, if it differs only in case, or is the plural or short name:
/// `networkPolicy`, `NetworkPolicies`. A kind of another API group may have any name.
fn misspelled(word: &str, api_version: Option<&str>) -> Option<Kind> {
    let kind = Kind::from_word(word).filter(|kind| kind.as_str() != word)?;
    let group = api_version.and_then(|found| Some(found.split_once('/')?.0));
    group.is_none_or(|group| group == kind.group() || group == "extensions").then_some(kind)
}

/// Converts one object of a file.
///
/// Objects that an API server would reject are converted too. Their invalid parts fail closed.
#[must_use]
pub fn document(document: &Document) -> (Converted, Vec<Diagnostic>) {
    convert(document.value(), Some(document), DEFAULT_NAMESPACE)
}

/// The namespace of an object without one, unless an option sets another.
const DEFAULT_NAMESPACE: &str = "default";

/// Converts one object of a file, or of an API server as JSON.
fn convert(
    value: &Value,
    document: Option<&Document>,
    default_namespace: &str,
) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(document);
    let converted = any(value, default_namespace, &mut report);
    if matches!(converted, Converted::Object(_)) {
        // The conversion of a policy's spec reports repeated keys in it.
        let kind = value.get("kind").and_then(Value::as_str).and_then(Kind::parse);
        let is_policy = kind.is_some_and(Kind::is_policy);
        let mode = FieldPath::new(["metadata", "annotations", MODE_ANNOTATION]);
        report.repeated_keys(|steps| {
            let in_spec = matches!(steps.first(), Some(Step::Key(key)) if key == "spec");
            is_policy && (in_spec || steps == mode.steps())
        });
    }
    (converted, report.finish())
}

/// Converts an object of an API server.
///
/// Its version is known from the request.
#[must_use]
pub fn lean<K: LeanKind>(object: &Lean<K>) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(None);
    let converted = known(K::KIND, object.value(), DEFAULT_NAMESPACE, &mut report);
    (converted, report.finish())
}

/// The metadata of an object of an API server, for kinds whose metadata is kept.
#[must_use]
pub fn meta<K: LeanKind>(object: &Lean<K>) -> Option<Box<Meta>> {
    let uid = object.value().get("metadata")?.get("uid")?.as_str()?;
    let status = object.value().get("status").filter(|_| K::KIND.is_policy());
    Some(Box::new(Meta { uid: uid.into(), status: status.cloned().unwrap_or_default() }))
}

/// Parses a label selector outside of an object, by the rules for policies.
///
/// # Errors
/// When the selector is not valid.
pub fn label_selector(value: &Value) -> Result<Selector, String> {
    let mut report = Report::new(None);
    let selector = labels::selector(&Field::root(value), &mut report, "it selects nothing");
    selector.ok_or_else(|| {
        let found = report.finish().into_iter().map(|diagnostic| diagnostic.message);
        found.collect::<Vec<_>>().join(", ")
    })
}

fn any(value: &Value, default_namespace: &str, report: &mut Report<'_>) -> Converted {
    let Some(fields) = value.as_object() else {
        let found = crate::decode::wanted("an object", value);
        report.error(&Path::ROOT, format!("{found}; nothing of it is enforced"));
        return Converted::Unusable;
    };
    let Some(name) = fields.get("kind").and_then(Value::as_str) else {
        let message = "it has no `kind`, so nothing of it is enforced";
        report.error(&Path::ROOT.key("kind"), message);
        return Converted::Unusable;
    };
    let api_version = fields.get("apiVersion").and_then(Value::as_str);
    let foreign = || Converted::Foreign {
        api_version: api_version.unwrap_or_default().to_owned(),
        kind: name.to_owned(),
    };
    if let Some(kind) = misspelled(name, api_version) {
        let called = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        report.about = About::Other(format!("{name} {called}").trim_end().to_owned());
        let message = format!(
            "`{name}` is not a kind, and an API server refuses it; nothing of this object is read; \
             write {}",
            kind.as_str()
        );
        report.error(&Path::ROOT.key("kind"), message);
        return Converted::Unusable;
    }
    let Some(kind) = Kind::parse(name) else { return foreign() };
    let lists_api_server = matches!(kind, Kind::EndpointSlice | Kind::Endpoints)
        && frontend::lists_api_server(value, default_namespace);
    if !is_read(kind) && !lists_api_server {
        return foreign();
    }
    match version(kind, api_version) {
        Version::Known => known(kind, value, default_namespace, report),
        Version::Unknown => unknown(kind, value, api_version, default_namespace, report),
        Version::Foreign => {
            if kind.is_policy() {
                report.about = About::Other(name.to_owned());
                let message = format!("is a {name} of another project; it is not enforced here");
                report.warning(&Path::ROOT.key("apiVersion"), message);
            }
            foreign()
        }
    }
}

/// Converts an object of a kind that has an engine value, in a version that is understood.
fn known(kind: Kind, value: &Value, default_namespace: &str, report: &mut Report<'_>) -> Converted {
    let root = Field::root(value);
    let Some(object) = name_of(kind, &root, default_namespace, report) else {
        return Converted::Unusable;
    };
    let name = &object.name;
    Converted::Object(match kind {
        Kind::NetworkPolicy => policy::policy(&object, &root, report).into(),
        Kind::ClusterNetworkPolicy => cluster_policy::policy(name, &root, report).into(),
        Kind::ClusterDefaultNetworkPolicy => default_policy::policy(name, &root, report).into(),
        Kind::Pod => {
            let key = PodKey::of(object.namespace, object.name);
            Change::Pod(key.clone(), Some(Arc::new(pod::pod(key, &root, report))))
        }
        Kind::Namespace => {
            Change::Namespace(name.clone(), Some(pod::namespace(name, &root, report)))
        }
        Kind::Node => Change::Node(name.clone(), Some(pod::node(&root, report))),
        Kind::EndpointSlice | Kind::Endpoints => {
            match frontend::endpoints(object, value).api_server() {
                Some(change) => change,
                None => return Converted::Unusable,
            }
        }
        // Objects of other kinds have no value in the engine.
        _ => return Converted::Unusable,
    })
}

/// Reports an object of one of our kinds in a version that is not understood, or without one.
///
/// A later version may mean anything. To isolate the pods that such a policy may select would stop
/// the traffic of the whole cluster when a CRD is upgraded.
fn unknown(
    kind: Kind,
    value: &Value,
    api_version: Option<&str>,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Converted {
    let path = Path::ROOT.key("apiVersion");
    if !kind.is_policy() {
        let message = format!("is not {}; it is read as if it were", kind.api_version());
        let converted = known(kind, value, default_namespace, report);
        report.error(&path, message);
        return converted;
    }
    let Some(object) = name_of(kind, &Field::root(value), default_namespace, report) else {
        return Converted::Unusable;
    };
    let known = kind.versions().iter().map(|version| kind.api_version_of(version));
    let known = known.collect::<Vec<_>>().join(" or ");
    let found = match api_version {
        Some(found) => format!("is {found}, which is not understood (only {known} is)"),
        None => format!("is missing (write {known})"),
    };
    report.error(&path, format!("{found}; {UNREAD_EFFECT}"));
    let api_version = api_version.unwrap_or_default().to_owned();
    Converted::UnknownVersion(UnknownVersion { object, api_version })
}

const UNREAD_EFFECT: &str =
    "the policy is not enforced as it stands here; what was enforced of it before stays";

/// The name of the object at `root`; `None` after a report when it cannot be read. Later
/// diagnostics name this object.
fn name_of(
    kind: Kind,
    root: &Field<'_>,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Option<ObjectRef> {
    report.about = About::Other(kind.as_str().to_owned());
    let unusable = "nothing of the object is enforced";
    let metadata = root.get("metadata").filter(|field| field.value.is_object());
    let name = metadata.as_ref().and_then(|metadata| metadata.get("name"));
    let Some((metadata, name)) = metadata.as_ref().zip(name) else {
        let path = Path::ROOT.key("metadata");
        report.error(&path.key("name"), format!("is missing; {unusable}"));
        return None;
    };
    let name = name.text(report, unusable)?;
    if name.is_empty() {
        let path = metadata.path.key("name");
        report.error(&path, format!("is empty; {unusable}"));
        return None;
    }
    let namespace = match metadata.get("namespace").filter(|_| kind.is_namespaced()) {
        None => default_namespace,
        Some(field) => match field.text(report, unusable)? {
            "" => default_namespace,
            namespace => namespace,
        },
    };
    let object = ObjectRef::new(kind, namespace, name);
    report.about = About::Object(object.clone());
    if is_read(kind) && !labels::is_subdomain(name) {
        let metadata = Path::ROOT.key("metadata");
        report.warning(&metadata.key("name"), "is a name that an API server would refuse");
    }
    Some(object)
}
