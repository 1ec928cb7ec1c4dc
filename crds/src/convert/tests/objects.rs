//! Kinds and versions; pods, namespaces and nodes.

use std::net::IpAddr;

use policy_engine::labels::Labels;
use policy_engine::model::{Life, NamedPort, Namespace, Pod};
use policy_engine::port::Protocol;

use super::super::*;
use super::convert;

#[test]
fn other_kinds_are_foreign_without_noise_and_a_namesake_with_a_warning() {
    for (version, kind, diagnostics) in [
        ("apps/v1", "Deployment", 0),
        ("projectcalico.org/v3", "NetworkPolicy", 1),
        ("longhorn.io/v1beta2", "Node", 0),
    ] {
        let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}");
        let (converted, found) = convert(&text);
        let (api_version, kind) = (version.to_owned(), kind.to_owned());
        assert_eq!(converted, Converted::Foreign { api_version, kind });
        assert_eq!(found.len(), diagnostics, "{found:?}");
    }
}

#[test]
fn an_object_without_a_name_or_kind_cannot_be_used() {
    for text in [
        "{apiVersion: v1, kind: Pod}",
        "{apiVersion: v1, kind: Pod, metadata: a}",
        "{apiVersion: v1, kind: Pod, metadata: {name: 5}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: ''}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: 5}}",
        "{apiVersion: v1, metadata: {name: a}}",
        "{kind: [Pod]}",
        "a",
        "[a]",
    ] {
        let (converted, diagnostics) = convert(text);
        assert_eq!((converted, diagnostics.len()), (Converted::Unusable, 1), "{text}");
    }
}

