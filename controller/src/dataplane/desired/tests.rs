//! One change renders and touches as much on a node with many rulesets as on one with few.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use policy_engine::cidr::CidrSet;
use policy_engine::compiled::{Match, Rule, Ruleset, Target, TrafficMatch};
use policy_engine::id::ContentHasher;
use policy_engine::model::PodKey;
use policy_engine::port::{PortRange, Protocol};
use policy_engine::tier::Tier;

use super::*;

const PODS: u32 = 40;

fn add(compiled: &mut Compiled, rules: Vec<Rule>) -> RulesetId {
    let (direction, tier, otherwise) = (Direction::Ingress, Tier::NetworkPolicy, Target::Deny);
    let ruleset = Ruleset { direction, tier, rules, otherwise };
    let mut hasher = ContentHasher::new("ruleset");
    hasher.text(&format!("{ruleset:?}"));
    let id = RulesetId::new(hasher.finish());
    compiled.rulesets.insert(id, Arc::new(ruleset));
    id
}

fn port(number: u32, target: Target) -> Rule {
    let number = u16::try_from(number).unwrap();
    let traffic = TrafficMatch::Ports(Protocol::Tcp, vec![PortRange::new(number, number).unwrap()]);
    let matches = Match::Peers { traffic, labelled: None, cidrs: CidrSet::everything() };
    Rule { matches, target }
}

fn set_ingress(compiled: &mut Compiled, pod: u32, id: RulesetId) {
    let enforced = PerDirection { ingress: Some(id), egress: None };
    let audited = PerDirection::default();
    let pod_key = PodKey::new("shop", &pod.to_string());
    let endpoint = Endpoint { pod: pod_key, enforced, audited };
    compiled.endpoints.insert(Ipv4Addr::from(0x0a00_0001 + pod).into(), endpoint);
}

/// Pods that each have a ruleset of their own. All of these lead to `shared` others.
fn world(shared: u32) -> Compiled {
    let mut compiled = Compiled::default();
    let next: Vec<_> = (0..shared)
        .map(|number| add(&mut compiled, vec![port(10_000 + number, Target::Allow)]))
        .collect();
    for pod in 0..PODS {
        let leading = (0..).zip(&next).map(|(number, id)| port(number + 1, Target::Next(*id)));
        let rules = leading.chain([port(5_000 + pod, Target::Allow)]).collect();
        let id = add(&mut compiled, rules);
        set_ingress(&mut compiled, pod, id);
    }
    compiled
}

/// The input of the desired state, with defaults for everything else.
fn wanted(compiled: &Compiled) -> Wanted<'_> {
    static ATTACHMENTS: LazyLock<Attachments> = LazyLock::new(Attachments::default);
    static OPTIONS: LazyLock<Options> = LazyLock::new(Options::default);
    static REFUSALS: LazyLock<Refusals> = LazyLock::new(Refusals::default);
    let (attachments, options, refusals) = (&ATTACHMENTS, &OPTIONS, &REFUSALS);
    Wanted { compiled, attachments, options, refusals }
}

/// Gives one pod another ruleset. Returns how many chains are rendered and compared.
fn one_change(shared: u32) -> (usize, usize) {
    let mut compiled = world(shared);
    let mut desired = Desired::new(wanted(&compiled), &Family::BOTH);
    let before = desired.tables.clone();
    let id = add(&mut compiled, vec![port(6_000, Target::Allow)]);
    set_ingress(&mut compiled, 7, id);
    let touched = desired.follow(wanted(&compiled));
    assert_eq!(desired, Desired::new(wanted(&compiled), &Family::BOTH));
    let mut rendered = 0;
    for (family, chains) in &desired.tables {
        for (name, rules) in chains {
            let is_kept = before[family].get(name).is_some_and(|old| Arc::ptr_eq(old, rules));
            assert!(is_kept || touched.chains.contains(&(*family, *name)), "{name}");
            rendered += usize::from(!is_kept);
        }
    }
    (rendered, touched.chains.len())
}

#[test]
fn a_change_costs_the_same_with_few_and_with_many_rulesets() {
    let [few, many] = [1, 400].map(one_change);
    assert_eq!(few, many);
    // The new ruleset and the chain of the pod; the former ruleset is removed.
    assert_eq!(many, (2, 3));
}

#[test]
fn what_is_no_longer_needed_is_removed_and_what_others_need_stays() {
    let mut compiled = world(3);
    let mut desired = Desired::new(wanted(&compiled), &[Family::V4]);
    let rulesets = |desired: &Desired| {
        desired.tables[&Family::V4].keys().filter(|name| name::is_ruleset(**name)).count()
    };
    assert_eq!(rulesets(&desired), 43);
    for left in (0..PODS).rev() {
        compiled.endpoints.pop_last();
        desired.follow(wanted(&compiled));
        let expected = if left == 0 { 0 } else { left as usize + 3 };
        assert_eq!(rulesets(&desired), expected);
    }
    let empty = Compiled { endpoints: BTreeMap::new(), ..compiled };
    assert_eq!(desired, Desired::new(wanted(&empty), &[Family::V4]));
}
