//! ClusterDefaultNetworkPolicy.

use policy_engine::policy::Subject;
use policy_engine::tier::Mode;

use super::*;

fn object(rest: &str) -> (Policy, Vec<String>) {
    let (converted, found) = convert(&format!(
        "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {{name: base}}, {rest}}}"
    ));
    let policy = policy_of(converted);
    assert_eq!(policy.name, ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, "base"));
    (policy, found)
}

fn default_policy(spec: &str) -> (Policy, Vec<String>) {
    object(&format!("spec: {{{spec}}}"))
}

fn own_pods(pods: Selector) -> Peer {
    Peer::Pods(PodPeer { namespaces: Namespaces::Own, pods })
}

fn check_default_peer(peer: &str, expected: Peer, diagnostics: usize) {
    let (policy, found) =
        default_policy(&format!("policyTypes: [Ingress], ingress: [{{from: [{peer}]}}]"));
    let rule = Rule { peers: Peers::Listed(vec![expected]), ports: Ports::Any };
    assert_eq!(policy.isolating(Direction::Ingress), Some(&[rule][..]), "{peer}");
    assert_eq!(found.len(), diagnostics, "{peer}: {found:#?}");
}

#[test]
fn a_default_without_more_isolates_every_pod_and_allows_dns() {
    let (policy, found) = default_policy("policyTypes: [Ingress, Egress]");
    let subject = Subject { spares_system: true, ..Subject::pods(Selector::everything()) };
    let rules = PerDirection::new(|_| Some(vec![]));
    let expected = Policy::cluster_default("base", subject, rules, true);
    assert_eq!((policy, found), (expected, vec![]));
}

#[test]
fn a_default_can_have_every_field() {
    let (policy, found) = default_policy(
        "policyTypes: [Egress], namespaceSelector: {matchLabels: {a: b}}, \
         podSelector: {matchLabels: {c: d}}, egress: [{}], allowDNS: false, \
         allowAPIServer: true, includeSystemNamespaces: true, mode: Audit",
    );
    let subject = Subject {
        namespaces: Some(Selector::label("a", "b")),
        pods: Some(Selector::label("c", "d")),
        spares_system: false,
    };
    let rules = PerDirection { ingress: None, egress: Some(vec![ALLOW_ALL]) };
    let expected = Policy::cluster_default("base", subject, rules, false);
    let expected = expected.with_api_server(Some(Arc::default()));
    let expected = Policy { mode: Mode::Audit, ..expected };
    assert_eq!((policy, found), (expected, vec![]));
}

#[test]
fn an_empty_spec_isolates_nothing_and_is_reported() {
    for rest in [
        "status: {}",
        "spec: null",
        "spec: {}",
        "spec: {policyTypes: []}",
        "spec: {policyTypes: null, ingress: [{}], allowDNS: false}",
        "spec: {mode: Audit}",
    ] {
        let (policy, found) = object(rest);
        assert_eq!(Direction::BOTH.map(|d| policy.isolating(d)), [None; 2], "{rest}");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("spec.policyTypes: lists no direction"), "{found:#?}");
    }
}

#[test]
fn policy_types_that_cannot_be_understood_isolate_both_directions() {
    for spec in [
        "policyTypes: 5",
        "policyTypes: [ingress]",
        "policyTypes: [Egress], policyTypes: [Egress]",
        "policyType: [Egress]",
        "PolicyTypes: [Ingress]",
    ] {
        let (policy, found) = default_policy(spec);
        assert_eq!(Direction::BOTH.map(|d| policy.isolating(d)), [Some(&[][..]); 2], "{spec}");
        assert_eq!(found.len(), 1, "{spec}: {found:#?}");
    }
}

#[test]
fn rules_of_a_direction_that_is_not_listed_are_reported() {
    for (spec, field) in [
        ("policyTypes: [Egress], ingress: [{}]", "spec.ingress"),
        ("policyTypes: [Ingress], egress: [{}]", "spec.egress"),
        ("policyTypes: [Ingress], allowDNS: true", "spec.allowDNS"),
        ("policyTypes: [Ingress], allowAPIServer: true", "spec.allowAPIServer"),
    ] {
        let (policy, found) = default_policy(spec);
        assert_eq!(policy.isolates(Direction::Ingress), !spec.contains("[Egress]"), "{spec}");
        assert_eq!(policy.isolates(Direction::Egress), spec.contains("[Egress]"), "{spec}");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(&format!("{field}: is without effect")), "{found:#?}");
    }
}

