//! No input takes the agent down, and no mistake opens a policy.

use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::model::Change;
use policy_engine::policy::{OrderedRule, Peer, Peers, Policy, PortMatch, Ports, Rule, Subject};
use policy_engine::selector::Selector;
use policy_engine::tier::{Action, Mode, Tier};
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::manifest::Manifest;
use proptest::prelude::*;
use serde_json::{Value, json};

const SHOP: &str = include_str!("inputs/pass/shop.yaml");

fn convert_all(text: &str) -> Vec<Converted> {
    let manifest = Manifest::parse("f", text);
    manifest.documents.iter().map(|document| convert::document(document).0).collect()
}

#[allow(clippy::panic)] // a helper of tests: the lint knows only the tests themselves
fn policy(value: &Value) -> Arc<Policy> {
    match convert_all(&value.to_string()).pop() {
        Some(Converted::Object(Change::Policy(_, Some(policy)))) => policy,
        other => panic!("{value} became {other:?}"),
    }
}

fn valid() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "podSelector": {
                "matchLabels": {"app": "db"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
            },
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "api"}}},
                        {"namespaceSelector": {}, "podSelector": {"matchExpressions": [
                            {"key": "x", "operator": "DoesNotExist"},
                        ]}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [
                        {"port": 80, "endPort": 90, "protocol": "TCP"},
                        {"port": "http"},
                        {"protocol": "UDP"},
                    ],
                },
                {"from": [], "ports": [{"port": 443}]},
            ],
            "egress": [{"to": [{"podSelector": {}}]}],
        },
    })
}

fn valid_cluster_policy() -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1beta1",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {
            "tier": "Baseline",
            "priority": 10,
            "subject": {"pods": {
                "namespaceSelector": {"matchLabels": {"a": "b"}},
                "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
            }},
            "ingress": [
                {"action": "Accept", "from": [{"namespaces": {"matchLabels": {"c": "d"}}}],
                 "protocols": [{"tcp": {"destinationPort": {"number": 80}}},
                               {"destinationNamedPort": "web"}]},
                {"action": "Deny", "from": [{"pods": {"podSelector": {"matchLabels": {"e": "f"}}}}]},
            ],
            "egress": [
                {"action": "Pass", "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8"]}],
                 "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]},
                {"action": "Accept", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]},
            ],
        },
    })
}

fn valid_default_policy() -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "ClusterDefaultNetworkPolicy",
        "metadata": {"name": "base"},
        "spec": {
            "namespaceSelector": {"matchLabels": {"a": "b"}},
            "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"sameNamespace": true}, {"podSelector": {}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}],
            "allowDNS": true,
            "allowAPIServer": false,
            "includeSystemNamespaces": false,
            "mode": "Enforce",
        },
    })
}

/// Whether a subject is the original one, or one that may be any pod in part.
fn narrower_subject(subject: &Subject, original: &Subject) -> bool {
    let part = |part: &Option<Selector>, original: &Option<Selector>| match part {
        None => true,
        Some(selector) => selector.is_everything() || Some(selector) == original.as_ref(),
    };
    part(&subject.namespaces, &original.namespaces) && part(&subject.pods, &original.pods)
}

/// One item can stand for several peers or ports, so their places say nothing.
fn accepts_no_more(rule: &Rule, original: &Rule) -> bool {
    let peers = match (&rule.peers, &original.peers) {
        (Peers::Listed(peers), Peers::Listed(originals)) => {
            peers.iter().all(|peer| *peer == Peer::Invalid || originals.contains(peer))
        }
        (peers, original) => peers == original,
    };
    let ports = match (&rule.ports, &original.ports) {
        (Ports::Listed(ports), Ports::Listed(originals)) => {
            ports.iter().all(|port| *port == PortMatch::Invalid || originals.contains(port))
        }
        (Ports::Listed(_), Ports::Any) => true,
        (Ports::Any, original) => *original == Ports::Any,
    };
    let nothing = rule.peers == Peers::Listed(vec![]);
    nothing || (peers && ports)
}

