//! ClusterNetworkPolicy.

use policy_engine::policy::{OrderedRule, Subject};
use policy_engine::tier::{Action, Mode, Tier};

use super::*;

const HEAD: &str = "tier: Baseline, priority: 7, subject: {namespaces: {}}";

fn object(metadata: &str, spec: &str) -> (Policy, Vec<String>) {
    let (converted, found) = convert(&format!(
        "{{apiVersion: policy.networking.k8s.io/v1beta1, kind: ClusterNetworkPolicy, \
         metadata: {{name: guard{metadata}}}, {spec}}}"
    ));
    let policy = policy_of(converted);
    assert_eq!(policy.name, ObjectRef::cluster(Kind::ClusterNetworkPolicy, "guard"));
    (policy, found)
}

fn cluster_policy(spec: &str) -> (Policy, Vec<String>) {
    object("", &format!("spec: {{{spec}}}"))
}

fn rule_of(rule: &str, direction: Direction) -> (OrderedRule, Vec<String>) {
    let name = direction.field();
    let (policy, found) = cluster_policy(&format!("{HEAD}, {name}: [{rule}]"));
    let [rule] = policy.ordered(direction) else { panic!("{rule}: {policy:?}") };
    (rule.clone(), found)
}

fn deny_everything() -> OrderedRule {
    OrderedRule { action: Action::Deny, rule: ALLOW_ALL }
}

/// Checks the value of `peer` in an egress rule, and its number of diagnostics.
fn check_peer(peer: &str, expected: &[Peer], diagnostics: usize) {
    let (rule, found) = rule_of(&format!("{{action: Accept, to: [{peer}]}}"), Direction::Egress);
    let peers = Peers::Listed(expected.to_vec());
    let expected = OrderedRule { action: Action::Accept, rule: Rule { peers, ports: Ports::Any } };
    assert_eq!(rule, expected, "{peer}");
    assert_eq!(found.len(), diagnostics, "{peer}: {found:#?}");
}

/// Checks the value of `protocol`, and its number of diagnostics.
fn check_protocol(protocol: &str, expected: &[PortMatch], diagnostics: usize) {
    let rule = format!("{{action: Accept, from: [{{namespaces: {{}}}}], protocols: [{protocol}]}}");
    let (rule, found) = rule_of(&rule, Direction::Ingress);
    assert_eq!(rule.rule.ports, Ports::Listed(expected.to_vec()), "{protocol}");
    assert_eq!(found.len(), diagnostics, "{protocol}: {found:#?}");
}

fn all() -> Peer {
    selected(Selector::everything(), Selector::everything())
}

#[test]
fn a_policy_has_a_tier_a_priority_and_rules_in_order() {
    let (policy, found) = cluster_policy(
        "tier: Admin, priority: 7, subject: {namespaces: {matchLabels: {a: b}}}, \
         ingress: [{action: Pass, from: [{namespaces: {}}]}, \
                   {name: last, action: Deny, from: [{namespaces: {}}]}]",
    );
    let rule = |action| {
        let peers = Peers::Listed(vec![all()]);
        OrderedRule { action, rule: Rule { peers, ports: Ports::Any } }
    };
    let namespaces = Some(Selector::label("a", "b"));
    let subject = Subject { namespaces, ..Subject::pods(Selector::everything()) };
    let ingress = vec![rule(Action::Pass), rule(Action::Deny)];
    let rules = PerDirection { ingress, egress: Vec::new() };
    let expected = Policy::cluster_network_policy("guard", (Tier::Admin, 7), subject, rules);
    assert_eq!((policy, found), (expected, vec![]));
}

