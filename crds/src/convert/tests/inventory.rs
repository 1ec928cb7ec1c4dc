//! Objects that create pods, own pods, or lead connections to pods.

use policy_engine::model::Change;
use policy_engine::object::Kind;

use crate::convert::inventory::{Item, item};
use crate::convert::service::TargetPort;
use crate::convert::workload::Owner;
use crate::manifest::Manifest;

/// The one object of `text`, without any diagnostic.
fn read(text: &str) -> Item {
    let manifest = Manifest::parse("test.yaml", text);
    assert_eq!(manifest.diagnostics, []);
    let [document] = manifest.documents.as_slice() else { panic!("{text}: one document") };
    let (item, diagnostics) = item(document.value(), Some(document), "here");
    assert_eq!(diagnostics, [], "{text}");
    item
}

#[test]
fn every_kind_of_workload_stands_for_the_pods_of_its_template() {
    let template = "{metadata: {labels: {app: a}}, spec: {containers: \
                    [{ports: [{name: web, containerPort: 80}]}]}}";
    for (kind, group) in [
        ("Deployment", "apps/v1"),
        ("StatefulSet", "apps/v1"),
        ("DaemonSet", "apps/v1"),
        ("ReplicaSet", "apps/v1"),
        ("ReplicationController", "v1"),
        ("Job", "batch/v1"),
        ("CronJob", "batch/v1"),
    ] {
        let spec = match kind {
            "CronJob" => format!("{{jobTemplate: {{spec: {{template: {template}}}}}}}"),
            _ => format!("{{template: {template}}}"),
        };
        let head = format!("{{apiVersion: {group}, kind: {kind}, metadata: {{name: w}}, ");
        let Item::Workload(workload) = read(&format!("{head}spec: {spec}}}")) else {
            panic!("{kind} is a workload");
        };
        assert_eq!(workload.kind.as_str(), kind);
        assert_eq!(workload.template.key.to_string(), "here/w", "the default namespace");
        assert_eq!(workload.template.labels.get("app").map(AsRef::as_ref), Some("a"), "{kind}");
        assert_eq!(workload.template.ports.len(), 1, "{kind}");
    }
}

#[test]
fn another_groups_kind_of_the_same_name_is_no_workload() {
    let item = read("{apiVersion: batch.volcano.sh/v1alpha1, kind: Job, metadata: {name: j}}");
    assert!(matches!(item, Item::Foreign { .. }), "{item:?}");
}

#[test]
fn a_pod_and_a_workload_know_what_controls_them() {
    let owners = "ownerReferences: [{kind: Other, name: x}, \
                  {kind: ReplicaSet, name: rs, controller: true}]";
    let owner = Some(Owner { kind: "ReplicaSet".to_owned(), name: "rs".into() });
    let pod = read(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, {owners}}}}}"));
    assert!(matches!(pod, Item::Pod(_, found, _) if found == owner));
    let job = format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: j, {owners}}}, \
         spec: {{parallelism: 3, template: {{}}}}, \
         status: {{conditions: [{{type: Complete, status: \"True\"}}]}}}}"
    );
    let Item::Workload(job) = read(&job) else { panic!("a Job is a workload") };
    assert_eq!((job.kind, job.owner, job.replicas), (Kind::Job, owner, Some(3)));
    assert!(job.finished, "it makes no more pods");
}

#[test]
fn a_service_leads_to_ports_by_number_and_name() {
    let Item::Service(service) = read(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: \
         {app: a}, clusterIP: 10.9.0.1, ports: [{port: 80}, {port: 81, targetPort: 8081}, \
         {name: dns, port: 53, protocol: UDP, targetPort: dns}]}}",
    ) else {
        panic!("a Service");
    };
    let targets: Vec<TargetPort> = service.ports.into_iter().map(|port| port.target).collect();
    let wanted =
        [TargetPort::Number(80), TargetPort::Number(8081), TargetPort::Named("dns".into())];
    assert_eq!(targets, wanted);
    assert_eq!(service.addresses, ["10.9.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(service.selector.is_some());
}

#[test]
fn objects_that_policies_see_are_changes_as_ever() {
    let item = read("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
    assert!(matches!(item, Item::Object(Change::Namespace(..))), "{item:?}");
}

#[test]
fn a_missing_template_is_reported_with_its_place() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 1\n";
    let manifest = Manifest::parse("d.yaml", text);
    let document = &manifest.documents[0];
    let (_, diagnostics) = item(document.value(), Some(document), "here");
    let said: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    let wanted = "d.yaml:4:1: error: Deployment here/d: spec.template: is missing; its pods \
                  count as without labels and ports";
    assert_eq!(said, [wanted]);
}
