//! The clauses of the specification that concern conversion, as sentences over one `check`.

mod cluster;
mod default;
mod inventory;
mod lean;
mod objects;
mod versions;

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::policy::{
    IpBlock, Namespaces, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule,
};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::{Operator, Requirement, Selector};

use super::*;
use crate::manifest::Manifest;

/// Converts the only document of `text`.
fn convert(text: &str) -> (Converted, Vec<String>) {
    let manifest = Manifest::parse("f", text);
    assert_eq!(manifest.diagnostics, [], "{text}");
    let (converted, diagnostics) = document(&manifest.documents[0]);
    (converted, diagnostics.iter().map(ToString::to_string).collect())
}

fn policy(spec: &str) -> (Policy, Vec<String>) {
    let head = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, ";
    let (converted, diagnostics) =
        convert(&format!("{head}metadata: {{namespace: shop, name: db}}, {spec}}}"));
    (policy_of(converted), diagnostics)
}

/// The policy that was converted; it has the name of the change.
fn policy_of(converted: Converted) -> Policy {
    let Converted::Object(Change::Policy(name, Some(policy))) = converted else {
        panic!("no policy: {converted:?}");
    };
    assert_eq!(name, policy.name);
    policy.as_ref().clone()
}

/// Checks the ingress rules of a policy, and how many diagnostics it has.
fn check(ingress: &str, expected: &[Rule], diagnostics: usize) {
    let (policy, found) = policy(&format!("spec: {{ingress: {ingress}}}"));
    assert_eq!(policy.isolating(Direction::Ingress), Some(expected), "{ingress}");
    assert_eq!(found.len(), diagnostics, "{ingress}: {found:#?}");
}

fn check_peer(peer: &str, expected: Peer, diagnostics: usize) {
    let rule = Rule { peers: Peers::Listed(vec![expected]), ports: Ports::Any };
    check(&format!("[{{from: [{peer}]}}]"), &[rule], diagnostics);
}

fn check_port(port: &str, expected: PortMatch, diagnostics: usize) {
    let rule = Rule { peers: Peers::Any, ports: Ports::Listed(vec![expected]) };
    check(&format!("[{{ports: [{port}]}}]"), &[rule], diagnostics);
}

/// Checks the selected pods, the isolated directions, and the number of diagnostics of a policy.
fn check_isolation(spec: &str, everything: bool, ingress: bool, egress: bool, diagnostics: usize) {
    let (policy, found) = policy(spec);
    assert_eq!(policy.subject.any_pods().is_everything(), everything, "{spec}: subject");
    assert_eq!(policy.isolates(Direction::Ingress), ingress, "{spec}: ingress");
    assert_eq!(policy.isolates(Direction::Egress), egress, "{spec}: egress");
    assert_eq!(found.len(), diagnostics, "{spec}: {found:#?}");
}

const ALLOW_ALL: Rule = Rule { peers: Peers::Any, ports: Ports::Any };

fn nothing() -> Rule {
    Rule { peers: Peers::Listed(vec![]), ports: Ports::Any }
}

fn own(pods: Selector) -> Peer {
    Peer::Pods(PodPeer { namespaces: Namespaces::Named("shop".into()), pods })
}

fn selected(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods(PodPeer { namespaces: Namespaces::Selected(namespaces), pods })
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
}

fn requirement(operator: Operator) -> Selector {
    Selector::from_iter([Requirement { key: "k".into(), operator }])
}