#[test]
fn a_peer_is_pods_nodes_or_networks() {
    let (a, b) = (Selector::label("a", "x"), Selector::label("b", "v"));
    check_peer("{namespaces: {}}", &[all()], 0);
    check_peer(
        "{namespaces: {matchLabels: {a: x}}}",
        &[selected(a.clone(), Selector::everything())],
        0,
    );
    // A missing or empty namespaceSelector: all namespaces.
    let in_all = selected(Selector::everything(), b.clone());
    check_peer("{pods: {podSelector: {matchLabels: {b: v}}}}", std::slice::from_ref(&in_all), 0);
    check_peer("{pods: {podSelector: {matchLabels: {b: v}}, namespaceSelector: {}}}", &[in_all], 0);
    let both = "podSelector: {matchLabels: {b: v}}, namespaceSelector: {matchLabels: {a: x}}";
    check_peer(&format!("{{pods: {{{both}}}}}"), &[selected(a.clone(), b)], 0);
    check_peer("{nodes: {matchLabels: {a: x}}}", &[Peer::Nodes(a)], 0);
    let networks = [block("10.0.0.0/8", &[]), block("fd00::/8", &[])];
    check_peer("{networks: [10.0.0.0/8, 'fd00::/8']}", &networks, 0);
    check_peer("{networks: [010.1.0.0/16]}", &[block("10.1.0.0/16", &[])], 1);
    check_peer("{networks: [10.0.0.1, 10.0.0.0/8]}", &[Peer::Invalid, networks[0].clone()], 1);
}

#[test]
fn protocols_are_ports_of_one_protocol_or_a_name_under_all() {
    for (name, protocol) in
        [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)]
    {
        let port = format!("{{{name}: {{destinationPort: {{number: 80}}}}}}");
        check_protocol(&port, &[number(protocol, 80, 80)], 0);
        let range = format!("{{{name}: {{destinationPort: {{range: {{start: 1, end: 9}}}}}}}}");
        check_protocol(&range, &[number(protocol, 1, 9)], 0);
        let one = format!("{{{name}: {{destinationPort: {{range: {{start: 9, end: 9}}}}}}}}");
        check_protocol(&one, &[number(protocol, 9, 9)], 1);
    }
    let named = Protocol::ALL.map(|protocol| PortMatch::Named(protocol, "web".into()));
    check_protocol("{destinationNamedPort: web}", &named, 0);
}

const BAD_PEERS: [&str; 15] = [
    "{}",
    "null",
    "a",
    "{namespaces: {}, nodes: {}}",
    "{namespaces: {matchExpressions: [{key: a, operator: Gt}]}}",
    "{pods: {}}",
    "{pods: {namespaceSelector: {}}}",
    "{pods: {podSelector: {}, serviceSelector: {}}}",
    "{networks: []}",
    "{networks: [10.0.0.1]}",
    "{domainNames: [example.com]}",
    "{services: {}}",
    "{namespaces: {}, namespaces: {}}",
    "[{}, null, null, null, null]",
    "{pods: [null, {}]}",
];

const BAD_PROTOCOLS: [&str; 17] = [
    "{}",
    "null",
    "{tcp: {}}",
    "{tcp: {destinationPort: {}}}",
    "{tcp: {destinationPort: {number: 0}}}",
    "{tcp: {destinationPort: {number: 65536}}}",
    "{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}",
    "{tcp: {destinationPort: {range: {start: 2, end: 1}}}}",
    "{tcp: {destinationPort: {range: {start: 2}}}}",
    "{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}",
    "{destinationNamedPort: ''}",
    "{destinationNamedPort: '80'}",
    "{icmp: {}}",
    "[null, null, null, web]",
    "{tcp: [{number: 80}]}",
    "{tcp: {destinationPort: [80, null]}}",
    "{tcp: {destinationPort: {range: [80, 90]}}}",
];

