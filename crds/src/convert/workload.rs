//! Objects that create pods, and owners of objects.

use policy_engine::addresses::Addresses;
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use serde_json::Value;

use super::pod::pod;
use crate::decode::{Field, wanted};
use crate::report::Report;

/// The object that controls another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    /// Its `kind`.
    pub kind: String,
    /// Its name, in the same namespace.
    pub name: Str,
}

/// An object that creates pods, and the pod that it creates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// The kind of the object.
    pub kind: Kind,
    /// A pod from the template: without an address, with the name of the workload.
    pub template: Pod,
    /// The number of pods; `None` when it depends on the nodes or on time.
    pub replicas: Option<i64>,
    /// The owner of the workload: the Deployment of a ReplicaSet, the CronJob of a Job.
    pub owner: Option<Owner>,
    /// Whether it creates no more pods, because it is a finished Job.
    pub finished: bool,
    /// The ServiceAccount whose token its pods have; `None` if they have none.
    pub account: Option<Str>,
}

/// The workload `key` as written at `root`.
pub(super) fn workload(
    kind: Kind,
    key: PodKey,
    root: &Field<'_>,
    report: &mut Report<'_>,
) -> Workload {
    let value = root.value;
    let spec: &[&str] = match kind {
        Kind::CronJob => &["spec", "jobTemplate", "spec", "template"],
        _ => &["spec", "template"],
    };
    let template_at = spec.iter().try_fold(value, |at, key| at.get(key));
    let pod_spec = template_at.and_then(|template| template.get("spec"));
    let replicas = match kind {
        Kind::DaemonSet | Kind::CronJob => None,
        Kind::Job => number(value, "/spec/parallelism"),
        _ => number(value, "/spec/replicas"),
    };
    Workload {
        kind,
        template: template(key, root, spec, report),
        replicas: match kind {
            Kind::DaemonSet | Kind::CronJob => None,
            _ => Some(replicas.unwrap_or(1)),
        },
        owner: owner(value),
        account: account(pod_spec),
        finished: kind == Kind::Job && is_done(value),
    }
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// Its name.
    pub object: ObjectRef,
    /// The namespace and name of each ServiceAccount among its subjects.
    pub accounts: Vec<(Str, Str)>,
}

/// The binding as written in `value`.
pub(super) fn binding(object: ObjectRef, value: &Value) -> Binding {
    let subjects = value.get("subjects").and_then(Value::as_array).into_iter().flatten();
    let account = |subject: &Value| {
        let text = |key: &str| subject.get(key).and_then(Value::as_str);
        let namespace = text("namespace").map_or_else(|| object.namespace.clone(), Str::from);
        (text("kind") == Some("ServiceAccount")).then_some(())?;
        Some((namespace, text("name")?.into()))
    };
    let accounts = subjects.filter_map(account).collect();
    Binding { object, accounts }
}

/// The ServiceAccount whose token pods with this spec have; `None` if they have none.
pub(super) fn account(spec: Option<&Value>) -> Option<Str> {
    let spec = spec?;
    if spec.get("automountServiceAccountToken") == Some(&Value::Bool(false)) {
        return None;
    }
    let name = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount"));
    let name = name.and_then(Value::as_str).filter(|name| !name.is_empty());
    Some(name.unwrap_or("default").into())
}

/// The controller among an object's `ownerReferences`.
pub(super) fn owner(value: &Value) -> Option<Owner> {
    let references = value.pointer("/metadata/ownerReferences")?.as_array()?;
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let owner = references.iter().find(controls)?;
    let text = |key| owner.get(key).and_then(Value::as_str);
    Some(Owner { kind: text("kind")?.to_owned(), name: text("name")?.into() })
}

fn template(key: PodKey, here: &Field<'_>, way: &[&str], report: &mut Report<'_>) -> Pod {
    if let Some((step, rest)) = way.split_first() {
        return match here.get(step) {
            Some(field) if field.value.is_object() => template(key, &field, rest, report),
            Some(field) => {
                let found = wanted("a mapping", field.value);
                report.error(&field.path, format!("{found}; its pods count as without labels"));
                empty(key, report)
            }
            None => {
                let effect = "is missing; its pods count as without labels and ports";
                report.error(&here.path.key(step), effect);
                empty(key, report)
            }
        };
    }
    // No pod runs yet, even if a hand-written template has a status.
    Pod { addresses: Addresses::default(), node: None, ..pod(key, here, report) }
}

fn empty(key: PodKey, report: &mut Report<'_>) -> Pod {
    pod(key, &Field::root(&Value::Null), report)
}

fn number(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

fn is_done(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let text = |key| condition.get(key).and_then(Value::as_str);
        matches!(text("type"), Some("Complete" | "Failed")) && text("status") == Some("True")
    })
}