fn number(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch::Numbers(protocol, PortRange::new(first, last).unwrap())
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_with_egress_rules() {
    check_isolation("spec: {}", true, true, false, 0);
    check_isolation("spec: {policyTypes: []}", true, true, false, 0);
    check_isolation("spec: {policyTypes: null, egress: []}", true, true, false, 0);
    check_isolation("spec: {egress: [{}]}", true, true, true, 0);
    check_isolation("spec: {policyTypes: [Egress]}", true, false, true, 0);
    check_isolation("spec: {policyTypes: [Ingress], egress: [{}]}", true, true, false, 0);
    check_isolation("spec: {policyTypes: [Ingress, Egress]}", true, true, true, 0);
}

#[test]
fn a_missing_spec_selects_every_pod_for_ingress() {
    check_isolation("status: {}", true, true, false, 0);
    check_isolation("spec: null", true, true, false, 0);
}

#[test]
fn a_missing_pod_selector_selects_every_pod() {
    check_isolation("spec: {podSelector: null}", true, true, false, 0);
    check_isolation("spec: {podSelector: {}}", true, true, false, 0);
    check_isolation("spec: {podSelector: {matchLabels: {a: b}}}", false, true, false, 0);
}

#[test]
fn a_subject_that_cannot_be_understood_selects_every_pod() {
    for (subject, diagnostics) in [
        ("[a]", 1),
        ("a", 1),
        ("{matchLabels: {a: 5}}", 1),
        ("{matchLabels: [a]}", 1),
        ("{matchLabels: {a: b}, matchFields: []}", 1),
        ("{matchLabels: {'a b': c, d: 'e f'}}", 2),
        ("{matchExpressions: [{key: a, operator: Equals, values: [b]}]}", 1),
        ("{matchExpressions: [{key: a, operator: In}]}", 1),
        ("{matchLabels: {a: b, a: c}}", 1),
        ("{matchLabels: {a: b}}, podSelector: {matchLabels: {a: c}}", 1),
    ] {
        let spec = format!("spec: {{podSelector: {subject}}}");
        check_isolation(&spec, true, true, false, diagnostics);
    }
}

#[test]
fn what_may_have_been_meant_to_isolate_isolates_both_directions() {
    for (spec, diagnostics) in [
        ("spec: {policyTypes: [egress]}", 1),
        ("spec: {policyTypes: [Ingress, Both]}", 1),
        ("spec: {policyTypes: Egress}", 1),
        ("spec: {policyTypes: {Egress: true}}", 1),
        ("spec: {policyTypes: [null]}", 1),
        ("spec: {policyTypes: [Ingress], policyTypes: [Egress]}", 1),
        ("spec: {policytypes: [Egress]}", 1),
        ("spec: {}, egress: []", 1),
        ("spec: []", 1),
        ("spec: Ingress", 1),
        ("spec: {}, spec: {}", 1),
    ] {
        check_isolation(spec, true, true, true, diagnostics);
    }
    check_isolation("spec: {egress: {}}", true, true, true, 1);
    check_isolation("spec: {egress: [{}], egress: []}", true, true, true, 1);
    check_isolation("spec: {policyTypes: [Ingress], egresss: []}", true, true, false, 1);
}

#[test]
fn missing_or_empty_rules_allow_nothing_and_an_empty_rule_everything() {
    check("[]", &[], 0);
    check("null", &[], 0);
    check("[{}]", &[ALLOW_ALL], 0);
}

#[test]
fn empty_from_matches_every_source_and_empty_ports_every_port() {
    check("[{from: []}]", &[ALLOW_ALL], 0);
    check("[{from: null, ports: null}]", &[ALLOW_ALL], 0);
    check("[{ports: []}]", &[ALLOW_ALL], 0);
}

#[test]
fn a_rule_that_cannot_be_understood_matches_nothing() {
    check("[null]", &[nothing()], 1);
    check("[a, {}]", &[nothing(), ALLOW_ALL], 1);
    check("[{to: []}]", &[nothing()], 1);
    check("[{From: []}]", &[nothing()], 1);
    check("[{from: [{}], from: []}]", &[nothing()], 1);
    check("[{from: {podSelector: {}}}]", &[nothing()], 1);
    let port = Rule { peers: Peers::Any, ports: Ports::Listed(vec![PortMatch::Invalid]) };
    check("[{ports: {port: 80}}]", &[port], 1);
    check("{from: []}", &[], 1);
}

#[test]
fn a_pod_selector_alone_means_the_policys_namespace() {
    check_peer("{podSelector: {}}", own(Selector::everything()), 0);
    check_peer("{podSelector: {matchLabels: {a: b}}}", own(Selector::label("a", "b")), 0);
}

#[test]
fn a_namespace_selector_alone_means_all_pods_there_and_both_mean_and() {
    let (a, b) = (Selector::label("a", "x"), Selector::label("b", "v"));
    let namespaces = "namespaceSelector: {matchLabels: {a: x}}";
    check_peer(&format!("{{{namespaces}}}"), selected(a.clone(), Selector::everything()), 0);
    let both = format!("{{{namespaces}, podSelector: {{matchLabels: {{b: v}}}}}}");
    check_peer(&both, selected(a, b), 0);
    let all = selected(Selector::everything(), Selector::everything());
    check_peer("{namespaceSelector: {}, podSelector: null}", all, 0);
}

#[test]
fn a_peer_that_cannot_be_understood_matches_nothing() {
    for peer in [
        "{}",
        "null",
        "a",
        "{podSelector: null}",
        "{podSelector: a}",
        "{podSelector: {}, serviceSelector: {}}",
        "{podSelector: {matchLabels: {a: b, a: c}}}",
        "{podSelector: {}, podSelector: {}}",
        "{podSelector: {}, namespaceSelector: {matchLabels: {a: -b}}}",
        "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}",
        "{ipBlock: {}}",
        "{ipBlock: 10.0.0.0/8}",
        "{ipBlock: {cidr: 10.0.0.1}}",
        "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0]}}",
        "{ipBlock: {cidr: 10.0.0.0/8, except: 10.1.0.0/16}}",
        "{ipBlock: {cidr: '::ffff:10.0.0.0/95'}}",
    ] {
        check_peer(peer, Peer::Invalid, 1);
    }
}

#[test]
fn selectors_are_validated_by_operator() {
    let values = ["a".into()].into();
    for (expression, expected) in [
        ("operator: In, values: [a]", Some(Operator::In(values))),
        ("operator: NotIn, values: ['']", Some(Operator::NotIn(["".into()].into()))),
        ("operator: Exists", Some(Operator::Exists)),
        ("operator: DoesNotExist, values: []", Some(Operator::DoesNotExist)),
        ("operator: In", None),
        ("operator: NotIn, values: []", None),
        ("operator: Exists, values: [a]", None),
        ("operator: DoesNotExist, values: [a]", None),
        ("operator: Gt, values: ['1']", None),
        ("operator: in, values: [a]", None),
        ("values: [a]", None),
        ("operator: In, values: [5]", None),
        ("operator: In, values: ['a b']", None),
    ] {
        let peer = format!("{{podSelector: {{matchExpressions: [{{key: k, {expression}}}]}}}}");
        match expected {
            Some(operator) => check_peer(&peer, own(requirement(operator)), 0),
            None => check_peer(&peer, Peer::Invalid, 1),
        }
    }
}

#[test]
fn networks_in_old_forms_are_read_with_a_warning() {
    check_peer(
        "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}",
        block("10.0.0.0/8", &["10.1.0.0/16"]),
        0,
    );
    check_peer("{ipBlock: {cidr: 010.001.000.005/16}}", block("10.1.0.0/16", &[]), 1);
    check_peer("{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}", block("10.0.0.0/8", &[]), 1);
    check_peer(
        "{ipBlock: {cidr: 'fd00::/8', except: ['fd00::1/64']}}",
        block("fd00::/8", &["fd00::/64"]),
        1,
    );
}

#[test]
fn an_except_that_is_not_strictly_inside_is_kept_and_reported() {
    check_peer(
        "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}",
        block("10.0.0.0/8", &["11.0.0.0/8"]),
        1,
    );
    check_peer(
        "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}",
        block("10.0.0.0/8", &["10.0.0.0/8"]),
        1,
    );
    check_peer(
        "{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/8']}}",
        block("10.0.0.0/8", &["fd00::/8"]),
        1,
    );
}

#[test]
fn ports_are_defaulted_and_validated() {
    check_port("{}", number(Protocol::Tcp, 0, 65535), 0);
    check_port("{protocol: UDP}", number(Protocol::Udp, 0, 65535), 0);
    check_port("{protocol: null, port: 80}", number(Protocol::Tcp, 80, 80), 0);
    check_port("{port: 80, endPort: 80}", number(Protocol::Tcp, 80, 80), 0);
    check_port("{protocol: SCTP, port: 1, endPort: 65535}", number(Protocol::Sctp, 1, 65535), 0);
    check_port("{port: http}", PortMatch::Named(Protocol::Tcp, "http".into()), 0);
    check_port("{port: a-1, protocol: UDP}", PortMatch::Named(Protocol::Udp, "a-1".into()), 0);
}

#[test]
fn a_port_that_cannot_be_understood_matches_nothing() {
    for port in [
        "null",
        "80",
        "{port: 0}",
        "{port: 65536}",
        "{port: -1}",
        "{port: '80'}",
        "{port: 1.5}",
        "{port: [80]}",
        "{port: 99999999999}",
        "{port: HTTP}",
        "{port: a--b}",
        "{port: -a}",
        "{port: ''}",
        "{port: abcdefghijklmnop}",
        "{port: 1-2}",
        "{endPort: 80}",
        "{port: http, endPort: 80}",
        "{port: 80, endPort: 79}",
        "{port: 80, endPort: 65536}",
        "{port: 80, endPort: '90'}",
        "{protocol: tcp}",
        "{protocol: ''}",
        "{protocol: ICMP}",
        "{protocol: 6}",
        "{port: 80, name: http}",
        "{port: 80, port: 81}",
    ] {
        check_port(port, PortMatch::Invalid, 1);
    }
}