#[test]
fn peers_are_those_of_network_policy_in_the_namespace_of_each_pod() {
    let (a, b) = (Selector::label("a", "x"), Selector::label("b", "v"));
    check_default_peer("{sameNamespace: true}", own_pods(Selector::everything()), 0);
    check_default_peer("{podSelector: {}}", own_pods(Selector::everything()), 0);
    check_default_peer("{podSelector: {matchLabels: {a: x}}}", own_pods(a.clone()), 0);
    let both = "namespaceSelector: {matchLabels: {a: x}}, podSelector: {matchLabels: {b: v}}";
    check_default_peer(&format!("{{{both}, sameNamespace: null}}"), selected(a, b), 0);
    let cidr = "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}";
    check_default_peer(cidr, block("10.0.0.0/8", &["10.1.0.0/16"]), 0);
    for bad in [
        "{}",
        "null",
        "{sameNamespace: null}",
        "{sameNamespace: false}",
        "{sameNamespace: 'true'}",
        "{sameNamespace: true, podSelector: {}}",
        "{sameNamespace: true, namespaceSelector: {}}",
        "{sameNamespace: true, ipBlock: {cidr: 10.0.0.0/8}}",
        "{sameNamespace: true, sameNamespace: true}",
        "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}",
        "{ipBlock: {cidr: 10.0.0.1}}",
        "{podSelector: {}, own: true}",
        "[true, null, null, null]",
    ] {
        check_default_peer(bad, Peer::Invalid, 1);
    }
}

#[test]
fn network_policy_has_no_same_namespace() {
    super::check_peer("{sameNamespace: true}", Peer::Invalid, 1);
}

#[test]
fn a_subject_that_cannot_be_understood_may_be_any_pod() {
    let bad = "{matchExpressions: [{key: a, operator: Gt}]}";
    for (spec, namespaces, pods) in [
        (format!("namespaceSelector: {bad}"), false, true),
        (format!("podSelector: {bad}"), true, false),
        ("podSelector: 5".to_owned(), true, false),
        ("podSelector: {}, podSelector: {}".to_owned(), true, false),
        ("namespaceSelector: {}, namespaceSelector: {}".to_owned(), false, true),
    ] {
        let (policy, found) = default_policy(&format!("policyTypes: [Ingress], {spec}"));
        assert_eq!(policy.subject.namespaces.is_some(), namespaces, "{spec}");
        assert_eq!(policy.subject.pods.is_some(), pods, "{spec}");
        assert_eq!(found.len(), 1, "{spec}: {found:#?}");
    }
}

#[test]
fn switches_that_cannot_be_understood_are_closed_but_never_for_the_system() {
    for (spec, dns, system, mode) in [
        ("allowDNS: maybe", false, false, Mode::Enforce),
        ("allowDNS: true, allowDNS: true", false, false, Mode::Enforce),
        ("includeSystemNamespaces: maybe", true, false, Mode::Enforce),
        ("mode: audit", true, false, Mode::Enforce),
        ("mode: 5", true, false, Mode::Enforce),
        ("mode: Audit, mode: Audit", true, false, Mode::Enforce),
    ] {
        let (policy, found) = default_policy(&format!("policyTypes: [Egress], {spec}"));
        let spares = policy.subject.spares_system;
        let got = (policy.allows_dns(Direction::Egress), !spares, policy.mode);
        assert_eq!(got, (dns, system, mode), "{spec}");
        assert_eq!(found.len(), 1, "{spec}: {found:#?}");
    }
}

#[test]
fn a_default_that_cannot_be_understood_at_all_isolates_all_but_the_system() {
    let closed = |text: &str| {
        let (converted, found) = convert(text);
        let policy = policy_of(converted);
        let any = Subject { spares_system: true, ..Subject::unknown() };
        assert_eq!(policy.subject, any, "{text}");
        assert_eq!(Direction::BOTH.map(|d| policy.isolating(d)), [Some(&[][..]); 2], "{text}");
        assert!(!policy.allows_dns(Direction::Egress), "{text}");
        assert_eq!(found.len(), 1, "{found:#?}");
    };
    let kind = "kind: ClusterDefaultNetworkPolicy, metadata: {name: base}";
    let spec = "spec: {policyTypes: [Ingress], mode: Audit}";
    closed(&format!("{{apiVersion: portcullis.dev/v1alpha1, {kind}, spec: 5}}"));
    closed(&format!("{{apiVersion: portcullis.dev/v1alpha1, {kind}, {spec}, {spec}}}"));
}

#[test]
fn the_annotation_for_other_kinds_is_reported() {
    let (converted, found) = convert(
        "{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {name: base, annotations: {portcullis.dev/mode: audit}}, \
         spec: {policyTypes: [Ingress]}}",
    );
    let policy = policy_of(converted);
    assert_eq!((policy.mode, found.len()), (Mode::Enforce, 1), "{found:#?}");
}