#[test]
fn what_cannot_be_understood_of_an_accept_rule_matches_nothing() {
    for peer in BAD_PEERS {
        check_peer(peer, &[Peer::Invalid], 1);
    }
    for protocol in BAD_PROTOCOLS {
        check_protocol(protocol, &[PortMatch::Invalid], 1);
    }
    let peers = "from: [{namespaces: {}}]";
    for rule in [
        format!("action: Accept, {peers}, form: []"),
        format!("action: Accept, {peers}, {peers}"),
        "action: Accept".to_owned(),
        "action: Accept, from: []".to_owned(),
        "action: Accept, from: {}".to_owned(),
        format!("action: Accept, {peers}, protocols: []"),
        format!("action: Accept, {peers}, protocols: 5"),
    ] {
        let (got, found) = rule_of(&format!("{{{rule}}}"), Direction::Ingress);
        assert_eq!((got.action, found.len()), (Action::Accept, 1), "{rule}: {found:#?}");
        let no_peer = match &got.rule.peers {
            Peers::Any => false,
            Peers::Listed(peers) => peers.iter().all(|peer| *peer == Peer::Invalid),
        };
        let no_port = got.rule.ports == Ports::Listed(vec![PortMatch::Invalid]);
        assert!(no_peer || no_port, "{rule}: {got:?}");
    }
}

#[test]
fn a_deny_or_pass_rule_that_is_not_all_understood_denies_everything() {
    let good = "to: [{namespaces: {}}]";
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend(BAD_PEERS.map(|peer| format!("to: [{{namespaces: {{}}}}, {peer}]")));
    wrong.extend(BAD_PROTOCOLS.map(|bad| format!("{good}, protocols: [{bad}]")));
    wrong.extend([
        format!("{good}, form: []"),
        format!("{good}, {good}"),
        String::new(),
        "to: []".to_owned(),
        "to: 5".to_owned(),
        format!("{good}, protocols: []"),
        "to: [{networks: [10.0.0.0/8, x]}]".to_owned(),
    ]);
    for action in ["Deny", "Pass"] {
        for rule in &wrong {
            let written = format!("{{action: {action}, {rule}}}");
            let (got, found) = rule_of(&written, Direction::Egress);
            assert_eq!((got, found.len()), (deny_everything(), 1), "{written}: {found:#?}");
            assert!(found[0].contains("this rule denies everything"), "{written}: {found:#?}");
        }
    }
    for rule in ["null", "5", "[]"] {
        let (got, found) = rule_of(rule, Direction::Egress);
        assert_eq!((got, found.len()), (deny_everything(), 1), "{rule}: {found:#?}");
    }
}

#[test]
fn an_action_that_is_not_known_denies_what_the_rule_matches() {
    let (good, _) = rule_of("{action: Deny, to: [{nodes: {}}]}", Direction::Egress);
    for action in ["action: Allow,", "action: deny,", "action: 5,", ""] {
        let (got, found) =
            rule_of(&format!("{{{action} to: [{{nodes: {{}}}}]}}"), Direction::Egress);
        assert_eq!((&got, found.len()), (&good, 1), "{action}: {found:#?}");
        let (got, _) = rule_of(&format!("{{{action} to: [{{}}]}}"), Direction::Egress);
        assert_eq!(got, deny_everything(), "{action}");
    }
}

#[test]
fn ingress_has_no_nodes_networks_or_domains() {
    for peer in ["{nodes: {}}", "{networks: [10.0.0.0/8]}", "{domainNames: [a.example]}"] {
        let rule = |action| format!("{{action: {action}, from: [{peer}]}}");
        let (got, found) = rule_of(&rule("Accept"), Direction::Ingress);
        assert_eq!(got.rule.peers, Peers::Listed(vec![Peer::Invalid]), "{peer}");
        assert!(found[0].contains("for egress only"), "{found:#?}");
        assert_eq!(rule_of(&rule("Deny"), Direction::Ingress).0, deny_everything(), "{peer}");
    }
}

#[test]
fn a_port_by_name_of_networks_or_nodes_is_reported() {
    for (peer, diagnostics) in
        [("{nodes: {}}", 1), ("{networks: [10.0.0.0/8]}", 1), ("{namespaces: {}}", 0)]
    {
        let rule =
            format!("{{action: Deny, to: [{peer}], protocols: [{{destinationNamedPort: a}}]}}");
        let (got, found) = rule_of(&rule, Direction::Egress);
        assert_ne!(got, deny_everything(), "{peer}");
        assert_eq!(found.len(), diagnostics, "{peer}: {found:#?}");
    }
}