fn pod(rest: &str) -> (Pod, Vec<String>) {
    let (converted, found) = convert(&format!("{{apiVersion: v1, kind: Pod, {rest}}}"));
    let Converted::Object(Change::Pod(_, Some(pod))) = converted else { panic!("{converted:?}") };
    (pod.as_ref().clone(), found)
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

const WHOLE_POD: &str = "
metadata: {name: web, namespace: shop, labels: {app: web}, creationTimestamp: '1970-01-01T00:01:00Z'}
spec:
  nodeName: n1
  containers:
  - {name: a, image: i, ports: [{containerPort: 80, name: http}, {containerPort: 81}]}
  - {name: b, ports: [{containerPort: 8080, name: http}]}
  initContainers:
  - {name: c, ports: [{containerPort: 1, name: init}]}
  - {name: d, restartPolicy: Always, ports: [{containerPort: 53, name: dns, protocol: UDP}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
";

fn whole_pod() -> Pod {
    let port = |name: &str, protocol, number| NamedPort { name: name.into(), protocol, number };
    Pod {
        key: PodKey::new("shop", "web"),
        labels: [("app", "web")].into_iter().collect(),
        node: Some("n1".into()),
        addresses: addresses(&["10.0.0.1", "fd00::1"]).into(),
        ports: [
            port("dns", Protocol::Udp, 53),
            port("http", Protocol::Tcp, 80),
            port("http", Protocol::Tcp, 8080),
        ]
        .into(),
        host_network: false,
        life: Life::Active,
        created: 60,
        extra_source_ranges: Box::default(),
    }
}

#[test]
fn a_pod_is_what_policies_can_see_of_it() {
    let text = format!("apiVersion: v1\nkind: Pod{WHOLE_POD}");
    let (converted, diagnostics) = convert(&text);
    let pod = whole_pod();
    assert_eq!(converted, Converted::Object(Change::Pod(pod.key.clone(), Some(Arc::new(pod)))));
    assert_eq!(diagnostics, Vec::<String>::new());
}

#[test]
fn a_pods_life_follows_its_phase_and_its_deletion() {
    let deleted = "deletionTimestamp: '2026-01-01T00:00:00Z'";
    for (rest, expected) in [
        ("metadata: {name: a}".to_owned(), Life::Active),
        ("metadata: {name: a}, status: {phase: Pending}".to_owned(), Life::Active),
        ("metadata: {name: a}, status: {phase: Failed}".to_owned(), Life::Finished),
        (format!("metadata: {{name: a, {deleted}}}"), Life::Terminating),
        (format!("metadata: {{name: a, {deleted}}}, status: {{phase: Succeeded}}"), Life::Finished),
    ] {
        assert_eq!(pod(&rest).0.life, expected, "{rest}");
    }
}

#[test]
fn an_annotation_lists_the_networks_that_a_pod_also_sends_from() {
    let many = (0..20).map(|host| format!("192.0.2.{host}/32")).collect::<Vec<_>>().join(",");
    for (value, expected, diagnostics) in [
        ("'192.0.2.7/32, 2001:db8::/64,'", &["192.0.2.7/32", "2001:db8::/64"][..], 0),
        ("'192.0.2.7/24,192.0.2.0/24'", &["192.0.2.0/24"], 1),
        ("'192.0.2.7, 198.51.100.0/24'", &["198.51.100.0/24"], 1),
        ("''", &[], 0),
        ("null", &[], 0),
        ("5", &[], 1),
        ("[192.0.2.7/32]", &[], 1),
    ] {
        let annotations = format!("{{portcullis.dev/extra-source-ranges: {value}}}");
        let (pod, found) = pod(&format!("metadata: {{name: a, annotations: {annotations}}}"));
        let networks: Vec<String> =
            pod.extra_source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!((networks, found.len()), (texts(expected), diagnostics), "{value}: {found:?}");
        for found in found {
            assert!(found.contains("metadata.annotations[portcullis.dev/extra-source-ranges]"));
        }
    }
    let annotations = format!("{{portcullis.dev/extra-source-ranges: '{many}'}}");
    let (pod, found) = pod(&format!("metadata: {{name: a, annotations: {annotations}}}"));
    assert_eq!((pod.extra_source_ranges.len(), found.len()), (16, 1), "{found:?}");
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn addresses_fall_back_to_pod_ip_and_may_have_old_forms() {
    for (status, expected, diagnostics) in [
        ("podIP: 10.0.0.1", &["10.0.0.1"][..], 0),
        ("podIP: 10.0.0.1, podIPs: []", &["10.0.0.1"], 0),
        ("podIP: ''", &[], 0),
        ("podIPs: [{ip: 010.0.0.01}, {ip: '::ffff:10.0.0.2'}]", &["10.0.0.1", "10.0.0.2"], 2),
        ("podIPs: [{ip: a}, {ip: 10.0.0.2}, {ip: 10.0.0.2}]", &["10.0.0.2"], 1),
        ("podIPs: [{ip: 0.0.0.0}]", &[], 1),
        ("podIPs: 10.0.0.1", &[], 1),
    ] {
        let (pod, found) = pod(&format!("metadata: {{name: a}}, status: {{{status}}}"));
        assert_eq!(*pod.addresses, *addresses(expected), "{status}");
        assert_eq!(found.len(), diagnostics, "{status}: {found:?}");
    }
}

#[test]
fn a_broken_part_of_a_pod_costs_that_part_only() {
    let (broken, found) =
        pod("metadata: {name: a, labels: {app: db, tier: 5}, creationTimestamp: x}, \
         spec: {nodeName: n1, hostNetwork: 'yes', containers: [{ports: [{name: a b, \
         containerPort: 1}, {name: ok, containerPort: 2}, {name: x, containerPort: 0}, 7]}]}, \
         status: {podIP: 10.0.0.1}");
    assert_eq!(broken.labels, Labels::from_iter([("app", "db")]));
    assert_eq!(broken.node.as_deref(), Some("n1"));
    assert_eq!(*broken.addresses, *addresses(&["10.0.0.1"]));
    assert_eq!(broken.ports.len(), 1);
    assert!(!broken.host_network);
    assert_eq!(found.len(), 6, "{found:#?}");
    let (no_labels, found) = pod("metadata: {name: a, labels: [x]}, spec: 5, status: 6");
    assert!(no_labels.labels.is_empty());
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn a_host_network_pod_says_so() {
    assert!(pod("metadata: {name: a}, spec: {hostNetwork: true}").0.host_network);
}

#[test]
fn a_namespace_always_carries_its_own_name() {
    for (labels, expected, diagnostics) in [
        ("{}", &[][..], 0),
        ("{a: b}", &[("a", "b")], 0),
        ("{kubernetes.io/metadata.name: other}", &[], 1),
    ] {
        let (converted, found) = convert(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {labels}}}}}"
        ));
        let labels = expected
            .iter()
            .copied()
            .collect::<Labels>()
            .with("kubernetes.io/metadata.name", "shop");
        let expected = Change::Namespace("shop".into(), Some(Namespace { labels }));
        assert_eq!(converted, Converted::Object(expected));
        assert_eq!(found.len(), diagnostics);
    }
    assert_eq!(assumed_namespace("x").labels.get("kubernetes.io/metadata.name"), Some(&"x".into()));
}

#[test]
fn a_node_has_its_internal_and_external_addresses() {
    let (converted, found) = convert(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [\
         {type: InternalIP, address: 192.168.0.1}, {type: ExternalIP, address: 'fd00::1'}, \
         {type: Hostname, address: n1}, {type: InternalIP, address: x}]}}",
    );
    let Converted::Object(Change::Node(_, Some(node))) = converted else { panic!("{converted:?}") };
    assert_eq!(node.addresses, addresses(&["192.168.0.1", "fd00::1"]));
    assert_eq!(found.len(), 1, "{found:?}");
}
