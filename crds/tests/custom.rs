//! Pods of objects of other APIs.

#![allow(clippy::panic)] // all of it is test code

use portcullis_crds::convert::inventory::{Item, item};
use portcullis_crds::lean;
use portcullis_crds::manifest::Manifest;

/// The pods of an object: namespace and name, labels, ports.
fn pods(text: &str) -> Option<Vec<String>> {
    let manifest = Manifest::parse("test.yaml", text);
    let [document] = manifest.documents.as_slice() else { panic!("{text}: one document") };
    let (item, diagnostics) = item(document.value(), Some(document), "here");
    assert_eq!(diagnostics, [], "{text}");
    let custom = match item {
        Item::Custom(custom) => custom,
        Item::Foreign { .. } => return None,
        other => panic!("{other:?}"),
    };
    let pod = |pod: &policy_engine::model::Pod| {
        let labels = pod.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels = labels.collect::<Vec<_>>().join(",");
        let ports = pod.ports.iter().map(|port| format!(" {}={}", port.name, port.number));
        format!("{} {labels}{}", pod.key, ports.collect::<String>())
    };
    Some(custom.pods.iter().map(pod).collect())
}

/// The first pod of an object.
#[track_caller]
fn check(text: &str, expected: &str) {
    let found = pods(text);
    assert_eq!(found.as_deref().and_then(|pods| pods.first()).map(String::as_str), Some(expected));
    let manifest = Manifest::parse("test.yaml", text);
    let kept = lean::snapshot(manifest.documents[0].value()).expect("a snapshot has it");
    assert_eq!(pods(&kept.to_string()), found, "a snapshot answers the same");
}

const TEMPLATE: &str = "{metadata: {labels: {app: a}}, spec: {containers: [{name: c, env: [{name: \
                        SECRET, value: x}], ports: [{name: http, containerPort: 80}]}]}}";

#[test]
fn a_template_at_a_usual_path_stands_for_pods() {
    let object =
        |head: &str, spec: &str| format!("{{{head}, metadata: {{name: w}}, spec: {spec}}}");
    let rollout = object(
        "apiVersion: argoproj.io/v1alpha1, kind: Rollout",
        &format!("{{template: {TEMPLATE}}}"),
    );
    check(&rollout, "here/rollout/w#1 app=a http=80");
    assert_eq!(pods(&rollout).map(|pods| pods.len()), Some(2), "they may connect to each other");
    check(
        &object(
            "apiVersion: serving.knative.dev/v1, kind: Service",
            &format!("{{template: {TEMPLATE}}}"),
        ),
        "here/ksvc/w#1 app=a http=80",
    );
    check(
        &object("apiVersion: x.io/v1, kind: Kibana", &format!("{{podTemplate: {TEMPLATE}}}")),
        "here/kibana/w#1 app=a http=80",
    );
    check(
        &object(
            "apiVersion: x.io/v1, kind: Nightly",
            &format!("{{jobTemplate: {{spec: {{template: {TEMPLATE}}}}}}}"),
        ),
        "here/nightly/w#1 app=a http=80",
    );
    check(
        &object(
            "apiVersion: core.strimzi.io/v1beta2, kind: StrimziPodSet",
            &format!("{{pods: [{TEMPLATE}, {TEMPLATE}, {TEMPLATE}]}}"),
        ),
        "here/strimzipodset/w#1 app=a http=80",
    );
}

#[test]
fn pods_of_the_prometheus_operator_have_its_labels_and_ports() {
    check(
        "{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: k8s, namespace: m}, \
         spec: {podMetadata: {labels: {team: sre}}}}",
        "m/prometheus/k8s#1 app.kubernetes.io/instance=k8s,\
         app.kubernetes.io/managed-by=prometheus-operator,app.kubernetes.io/name=prometheus,\
         operator.prometheus.io/name=k8s,operator.prometheus.io/shard=0,prometheus=k8s,team=sre \
         reloader-web=8080 web=9090",
    );
    check(
        "{apiVersion: monitoring.coreos.com/v1, kind: Alertmanager, metadata: {name: main, namespace: \
         m}}",
        "m/alertmanager/main#1 alertmanager=main,app.kubernetes.io/instance=main,\
         app.kubernetes.io/managed-by=prometheus-operator,app.kubernetes.io/name=alertmanager \
         mesh-tcp=9094 mesh-udp=9094 reloader-web=8080 web=9093",
    );
}

#[test]
fn other_objects_create_no_pods() {
    for text in [
        "{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}}",
        "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: a}, spec: {workloadRef: \
         {kind: Deployment, name: b}}}",
        "{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, metadata: {name: a}, spec: \
         {template: {metadata: {}, spec: {project: default}}}}",
        "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {spec: {containers: []}}}",
        "{apiVersion: x.io/v1, kind: A, metadata: {}, spec: {template: {spec: {containers: []}}}}",
    ] {
        assert_eq!(pods(text), None, "{text}");
    }
}