fn no_wider_rules(rules: &[OrderedRule], originals: &[OrderedRule]) -> bool {
    let everything = Rule { peers: Peers::Any, ports: Ports::Any };
    let denies_all = |rule: &OrderedRule| rule.action == Action::Deny && rule.rule == everything;
    if rules.first().is_some_and(denies_all) {
        return true;
    }
    rules.len() == originals.len()
        && rules.iter().zip(originals).all(|(rule, original)| {
            denies_all(rule)
                || match (rule.action, original.action) {
                    (Action::Accept, Action::Accept) => accepts_no_more(&rule.rule, &original.rule),
                    (Action::Deny, _) | (Action::Pass, Action::Pass) => rule.rule == original.rule,
                    (Action::Accept | Action::Pass, _) => false,
                }
        })
}

/// One mistake: no value of the API, whatever field it stands in.
#[derive(Clone, Debug)]
enum Mistake {
    Value(Value),
    Misspelling,
    /// Values in a row where a mapping belongs: `range: [80, 90]`.
    InARow,
}

fn mistake() -> impl Strategy<Value = Mistake> {
    prop_oneof![
        Just(Mistake::Misspelling),
        Just(Mistake::InARow),
        prop::sample::select(vec![
            json!(-7),
            json!(1.5),
            json!(true),
            json!("no such thing!"),
            json!([[]]),
            json!({"bogus": 1}),
            json!([null]),
            json!([7]),
        ])
        .prop_map(Mistake::Value),
    ]
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(|item| 1 + count(item)).sum(),
        Value::Object(fields) => fields.values().map(|field| 1 + count(field)).sum(),
        _ => 0,
    }
}

/// The values of a mapping as a list; of anything else, a list of lists.
fn in_a_row(value: &Value) -> Value {
    match value {
        Value::Object(fields) if !fields.is_empty() => fields.values().cloned().collect(),
        _ => json!([[]]),
    }
}

/// Makes the mistake at the `at`th node below `value`, in depth-first order.
fn make(value: &mut Value, at: &mut usize, mistake: &Mistake) {
    match value {
        Value::Array(items) => {
            for item in items {
                if *at == 0 {
                    *item = match mistake {
                        Mistake::Value(junk) => junk.clone(),
                        Mistake::Misspelling => json!("oops!"),
                        Mistake::InARow => in_a_row(item),
                    };
                }
                *at = at.wrapping_sub(1);
                make(item, at, mistake);
            }
        }
        Value::Object(fields) => {
            for key in fields.keys().cloned().collect::<Vec<_>>() {
                if *at == 0 {
                    match mistake {
                        Mistake::Value(junk) => fields[&key] = junk.clone(),
                        Mistake::InARow => fields[&key] = in_a_row(&fields[&key]),
                        Mistake::Misspelling => {
                            let field = fields.remove(&key).unwrap_or_default();
                            fields.insert(format!("{key} oops"), field);
                            *at = usize::MAX;
                            return;
                        }
                    }
                }
                *at = at.wrapping_sub(1);
                make(&mut fields[&key], at, mistake);
            }
        }
        _ => {}
    }
}

fn no_wider_rule(rule: &Rule, original: &Rule) -> bool {
    let peers = match (&rule.peers, &original.peers) {
        (Peers::Listed(peers), _) if peers.is_empty() => return true,
        (Peers::Listed(peers), Peers::Listed(originals)) => {
            peers.iter().zip(originals).all(|(peer, old)| peer == old || *peer == Peer::Invalid)
        }
        (Peers::Listed(peers), Peers::Any) => peers.iter().all(|peer| *peer == Peer::Invalid),
        (Peers::Any, original) => *original == Peers::Any,
    };
    let ports = match (&rule.ports, &original.ports) {
        (Ports::Listed(ports), Ports::Listed(originals)) if ports.len() == originals.len() => ports
            .iter()
            .zip(originals)
            .all(|(port, old)| port == old || *port == PortMatch::Invalid),
        (Ports::Listed(ports), _) => ports.iter().all(|port| *port == PortMatch::Invalid),
        (Ports::Any, original) => *original == Ports::Any,
    };
    peers && ports
}

