//! Pods of objects of other APIs: the controllers of these objects create the pods.
//!
//! A pod template is read at the paths where many APIs have one. The objects of the Prometheus
//! operator have none, so the labels and ports that this operator gives its pods are listed here.

use policy_engine::addresses::Addresses;
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use serde_json::{Map, Value, json};

use super::pod::pod;
use super::workload::{Owner, account};
use crate::decode::Field;
use crate::diagnostic::About;
use crate::report::Report;

/// Where objects have a pod template, such as Rollouts of Argo and Services of Knative.
const TEMPLATES: [&[&str]; 3] =
    [&["spec", "template"], &["spec", "podTemplate"], &["spec", "jobTemplate", "spec", "template"]];

/// Where objects have a list of whole pods, as those of Strimzi do.
const PODS: [&str; 2] = ["spec", "pods"];

/// Whether a replica can connect to another one is a question too.
const REPLICAS: usize = 2;

/// The pods of an object of another API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Custom {
    /// The object, as the owner of the pods.
    pub owner: Owner,
    /// The pods: without addresses, on no node, named `kind/NAME#1` and so on.
    pub pods: Vec<Pod>,
    /// The ServiceAccount whose token the pods have; `None` if they have none.
    pub account: Option<Str>,
}

/// Whether the name of a pod is one that stands for a pod to come: no object has such a name.
#[must_use]
pub fn is_to_come(pod: &str) -> bool {
    pod.contains('/')
}

/// Whether the name of a pod to come is the first one of its object.
#[must_use]
pub fn is_first(pod: &str) -> bool {
    pod.ends_with("#1")
}

/// Whether an object of another API creates pods.
#[must_use]
pub fn creates_pods(value: &Value) -> bool {
    custom(value, "", &mut Report::new(None)).is_some()
}

/// The pods that are assumed to be in a namespace, with these labels.
///
/// # Errors
/// When the labels are not valid.
pub fn assumed(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<Custom, String> {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
    let labels: Map<_, _> = labels.collect();
    let template = json!({"metadata": {"labels": labels}});
    let owner = Owner { kind: "Assumed".to_owned(), name: name.into() };
    let mut report = Report::new(None);
    let pods = copies(namespace, &owner, &Field::root(&template), &mut report);
    match report.finish().first() {
        Some(problem) => Err(problem.message.clone()),
        None => Ok(Custom { owner, pods, account: None }),
    }
}

/// The pods of an object of another API; `None` if it creates none.
pub(super) fn custom(
    value: &Value,
    default_namespace: &str,
    report: &mut Report<'_>,
) -> Option<Custom> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let namespace = text("/metadata/namespace").filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or(default_namespace);
    let group = text("/apiVersion")?.split_once('/')?.0;
    let kind = match (group, text("/kind")?) {
        // The short name, because Services of Kubernetes have the same kind.
        ("serving.knative.dev", "Service") => "KSvc",
        (_, kind) => kind,
    };
    let owner = Owner { kind: kind.to_owned(), name: text("/metadata/name")?.into() };
    let root = Field::root(value);
    report.about = About::Other(format!("{} {}", text("/kind")?, owner.name));
    if let Some(template) = of_prometheus_operator(group, &owner, value) {
        let account = account(template.get("spec"));
        let pods = copies(namespace, &owner, &Field::root(&template), &mut Report::new(None));
        return Some(Custom { owner, pods, account });
    }
    for way in TEMPLATES {
        let found = below(&root, way, &mut |template| {
            is_template(template.value).then(|| {
                let account = account(template.value.get("spec"));
                (copies(namespace, &owner, template, report), account)
            })
        });
        if let Some((pods, account)) = found {
            return Some(Custom { owner, pods, account });
        }
    }
    let (pods, account) = below(&root, &PODS, &mut |list| {
        let items = list.value.as_array()?.iter().enumerate();
        let items = items.map(|(at, value)| Field { path: list.path.index(at), value });
        let templates: Vec<_> = items.filter(|item| is_template(item.value)).collect();
        let account = account(templates.first()?.value.get("spec"));
        let pods = templates
            .iter()
            .zip(1..)
            .map(|(template, number)| to_come(namespace, &owner, number, template, report));
        Some((pods.collect(), account))
    })?;
    Some(Custom { owner, pods, account })
}

