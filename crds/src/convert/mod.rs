//! Objects → changes for the engine.
//!
//! ```text
//! Document ─┐
//!           ├─► value + report ─► policy | pod | namespace | node ─► Change
//! Lean ─────┘
//! ```
//!
//! One road for files and API servers: both mean the same by construction.

mod cluster_policy;
mod default_policy;
pub mod inventory;
mod labels;
mod mode;
mod peer;
mod pod;
mod policy;
mod port;
mod rules;
pub mod service;
pub mod workload;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::policy::PolicyKey;
use policy_engine::selector::Selector;
use serde_json::Value;

use crate::decode::Field;
use crate::diagnostic::Diagnostic;
use crate::lean::{Lean, LeanKind, MODE_ANNOTATION};
use crate::manifest::Document;
use crate::path::{Path, Step};
use crate::report::Report;
pub use pod::assumed_namespace;

/// What became of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Converted {
    /// A change that puts the object in force.
    Object(Change),
    /// An object of a kind that policies do not speak about, such as a Deployment.
    Foreign {
        /// Its `apiVersion`, empty when it has none.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// What it is or what it is called cannot be told: nothing of it is in force.
    Unusable,
}

/// The kinds that become engine values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `portcullis.dev/v1alpha1` ClusterDefaultNetworkPolicy.
    ClusterDefaultNetworkPolicy,
    /// `v1` Pod.
    Pod,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
}

/// How the version of an object of our kinds relates to the one we know.
enum Version {
    Known,
    /// Same kind and group, another version: it may mean something else.
    Unknown,
    /// Another group's kind of the same name, such as Calico's NetworkPolicy.
    Foreign,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 6] = [
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::ClusterDefaultNetworkPolicy,
        Self::Pod,
        Self::Namespace,
        Self::Node,
    ];

    fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }

    /// The name that the API has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::ClusterDefaultNetworkPolicy => "ClusterDefaultNetworkPolicy",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::ClusterDefaultNetworkPolicy => "portcullis.dev/v1alpha1",
            Self::Pod | Self::Namespace | Self::Node => "v1",
        }
    }

    /// Whether its objects are policies, of which every part tells about its repeated keys itself.
    fn is_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy | Self::ClusterNetworkPolicy | Self::ClusterDefaultNetworkPolicy
        )
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        matches!(self, Self::NetworkPolicy | Self::Pod)
    }

    /// The change that takes the object of this name out of the world; `namespace` is not looked
    /// at where the kind has none.
    #[must_use]
    pub fn gone(self, namespace: &Str, name: &Str) -> Change {
        let (namespace, name) = (namespace.clone(), name.clone());
        match self {
            Self::NetworkPolicy => Change::NetworkPolicy(PolicyKey { namespace, name }, None),
            Self::ClusterNetworkPolicy => Change::ClusterNetworkPolicy(name, None),
            Self::ClusterDefaultNetworkPolicy => Change::ClusterDefaultNetworkPolicy(name, None),
            Self::Pod => Change::Pod(PodKey { namespace, name }, None),
            Self::Namespace => Change::Namespace(name, None),
            Self::Node => Change::Node(name, None),
        }
    }

    fn version(self, api_version: Option<&str>) -> Version {
        let Some(found) = api_version else { return Version::Unknown };
        if found == self.api_version() {
            return Version::Known;
        }
        let group = |text: &'static str| text.split_once('/').map(|(group, _)| group);
        match found.split_once('/').map(|(group, _)| group) {
            // `extensions` was the group of NetworkPolicy before networking.k8s.io.
            Some("extensions") if self == Self::NetworkPolicy => Version::Unknown,
            Some(found) if self.is_policy() && Some(found) == group(self.api_version()) => {
                Version::Unknown
            }
            Some(_) => Version::Foreign,
            None => Version::Unknown,
        }
    }
}

/// Converts one object of a file.
///
/// Objects that an API server would reject are converted too, closed where they are wrong.
#[must_use]
pub fn document(document: &Document) -> (Converted, Vec<Diagnostic>) {
    convert(document.value(), Some(document), DEFAULT_NAMESPACE)
}

/// Where an object without a namespace is, unless someone says otherwise.
const DEFAULT_NAMESPACE: &str = "default";

/// Converts one object of a file, or of an API server as JSON.
fn convert(
    value: &Value,
    document: Option<&Document>,
    default_namespace: &str,
) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(String::new(), document);
    let converted = any(value, default_namespace, &mut report);
    if matches!(converted, Converted::Object(_)) {
        // The parts of a policy's spec tell about their repeated keys themselves.
        let kind = value.get("kind").and_then(Value::as_str).and_then(Kind::parse);
        let is_policy = kind.is_some_and(Kind::is_policy);
        report.repeated_keys(|steps| {
            let mode = ["metadata", "annotations", MODE_ANNOTATION].map(Step::Key);
            is_policy && (steps.first() == Some(&Step::Key("spec")) || *steps == mode)
        });
    }
    (converted, report.finish())
}

