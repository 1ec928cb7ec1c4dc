//! Objects for questions about a cluster. Besides the objects of policies, these are the owners of
//! pods, the pods that a workload would run, and the pods and ports of Services.

use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use serde_json::Value;

use super::custom::{Custom, custom};
use super::frontend::{Endpoints, Frontend, endpoints, frontend};
use super::service::{Service, service};
use super::workload::{Binding, Owner, Workload, account, binding, owner, workload};
use super::{Converted, UnknownVersion, Version, is_read, name_of, version};
use crate::decode::Field;
use crate::diagnostic::Diagnostic;
use crate::manifest::Document;
use crate::path::Path;
use crate::report::Report;

/// The role of an object in questions about a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A namespace, a node or a policy; never a pod.
    Object(Change),
    /// A pod, the object that controls it, and the ServiceAccount whose token it has.
    Pod(Arc<Pod>, Option<Owner>, Option<Str>),
    /// An object that creates pods.
    Workload(Workload),
    /// An object of another API that creates pods.
    Custom(Custom),
    /// A Service.
    Service(Service),
    /// Addresses of a Service that selects no pods.
    Endpoints(Endpoints),
    /// An object that leads connections to Services.
    Frontend(Frontend),
    /// An object that gives permissions in the API to ServiceAccounts.
    Binding(Binding),
    /// An object of a kind that no question depends on.
    Foreign {
        /// Its `apiVersion`, empty when it has none.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A policy in a version that is not known: it may mean anything.
    UnknownVersion(UnknownVersion),
    /// An object whose kind or name cannot be read.
    Unusable,
}

/// Reads one object, of a file (then with the `document` that holds it) or of an API server.
///
/// `default_namespace` is the namespace of an object without one. Diagnostics are those of
/// [`super::document`].
#[must_use]
pub fn item(
    value: &Value,
    document: Option<&Document>,
    default_namespace: &str,
) -> (Item, Vec<Diagnostic>) {
    let mut report = Report::new(document);
    let api_version = value.get("apiVersion").and_then(Value::as_str);
    let kind = value.get("kind").and_then(Value::as_str).and_then(Kind::parse);
    // The kind of a workload or a Service, unless the object is of another group with such a kind.
    let kind = kind.filter(|kind| !is_read(*kind));
    // A version that is not known matters only for policies, workloads and Services.
    let counts = |(kind, version): &(Kind, Version)| {
        kind.creates_pods() || *kind == Kind::Service || matches!(version, Version::Known)
    };
    let known = kind.map(|kind| (kind, version(kind, api_version))).filter(counts);
    if let Some((kind, version @ (Version::Known | Version::Unknown))) = known {
        let root = Field::root(value);
        let Some(object) = name_of(kind, &root, default_namespace, &mut report) else {
            return (Item::Unusable, report.finish());
        };
        if matches!(version, Version::Unknown) {
            let message = format!("is not {}; it is read as if it were", kind.api_version());
            report.error(&Path::ROOT.key("apiVersion"), message);
        }
        let ObjectRef { namespace, name, .. } = object;
        let item = match kind {
            Kind::Service => Item::Service(self::service(namespace, name, &root, &mut report)),
            Kind::Endpoints | Kind::EndpointSlice => {
                Item::Endpoints(endpoints(ObjectRef { kind, namespace, name }, value))
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                Item::Binding(binding(ObjectRef { kind, namespace, name }, value))
            }
            kind if kind.creates_pods() => {
                Item::Workload(workload(kind, PodKey::of(namespace, name), &root, &mut report))
            }
            kind => Item::Frontend(frontend(ObjectRef { kind, namespace, name }, value)),
        };
        return (item, report.finish());
    }
    let (converted, mut diagnostics) = super::convert(value, document, default_namespace);
    if let Converted::Foreign { .. } = converted
        && let Some(custom) = custom(value, default_namespace, &mut report)
    {
        diagnostics.extend(report.finish());
        return (Item::Custom(custom), diagnostics);
    }
    let item = match converted {
        Converted::Object(Change::Pod(_, Some(pod))) => {
            Item::Pod(pod, owner(value), account(value.get("spec")))
        }
        Converted::Object(change) => Item::Object(change),
        Converted::Foreign { api_version, kind } => Item::Foreign { api_version, kind },
        Converted::UnknownVersion(unknown) => Item::UnknownVersion(unknown),
        Converted::Unusable => Item::Unusable,
    };
    (item, diagnostics)
}