#[test]
fn a_subject_is_namespaces_or_pods_and_any_pod_where_it_cannot_be_understood() {
    let every = || Some(Selector::everything());
    let label = || Some(Selector::label("a", "b"));
    let bad = "{matchExpressions: [{key: a, operator: Gt}]}";
    for (subject, namespaces, pods, diagnostics) in [
        ("subject: {namespaces: {}}", every(), every(), 0),
        ("subject: {namespaces: {matchLabels: {a: b}}}", label(), every(), 0),
        ("subject: {pods: {podSelector: {matchLabels: {a: b}}}}", every(), label(), 0),
        (&format!("subject: {{namespaces: {bad}}}"), None, every(), 1),
        (
            &format!("subject: {{pods: {{podSelector: {bad}, namespaceSelector: {{}}}}}}"),
            every(),
            None,
            1,
        ),
        (
            &format!("subject: {{pods: {{podSelector: {{}}, namespaceSelector: {bad}}}}}"),
            None,
            every(),
            1,
        ),
        ("subject: {pods: {namespaceSelector: {matchLabels: {a: b}}}}", label(), None, 1),
        ("subject: {}", None, None, 1),
        ("subject: {namespaces: {}, pods: {podSelector: {}}}", None, None, 1),
        ("subject: {nodes: {}}", None, None, 1),
        ("subject: a", None, None, 1),
        ("subject: [{}, null]", None, None, 1),
        ("subject: null", None, None, 1),
        ("subject: {namespaces: {}}, subject: {namespaces: {}}", None, None, 1),
    ] {
        let (policy, found) = cluster_policy(&format!("tier: Admin, priority: 1, {subject}"));
        assert_eq!(policy.subject, Subject { namespaces, pods, spares_system: false }, "{subject}");
        assert_eq!(found.len(), diagnostics, "{subject}: {found:#?}");
    }
}

/// The place of an Accept is not known, so it must not override any policy.
#[test]
fn a_policy_of_no_known_place_comes_first_and_accepts_nothing() {
    let rules = "ingress: [{action: Accept, from: [{namespaces: {}}]}, \
                 {action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]";
    for place in [
        "priority: 1",
        "tier: NetworkPolicy, priority: 1",
        "tier: admin, priority: 1",
        "tier: 5, priority: 1",
        "tier: Baseline",
        "tier: Baseline, priority: '1'",
        "tier: Baseline, priority: 1001",
        "tier: Baseline, priority: -1",
        "tier: Baseline, priority: 99999999999",
        "tier: Baseline, priority: 1, priority: 2",
    ] {
        let (policy, found) =
            cluster_policy(&format!("{place}, subject: {{namespaces: {{}}}}, {rules}"));
        assert_eq!(found.len(), 1, "{place}: {found:#?}");
        assert_eq!((policy.tier, policy.priority()), (Tier::Admin, i32::MIN), "{place}");
        let ingress = policy.ordered(Direction::Ingress);
        let actions: Vec<Action> = ingress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Accept, Action::Deny, Action::Deny], "{place}");
        assert_eq!(ingress[0].rule.peers, Peers::Listed(vec![]), "{place}");
        assert_eq!(ingress[1].rule.peers, Peers::Listed(vec![all()]), "{place}");
    }
}