/// Converts an object of an API server.
///
/// Which version it has is known from where it was asked for.
#[must_use]
pub fn lean<K: LeanKind>(object: &Lean<K>) -> (Converted, Vec<Diagnostic>) {
    let mut report = Report::new(String::new(), None);
    let converted = known(K::KIND, object.value(), true, DEFAULT_NAMESPACE, &mut report);
    (converted, report.finish())
}

/// A label selector by itself, by the rules that hold in policies.
///
/// # Errors
/// What is wrong with it.
pub fn label_selector(value: &Value) -> Result<Selector, String> {
    let mut report = Report::new(String::new(), None);
    let selector = labels::selector(&Field::root(value), &mut report, "it selects nothing");
    selector.ok_or_else(|| {
        let found = report.finish().into_iter().map(|diagnostic| diagnostic.message);
        found.collect::<Vec<_>>().join(", ")
    })
}

fn any(value: &Value, default_namespace: &str, report: &mut Report<'_>) -> Converted {
    let Some(fields) = value.as_object() else {
        let found = crate::decode::wanted("an object", value);
        report.error(&Path::ROOT, format!("{found}; nothing of it is in force"));
        return Converted::Unusable;
    };
    let Some(name) = fields.get("kind").and_then(Value::as_str) else {
        let message = "it has no `kind`, so nothing of it is in force";
        report.error(&Path::ROOT.key("kind"), message);
        return Converted::Unusable;
    };
    let api_version = fields.get("apiVersion").and_then(Value::as_str);
    let foreign = || Converted::Foreign {
        api_version: api_version.unwrap_or_default().to_owned(),
        kind: name.to_owned(),
    };
    let Some(kind) = Kind::parse(name) else { return foreign() };
    match kind.version(api_version) {
        Version::Known => known(kind, value, true, default_namespace, report),
        Version::Unknown => known(kind, value, false, default_namespace, report),
        Version::Foreign => {
            if kind.is_policy() {
                name.clone_into(&mut report.object);
                let message = format!("is a {name} of another project; it is not in force here");
                report.warning(&Path::ROOT.key("apiVersion"), message);
            }
            foreign()
        }
    }
}

/// Converts an object of one of our kinds.
fn known(
    kind: Kind,
    value: &Value,
    version_known: bool,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Converted {
    let root = Field::root(value);
    kind.as_str().clone_into(&mut report.object);
    let names = names_of(kind.is_namespaced(), &root, default_namespace, report);
    let Some((namespace, name)) = names else { return Converted::Unusable };
    report.object = if kind.is_namespaced() {
        format!("{} {namespace}/{name}", kind.as_str())
    } else {
        format!("{} {name}", kind.as_str())
    };
    if !labels::is_subdomain(&name) {
        let metadata = Path::ROOT.key("metadata");
        report.warning(&metadata.key("name"), "is a name that an API server would refuse");
    }
    if !version_known {
        let effect = match kind {
            Kind::NetworkPolicy => policy::CLOSED_EFFECT,
            Kind::ClusterNetworkPolicy => cluster_policy::CLOSED_EFFECT,
            Kind::ClusterDefaultNetworkPolicy => default_policy::CLOSED_EFFECT,
            Kind::Pod | Kind::Namespace | Kind::Node => "it is read as if it were",
        };
        let message = format!("is not {}; {effect}", kind.api_version());
        report.error(&Path::ROOT.key("apiVersion"), message);
    }
    Converted::Object(match kind {
        Kind::NetworkPolicy => {
            let key = PolicyKey::new(&namespace, &name);
            let policy = if version_known {
                policy::policy(key.clone(), &root, report)
            } else {
                policy::closed(key.clone(), &root, report)
            };
            Change::NetworkPolicy(key, Some(Arc::new(policy)))
        }
        Kind::ClusterNetworkPolicy => {
            let policy = if version_known {
                cluster_policy::policy(&name, &root, report)
            } else {
                cluster_policy::closed(&name, &root, report)
            };
            Change::ClusterNetworkPolicy(name.as_str().into(), Some(Arc::new(policy)))
        }
        Kind::ClusterDefaultNetworkPolicy => {
            let policy = if version_known {
                default_policy::policy(&name, &root, report)
            } else {
                default_policy::closed(&name, &root)
            };
            Change::ClusterDefaultNetworkPolicy(name.as_str().into(), Some(Arc::new(policy)))
        }
        Kind::Pod => {
            let key = PodKey::new(&namespace, &name);
            Change::Pod(key.clone(), Some(Arc::new(pod::pod(key, &root, report))))
        }
        Kind::Namespace => {
            let namespace = pod::namespace(&name, &root, report);
            Change::Namespace(name.as_str().into(), Some(namespace))
        }
        Kind::Node => Change::Node(name.as_str().into(), Some(pod::node(&root, report))),
    })
}

/// Namespace and name; `None` after a report when they cannot be told.
fn names_of(
    is_namespaced: bool,
    root: &Field<'_>,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Option<(String, String)> {
    let unusable = "nothing of the object is in force";
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
    let namespace = match metadata.get("namespace").filter(|_| is_namespaced) {
        None => default_namespace,
        Some(field) => match field.text(report, unusable)? {
            "" => default_namespace,
            namespace => namespace,
        },
    };
    Some((namespace.to_owned(), name.to_owned()))
}
