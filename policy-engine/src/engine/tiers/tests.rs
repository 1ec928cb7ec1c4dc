//! Tiers compile to the rules that they need and no others.

use super::super::{Engine, Scope};
use super::*;
use crate::compiled::Ruleset;
use crate::direction::PerDirection;
use crate::id::RulesetId;
use crate::labels::Labels;
use crate::model::{Change, Namespace, PodKey};
use crate::policy::{IpBlock, Namespaces, OrderedRule, Peer, Peers, PodPeer, Ports, Rule, Subject};
use crate::selector::Selector;
use crate::tier::Tier;
use crate::world::Options;

fn engine(changes: impl IntoIterator<Item = Change>) -> Engine {
    let mut engine = Engine::new(Scope::Cluster, Options::default());
    let pod = Pod::new(PodKey::new("shop", "web"), Labels::from_iter([("app", "web")]));
    let pod = Pod { addresses: vec!["10.0.0.1".parse().unwrap()].into(), ..pod };
    engine.apply(Change::Namespace("shop".into(), Some(Namespace::default())));
    engine.apply(pod.into());
    changes.into_iter().for_each(|change| engine.apply(change));
    engine.flush();
    engine
}

/// The chain of rulesets for ingress: for each the tier, the targets of its rules, the target of
/// the rest.
fn ingress(engine: &Engine) -> Vec<(Tier, Vec<Target>, Target)> {
    let first = engine.rulesets_of(&PodKey::new("shop", "web")).ingress;
    let get = |id: RulesetId| engine.compiled().rulesets.get(&id).map(AsRef::as_ref);
    let next_of = |ruleset: &Ruleset| {
        let rules = ruleset.rules.iter().map(|rule| rule.target);
        rules.chain([ruleset.otherwise]).find_map(|target| match target {
            Target::Next(next) => Some(next),
            Target::Allow | Target::Deny => None,
        })
    };
    let next = |ruleset: &&Ruleset| get(next_of(ruleset)?);
    std::iter::successors(first.and_then(get), next)
        .map(|ruleset| {
            let rules = ruleset.rules.iter().map(|rule| rule.target).collect();
            (ruleset.tier, rules, ruleset.otherwise)
        })
        .collect()
}

fn named(app: &str) -> Rule {
    let namespaces = Namespaces::Selected(Selector::everything());
    let pods = Selector::label("app", app);
    Rule { peers: Peers::Listed(vec![Peer::Pods(PodPeer { namespaces, pods })]), ports: Ports::Any }
}

fn anything() -> Rule {
    let block =
        |cidr: &str| Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() });
    Rule { peers: Peers::Listed(vec![block("0.0.0.0/0"), block("::/0")]), ports: Ports::Any }
}

fn cluster(name: &str, tier: Tier, app: &str, rules: Vec<(Action, Rule)>) -> Change {
    let rules = rules.into_iter().map(|(action, rule)| OrderedRule { action, rule });
    let rules = PerDirection { ingress: rules.collect(), egress: Vec::new() };
    let subject = Subject::pods(Selector::label("app", app));
    Policy::cluster_network_policy(name, (tier, 1), subject, rules).into()
}

fn isolating(name: &str, mode: Mode) -> Change {
    let rules = PerDirection { ingress: Some(vec![named("client")]), egress: None };
    let policy = Policy::network_policy("shop", name, Selector::everything(), rules);
    Policy { mode, ..policy }.into()
}

#[test]
fn a_pod_that_no_cluster_policy_applies_to_keeps_its_ruleset() {
    let deny = vec![(Action::Deny, named("x"))];
    let before = engine([isolating("deny", Mode::Enforce)]);
    let after = engine([
        isolating("deny", Mode::Enforce),
        cluster("other", Tier::Admin, "other", deny.clone()),
        // Baseline is below a policy that isolates, so it is not evaluated.
        cluster("below", Tier::Baseline, "web", deny),
    ]);
    assert_eq!(before.compiled(), after.compiled());
}

#[test]
fn consecutive_rules_with_one_action_are_one_rule_and_the_last_run_is_not_repeated() {
    let rules = vec![
        (Action::Deny, named("a")),
        (Action::Deny, named("b")),
        (Action::Accept, named("c")),
        (Action::Pass, named("d")),
    ];
    let engine = engine([cluster("guard", Tier::Admin, "web", rules)]);
    // There is no tier below: Accept and Pass have the same target as the rest.
    assert_eq!(ingress(&engine), [(Tier::Admin, vec![Target::Deny], Target::Allow)]);
}

#[test]
fn a_tier_that_only_passes_is_replaced_by_the_next_one() {
    let rules = vec![(Action::Pass, named("a"))];
    let changes = [isolating("deny", Mode::Enforce), cluster("guard", Tier::Admin, "web", rules)];
    let engine = engine(changes);
    assert_eq!(ingress(&engine), [(Tier::NetworkPolicy, vec![Target::Allow], Target::Deny)]);
}

#[test]
fn a_rule_for_everything_ends_its_tier() {
    let rules = vec![
        (Action::Pass, named("a")),
        (Action::Deny, anything()),
        (Action::Accept, named("late")),
    ];
    let changes = [isolating("deny", Mode::Enforce), cluster("guard", Tier::Admin, "web", rules)];
    let engine = engine(changes);
    let found = ingress(&engine);
    let [(Tier::Admin, rules, Target::Deny), (Tier::NetworkPolicy, _, Target::Deny)] =
        found.as_slice()
    else {
        panic!("{found:?}")
    };
    assert!(matches!(rules.as_slice(), [Target::Next(_)]), "{rules:?}");
}

#[test]
fn a_policy_in_audit_adds_rules_only_where_it_denies_more() {
    let engine = engine([isolating("one", Mode::Enforce), isolating("two", Mode::Audit)]);
    let endpoint = engine.compiled().endpoints.values().next().unwrap();
    // Both policies have the same rules, so policies in audit deny nothing more.
    assert_eq!((endpoint.enforced.ingress.is_some(), endpoint.audited.ingress), (true, None));
    assert_eq!(engine.compiled().rulesets.len(), 1);
}
