//! Objects as questions about a cluster need them: besides what policies see, who owns a pod, what
//! a workload would run, and which pods and ports a Service stands for.

use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use serde_json::Value;

use super::service::{Service, service};
use super::workload::{Owner, Workload, WorkloadKind, owner, workload};
use super::{Converted, UnknownVersion, names_of};
use crate::decode::Field;
use crate::diagnostic::Diagnostic;
use crate::manifest::Document;
use crate::report::Report;

/// What an object is to a question about a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A namespace, a node or a policy; never a pod.
    Object(Change),
    /// A pod, and the object that controls it.
    Pod(Arc<Pod>, Option<Owner>),
    /// An object that makes pods.
    Workload(Workload),
    /// A Service.
    Service(Service),
    /// An object of a kind that no question is about.
    Foreign {
        /// Its `apiVersion`, empty when it has none.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A policy in a version that is not known: it may mean anything.
    UnknownVersion(UnknownVersion),
    /// What it is or what it is called cannot be told.
    Unusable,
}

/// Reads one object, of a file (then with the `document` that holds it) or of an API server.
///
/// `default_namespace` is where an object without a namespace is. What is wrong is told as
/// [`super::document`] tells it.
#[must_use]
pub fn item(
    value: &Value,
    document: Option<&Document>,
    default_namespace: &str,
) -> (Item, Vec<Diagnostic>) {
    let mut report = Report::new(String::new(), document);
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if let Some(kind) = WorkloadKind::parse(group, kind) {
        return (
            named(value, kind.as_str(), default_namespace, &mut report).map_or(
                Item::Unusable,
                |(namespace, name)| {
                    let key = PodKey { namespace, name };
                    Item::Workload(workload(kind, key, &Field::root(value), &mut report))
                },
            ),
            report.finish(),
        );
    }
    if (group, kind) == ("", "Service") {
        return (
            named(value, kind, default_namespace, &mut report).map_or(
                Item::Unusable,
                |(namespace, name)| {
                    Item::Service(service(namespace, name, &Field::root(value), &mut report))
                },
            ),
            report.finish(),
        );
    }
    let (converted, diagnostics) = super::convert(value, document, default_namespace);
    let item = match converted {
        Converted::Object(Change::Pod(_, Some(pod))) => Item::Pod(pod, owner(value)),
        Converted::Object(change) => Item::Object(change),
        Converted::Foreign { api_version, kind } => Item::Foreign { api_version, kind },
        Converted::UnknownVersion(unknown) => Item::UnknownVersion(unknown),
        Converted::Unusable => Item::Unusable,
    };
    (item, diagnostics)
}

fn named(
    value: &Value,
    kind: &str,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Option<(Str, Str)> {
    kind.clone_into(&mut report.object);
    let (namespace, name) = names_of(true, &Field::root(value), default_namespace, report)?;
    report.object = format!("{kind} {namespace}/{name}");
    Some((namespace.as_str().into(), name.as_str().into()))
}
