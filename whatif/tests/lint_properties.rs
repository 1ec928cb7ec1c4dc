//! What `lint` calls redundant changes no verdict when it is removed, alone or all at once; neither
//! does what it says to allow nothing, when it is closed.
//!
//! Judged by `evaluate`, which shares no code with the checks, in random worlds.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds/mod.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate_as;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::labels::Labels;
use policy_engine::model::{Change, Namespace};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::{Body, Peer, Peers, Policy, PortMatch, Ports};
use policy_engine::tier::View;
use policy_engine::world::{Options, World};
use portcullis_lint::{Code, Finding};
use portcullis_whatif::lint::lint;
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::source::Sources;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// How many random worlds, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 80;

/// A policy, or one rule of it by direction and position from 0.
type Part = (ObjectRef, Option<(Direction, usize)>);

/// How many times as many, for findings that few worlds have: a world without them costs little.
const RARE: u32 = 5;

/// Lints `times` `CASES` random worlds: mostly policies, so that many select the same pods.
fn worlds_with_findings(
    times: u32,
    mut check: impl FnMut(&World, Vec<Finding>) -> Result<(), TestCaseError>,
) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: times * cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    });
    let policies = proptest::collection::vec(worlds::policy(), 4..16);
    let check = std::cell::RefCell::new(&mut check);
    let checked = runner.run(&(worlds::history(10..40), policies), |(history, policies)| {
        let mut cluster = Cluster::new(&Inventory::default(), Options::default());
        history.into_iter().for_each(|change| cluster.world.apply(change));
        assume_namespaces(&mut cluster.world);
        policies.into_iter().for_each(|policy| cluster.world.apply(policy.into()));
        let findings = lint(&Sources::default(), &cluster);
        (check.borrow_mut())(&cluster.world, findings)
    });
    checked.expect("it holds in every world");
}

/// As [`Cluster`] does with those that objects name.
fn assume_namespaces(world: &mut World) {
    for name in ["one", "two", "kube-system"] {
        if !world.namespaces().contains_key(name) {
            let labels = Labels::from_iter([("kubernetes.io/metadata.name", name)]);
            world.apply(Change::Namespace(name.into(), Some(Namespace { labels })));
        }
    }
}

#[test]
fn removing_rules_that_never_match_changes_no_verdict() {
    let mut removed = 0;
    worlds_with_findings(RARE, |world, findings| {
        let mut before = None;
        for finding in findings.iter().filter(|one| one.code == Code::NeverMatches) {
            let before = before.get_or_insert_with(|| verdicts(world));
            let less = without_cluster_rule(world, finding);
            prop_assert!(*before == verdicts(&less), "{:?}", finding);
            removed += 1;
        }
        Ok(())
    });
    println!("{removed} rules never matched");
    assert!(removed > 10, "{removed} rules prove little");
}

/// The world without the rule of a ClusterNetworkPolicy that a finding is about.
fn without_cluster_rule(world: &World, finding: &Finding) -> World {
    let object = finding.about.object().expect("a policy");
    let mut policy = world.policy(object).expect("it is there").as_ref().clone();
    let field = finding.field.to_string();
    let (field, at) = field.strip_suffix(']').expect("a rule").split_once('[').expect("it");
    let at: usize = at.parse().expect("a position");
    let ingress = field == "spec.ingress";
    assert!(ingress || field == "spec.egress", "{field} holds no rules");
    if let Body::Ordered { rules, .. } = &mut policy.body {
        if ingress {
            rules.ingress.remove(at);
        } else {
            rules.egress.remove(at);
        }
    }
    let mut world = world.clone();
    world.apply(policy.into());
    world
}

#[test]
fn removing_what_is_redundant_changes_no_verdict() {
    let (mut rules, mut policies) = (0, 0);
    worlds_with_findings(RARE, |world, findings| {
        let parts: BTreeSet<Part> = findings.iter().filter_map(part).collect();
        let of_rules = parts.iter().filter(|(_, rule)| rule.is_some()).count();
        rules += of_rules;
        policies += parts.len() - of_rules;
        if parts.is_empty() {
            return Ok(());
        }
        let before = verdicts(world);
        for part in &parts {
            let after = verdicts(&without(world, &BTreeSet::from([part.clone()])));
            prop_assert!(before == after, "{:?} is not redundant", part);
        }
        let after = verdicts(&without(world, &parts));
        prop_assert!(before == after, "{:?} are not redundant together", parts);
        Ok(())
    });
    println!("{rules} rules and {policies} policies were redundant");
    assert!(rules > 5 && policies > 2, "{rules} rules and {policies} policies prove little");
}