#[test]
fn a_spec_that_cannot_be_understood_denies_and_an_empty_one_does_nothing() {
    let deny = || vec![deny_everything()];
    let accept = "[{action: Accept, from: [{namespaces: {}}]}]";
    for (spec, ingress, egress) in [
        ("spec: 5", deny(), deny()),
        ("spec: {}, spec: {}", deny(), deny()),
        (&format!("spec: {{{HEAD}, ingress: 5}}"), deny(), vec![]),
        (&format!("spec: {{{HEAD}, ingress: {accept}, ingress: {accept}}}"), deny(), vec![]),
        (&format!("spec: {{{HEAD}, egres: []}}"), deny(), deny()),
        (&format!("spec: {{{HEAD}, ingress: [], egres: []}}"), vec![], deny()),
        (&format!("egress: [], spec: {{{HEAD}, ingress: []}}"), vec![], deny()),
        ("spec: {}", vec![], vec![]),
        ("status: {}", vec![], vec![]),
        (&format!("spec: {{{HEAD}, ingress: null, egress: []}}, status: {{}}"), vec![], vec![]),
    ] {
        let (policy, found) = object("", spec);
        let rules = PerDirection::new(|direction| policy.ordered(direction).to_vec());
        assert_eq!(rules, PerDirection { ingress, egress }, "{spec}: {found:#?}");
    }
}

/// A policy in audit is never enforced, in particular not as a wider policy.
#[test]
fn what_cannot_be_understood_at_all_stays_in_audit_where_it_is() {
    let audit = "annotations: {portcullis.dev/mode: audit}";
    for (version, spec) in [("v1beta1", "spec: 5"), ("v1alpha2", "spec: {}, spec: {}")] {
        let (converted, found) = convert(&format!(
            "{{apiVersion: policy.networking.k8s.io/{version}, kind: ClusterNetworkPolicy, \
             metadata: {{name: a, {audit}}}, {spec}}}"
        ));
        let policy = policy_of(converted);
        assert_eq!((policy.mode, found.len()), (Mode::Audit, 1), "{version} {spec}: {found:#?}");
        assert_eq!(policy.ordered(Direction::Ingress), [deny_everything()], "{version} {spec}");
    }
    for (version, spec) in [("v1", "spec: 5"), ("v1", "spec: {}, spec: {}")] {
        let (converted, found) = convert(&format!(
            "{{apiVersion: networking.k8s.io/{version}, kind: NetworkPolicy, \
             metadata: {{name: a, {audit}}}, {spec}}}"
        ));
        let policy = policy_of(converted);
        assert_eq!((policy.mode, found.len()), (Mode::Audit, 1), "{version} {spec}: {found:#?}");
        assert_eq!(Direction::BOTH.map(|d| policy.isolating(d)), [Some(&[][..]); 2]);
    }
}

/// Checks the annotation of a NetworkPolicy or ClusterNetworkPolicy, and its diagnostics.
#[test]
fn an_annotation_puts_a_policy_into_audit() {
    for (annotations, mode, diagnostics) in [
        ("{portcullis.dev/mode: audit}", Mode::Audit, 0),
        ("{portcullis.dev/mode: enforce, other: 5}", Mode::Enforce, 0),
        ("{}", Mode::Enforce, 0),
        ("null", Mode::Enforce, 0),
        ("{portcullis.dev/mode: Audit}", Mode::Enforce, 1),
        ("{portcullis.dev/mode: ''}", Mode::Enforce, 1),
        ("{portcullis.dev/mode: true}", Mode::Enforce, 1),
        ("{portcullis.dev/mode: audit, portcullis.dev/mode: enforce}", Mode::Enforce, 1),
        ("{portcullis.dev/mode: enforce, portcullis.dev/mode: audit}", Mode::Enforce, 1),
        ("5", Mode::Enforce, 1),
    ] {
        let metadata = format!(", annotations: {annotations}");
        let (policy, found) = object(&metadata, &format!("spec: {{{HEAD}}}"));
        assert_eq!((policy.mode, found.len()), (mode, diagnostics), "{annotations}: {found:#?}");
        let (converted, found) = convert(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{name: a{metadata}}}, spec: {{}}}}"
        ));
        let policy = policy_of(converted);
        assert_eq!((policy.mode, found.len()), (mode, diagnostics), "{annotations}: {found:#?}");
    }
}