fn no_wider(rules: Option<&[Rule]>, originals: Option<&[Rule]>) -> bool {
    match (rules, originals) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(rules), Some(originals)) => {
            rules.len() <= originals.len().max(1)
                && rules.iter().enumerate().all(|(at, rule)| match originals.get(at) {
                    Some(original) => no_wider_rule(rule, original),
                    None => rule.peers == Peers::Listed(vec![]),
                })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mistake_never_opens_a_policy(at in 0..usize::MAX, mistake in mistake()) {
        let original = policy(&valid());
        let mut value = valid();
        let mut at = at % count(&value["spec"]);
        make(&mut value["spec"], &mut at, &mistake);
        let mutated = policy(&value);
        let everything = mutated.subject.any_pods().is_everything();
        prop_assert!(everything || mutated.subject == original.subject, "{value}");
        for direction in Direction::BOTH {
            let rules = (mutated.isolating(direction), original.isolating(direction));
            prop_assert!(no_wider(rules.0, rules.1), "{value}");
        }
    }

    #[test]
    fn a_mistake_never_opens_a_cluster_policy(at in 0..usize::MAX, mistake in mistake()) {
        let mut value = valid_cluster_policy();
        let original = policy(&value);
        let mut at = at % count(&value["spec"]);
        make(&mut value["spec"], &mut at, &mistake);
        let mutated = policy(&value);
        prop_assert!(narrower_subject(&mutated.subject, &original.subject), "{value}");
        for direction in Direction::BOTH {
            let rules = (mutated.ordered(direction), original.ordered(direction));
            prop_assert!(no_wider_rules(rules.0, rules.1), "{value}");
        }
        // Only a policy that accepts nothing may leave its place.
        let place = |policy: &Policy| (policy.tier, policy.priority());
        let (before, after) = (place(&original), place(&mutated));
        prop_assert!(after == before || after == (Tier::Admin, i32::MIN), "{value}");
    }

    #[test]
    fn a_mistake_never_opens_a_default(at in 0..usize::MAX, mistake in mistake()) {
        let mut value = valid_default_policy();
        let original = policy(&value);
        let mut at = at % count(&value["spec"]);
        make(&mut value["spec"], &mut at, &mistake);
        let mutated = policy(&value);
        prop_assert!(narrower_subject(&mutated.subject, &original.subject), "{value}");
        for direction in Direction::BOTH {
            let rules = (mutated.isolating(direction), original.isolating(direction));
            prop_assert!(no_wider(rules.0, rules.1), "{value}");
        }
        let dns = |policy: &Policy| policy.allows_dns(Direction::Egress);
        prop_assert!(dns(&original) || !dns(&mutated), "{value}");
        // Only `true` itself allows it.
        let is_written = value["spec"]["allowAPIServer"] == json!(true);
        prop_assert!(is_written || !mutated.names_api_server(), "{value}");
        prop_assert!(mutated.mode == Mode::Enforce, "{value}");
    }

    #[test]
    fn random_text_is_read_or_told(text in "\\PC*") {
        convert_all(&text);
    }

    #[test]
    fn random_yaml_is_read_or_told(
        text in prop::collection::vec(prop::sample::select(vec![
            "a", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ",", "&x ", "*x", "<<", "? ", "| ", ">",
            "'", "\"", "#", "---", "...", "!", "!!str ", "%", "\t", "\\", "@", "kind", "List", "items",
            "Pod", "metadata", "name", "é", "\u{85}", "\0", "\r",
        ]), 0..40),
    ) {
        convert_all(&text.concat());
    }

    #[test]
    fn a_file_with_any_edit_is_read_or_told(
        cuts in prop::collection::vec((0..SHOP.len(), 0..40_usize, "[ -~\\n]{0,8}"), 1..4),
    ) {
        let mut text = SHOP.to_owned();
        for (from, length, insert) in cuts {
            let from = from.min(text.len());
            let to = (from + length).min(text.len());
            text.replace_range(from..to, &insert);
        }
        convert_all(&text);
    }
}