#[test]
fn closing_what_allows_nothing_changes_no_verdict() {
    let mut closed: BTreeMap<Code, usize> = BTreeMap::new();
    worlds_with_findings(1, |world, findings| {
        let mut before = None;
        for finding in findings {
            let Some(less) = closing(world, &finding) else { continue };
            let before = before.get_or_insert_with(|| verdicts(world));
            prop_assert!(*before == verdicts(&less), "{:?}", finding);
            *closed.entry(finding.code).or_default() += 1;
        }
        Ok(())
    });
    println!("{closed:?}");
    for code in
        [Code::SelectsNothing, Code::PeerMatchesNothing, Code::PortNameUnknown, Code::HalfOpen]
    {
        assert!(closed.get(&code).is_some_and(|count| *count > 3), "{code}: {closed:?}");
    }
}

/// The world in which the field of a finding matches nothing at all; `None` for other findings.
fn closing(world: &World, finding: &Finding) -> Option<World> {
    if finding.code == Code::SelectsNothing
        && let Some(object) = finding.about.object()
    {
        let mut world = world.clone();
        world.apply(Change::removal(object.clone()).expect("a policy"));
        return Some(world);
    }
    let mut policy = world.policy(network_policy(finding)?)?.as_ref().clone();
    let mut world = world.clone();
    let Body::Isolating { rules, .. } = &mut policy.body else { return None };
    let field = finding.field.to_string();
    let rules = if field.starts_with("spec.ingress") {
        rules.ingress.as_mut()
    } else {
        rules.egress.as_mut()
    };
    let numbers = field.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<usize> = numbers.filter_map(|text| text.parse().ok()).collect();
    match finding.code {
        Code::PeerMatchesNothing | Code::HalfOpen => match &mut rules?[numbers[0]].peers {
            Peers::Any => return None,
            Peers::Listed(peers) => peers[numbers[1]] = Peer::Invalid,
        },
        Code::PortNameUnknown => match &mut rules?[numbers[0]].ports {
            Ports::Any => return None,
            Ports::Listed(ports) => ports[numbers[1]] = PortMatch::Invalid,
        },
        _ => return None,
    }
    world.apply(policy.into());
    Some(world)
}

fn network_policy(finding: &Finding) -> Option<&ObjectRef> {
    finding.about.object().filter(|object| object.kind == Kind::NetworkPolicy)
}

/// What a finding calls redundant.
fn part(finding: &Finding) -> Option<Part> {
    let key = network_policy(finding)?.clone();
    match finding.code {
        Code::RedundantPolicy | Code::SamePolicy => Some((key, None)),
        Code::RedundantRule => {
            let field = finding.field.to_string();
            let (field, at) = field.strip_suffix(']')?.split_once('[')?;
            let ingress = field == "spec.ingress";
            assert!(ingress || field == "spec.egress", "{field} holds no rules");
            let direction = if ingress { Direction::Ingress } else { Direction::Egress };
            Some((key, Some((direction, at.parse().expect("a position")))))
        }
        _ => None,
    }
}

fn without(world: &World, parts: &BTreeSet<Part>) -> World {
    let mut world = world.clone();
    let policies: Vec<Policy> = world.policies().map(|policy| policy.as_ref().clone()).collect();
    for mut less in policies {
        let name = less.name.clone();
        let Body::Isolating { rules, .. } = &mut less.body else { continue };
        for direction in Direction::BOTH {
            let gone = |at: usize| parts.contains(&(name.clone(), Some((direction, at))));
            if let Some(rules) = rules.get_mut(direction) {
                let mut at = 0..;
                rules.retain(|_| !gone(at.next().expect("they go on")));
            }
        }
        let gone = parts.contains(&(name.clone(), None));
        world.apply(Change::Policy(name, (!gone).then(|| Arc::new(less))));
    }
    world
}

/// Every verdict between addresses, and between pods without one; as policies are enforced, and as
/// if those in audit were.
fn verdicts(world: &World) -> Vec<bool> {
    let mut sides: Vec<Endpoint> =
        worlds::addresses().into_iter().map(|address| world.endpoint(address)).collect();
    let pending = world.pods().values().filter(|pod| world.owned_addresses(pod).next().is_none());
    sides.extend(pending.map(|pod| Endpoint::Pod(pod.key.clone(), None)));
    let family = |side: &Endpoint| side.address().map(|address: IpAddr| address.is_ipv4());
    let mut verdicts = Vec::new();
    for source in &sides {
        for destination in &sides {
            let families = family(source).zip(family(destination));
            if families.is_some_and(|(one, other)| one != other) {
                continue;
            }
            for traffic in worlds::traffic() {
                if matches!(traffic, Traffic::Port(_, 0)) {
                    continue;
                }
                let (source, destination) = (source.clone(), destination.clone());
                let flow = Flow { source, destination, traffic };
                for view in [View::Enforced, View::Audited] {
                    verdicts.push(evaluate_as(world, &flow, view).is_allowed());
                }
            }
        }
    }
    verdicts
}