fn is_template(value: &Value) -> bool {
    value.pointer("/spec/containers").is_some_and(Value::is_array)
}

/// What `read` returns for the field below `here`, if there is one.
fn below<T>(
    here: &Field<'_>,
    way: &[&str],
    read: &mut dyn FnMut(&Field<'_>) -> Option<T>,
) -> Option<T> {
    match way.split_first() {
        Some((step, rest)) => below(&here.get(step)?, rest, read),
        None => read(here),
    }
}

fn copies(
    namespace: &str,
    owner: &Owner,
    template: &Field<'_>,
    report: &mut Report<'_>,
) -> Vec<Pod> {
    let first = to_come(namespace, owner, 1, template, report);
    let key = |number| PodKey::new(namespace, &name(owner, number));
    (1..=REPLICAS).map(|number| Pod { key: key(number), ..first.clone() }).collect()
}

fn to_come(
    namespace: &str,
    owner: &Owner,
    number: usize,
    template: &Field<'_>,
    report: &mut Report<'_>,
) -> Pod {
    let key = PodKey::new(namespace, &name(owner, number));
    Pod { addresses: Addresses::default(), node: None, ..pod(key, template, report) }
}

fn name(owner: &Owner, number: usize) -> String {
    format!("{}/{}#{number}", owner.kind.to_lowercase(), owner.name)
}

/// The pod template that the Prometheus operator makes of an object.
fn of_prometheus_operator(group: &str, owner: &Owner, object: &Value) -> Option<Value> {
    let (label, app, web, others) = match (group, &*owner.kind) {
        ("monitoring.coreos.com", "Prometheus") => ("prometheus", "prometheus", 9090, json!([])),
        ("monitoring.coreos.com", "PrometheusAgent") => {
            ("app.kubernetes.io/instance", "prometheus-agent", 9090, json!([]))
        }
        ("monitoring.coreos.com", "Alertmanager") => {
            let mesh = json!([{"name": "mesh-tcp", "containerPort": 9094},
                {"name": "mesh-udp", "containerPort": 9094, "protocol": "UDP"}]);
            ("alertmanager", "alertmanager", 9093, mesh)
        }
        ("monitoring.coreos.com", "ThanosRuler") => {
            let grpc = json!([{"name": "grpc", "containerPort": 10901}]);
            ("thanos-ruler", "thanos-ruler", 10902, grpc)
        }
        _ => return None,
    };
    let labels = object.pointer("/spec/podMetadata/labels").and_then(Value::as_object);
    let mut labels = labels.cloned().unwrap_or_default();
    for (key, value) in [
        ("app.kubernetes.io/managed-by", "prometheus-operator"),
        ("app.kubernetes.io/name", app),
        ("app.kubernetes.io/instance", &*owner.name),
        (label, &*owner.name),
    ] {
        labels.insert(key.to_owned(), value.into());
    }
    if app.starts_with("prometheus") {
        labels.insert("operator.prometheus.io/name".to_owned(), (&*owner.name).into());
        labels.insert("operator.prometheus.io/shard".to_owned(), "0".into());
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let web_name = text("/spec/portName").unwrap_or("web");
    Some(json!({
        "metadata": {"labels": labels},
        "spec": {
            "serviceAccountName": text("/spec/serviceAccountName"),
            "containers": [
                {"ports": [{"name": web_name, "containerPort": web}]},
                {"ports": others},
                {"ports": [{"name": "reloader-web", "containerPort": 8080}]},
            ],
        },
    }))
}
