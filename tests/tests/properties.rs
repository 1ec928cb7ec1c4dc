//! Independent roads to each verdict agree, on random worlds after random histories.
//!
//! `PROPTEST_CASES` sets how many; `make test` runs thousands.

#[path = "properties/desired.rs"]
mod desired;
#[path = "properties/staging.rs"]
mod staging;
#[path = "properties/yaml/mod.rs"]
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::budget::Budgets;
use policy_engine::compiled::{AddressSet, Compiled, Member, SetKind, Update};
use policy_engine::direction::Direction;
use policy_engine::engine::blame::POLICIES_NAMED;
use policy_engine::engine::{Engine, Scope};
use policy_engine::evaluate::{Reason, evaluate, evaluate_as};
use policy_engine::explain::{explain, explain_as};
use policy_engine::flow::Traffic;
use policy_engine::id::SetId;
use policy_engine::model::{Change, Life, Pod};
use policy_engine::object::Kind;
use policy_engine::policy::{Policy, Revision};
use policy_engine::tier::View;
use policy_engine::world::{Options, World};
use portcullis_tests::judging::config;
use portcullis_tests::worlds;
use proptest::prelude::*;

/// The default of `proptest` is 256; this many run here unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 2000;

fn fresh(scope: &Scope, world: &World) -> Compiled {
    fresh_engine(scope, world).compiled().clone()
}

/// An engine that has compiled the world at once.
fn fresh_engine(scope: &Scope, world: &World) -> Engine {
    let mut engine = Engine::new(scope.clone(), world.options.clone());
    for change in everything(world) {
        engine.apply(change);
    }
    engine.flush();
    engine
}

/// What the hashes of a compiled state are made of.
fn state(engine: &Engine) -> impl PartialEq + use<> {
    let compiled = engine.compiled();
    let sets = compiled.sets.iter().filter(|(_, set)| !set.members.is_empty());
    let sets: BTreeMap<_, _> = sets.map(|(id, set)| (*id, set.members.clone())).collect();
    (compiled.endpoints.clone(), sets)
}

/// A world as the changes that lead to it at once.
fn everything(world: &World) -> Vec<Change> {
    let namespaces = world.namespaces().iter();
    let pods = world.pods().iter();
    world
        .policies()
        .map(|policy| Change::Policy(policy.name.clone(), Some(policy.clone())))
        .chain(pods.map(|(key, pod)| Change::Pod(key.clone(), Some(pod.clone()))))
        .chain(namespaces.map(|(name, found)| Change::Namespace(name.clone(), Some(found.clone()))))
        .chain(world.nodes().iter().map(|(n, found)| Change::Node(n.clone(), Some(found.clone()))))
        .collect()
}

/// Compares every address with every other, for all traffic. `node` is the node of the engine's
/// scope; other nodes enforce the policies of their pods.
fn check_all_flows(engine: &Engine, node: Option<&str>) -> Result<(), TestCaseError> {
    for source in worlds::addresses() {
        for destination in worlds::addresses() {
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            for traffic in worlds::traffic() {
                check_flow(engine, node, source, destination, traffic)?;
            }
        }
    }
    Ok(())
}

fn check_flow(
    engine: &Engine,
    node: Option<&str>,
    source: IpAddr,
    destination: IpAddr,
    traffic: Traffic,
) -> Result<(), TestCaseError> {
    let (world, compiled) = (engine.world(), engine.compiled());
    let flow = world.flow(source, destination, traffic);
    let verdict = evaluate(world, &flow);
    let audited = evaluate_as(world, &flow, View::Audited);
    let is_elsewhere = |address| {
        let pod = node.and(world.subject(address));
        pod.is_some_and(|pod| pod.node.as_deref() != node)
    };
    for (direction, subject, peer) in
        [(Direction::Egress, source, destination), (Direction::Ingress, destination, source)]
    {
        let decision = verdict.decision(direction);
        let exempt = [Reason::SamePod, Reason::OwnNode, Reason::EgressToOwnNode];
        if exempt.contains(&decision.reason) {
            // Packets that no ruleset sees: OUTPUT, a hook that is not there, `! -d` of the leaf.
            continue;
        }
        if is_elsewhere(subject) {
            prop_assert!(compiled.allows_in(direction, subject, peer, traffic));
            continue;
        }
        // Only for a failure: as long as the comparison itself.
        let about =
            || format!("{direction} of {} from {} ({traffic:?})", flow.destination, flow.source);
        let allowed = decision.is_allowed();
        prop_assert_eq!(
            compiled.allows_in(direction, subject, peer, traffic),
            allowed,
            "{}",
            about()
        );
        let tier = decision.tier.filter(|_| !allowed);
        prop_assert_eq!(compiled.denied_by(direction, subject, peer, traffic), tier, "{}", about());
        // What policies in audit would deny besides.
        let audited = audited.decision(direction);
        let in_audit = audited.tier.filter(|_| allowed && !audited.is_allowed());
        prop_assert_eq!(
            compiled.would_deny(direction, subject, peer, traffic),
            in_audit,
            "{}",
            about()
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn compiled_sets_say_what_evaluate_says(
        history in worlds::history(0..40),
        one_node in any::<bool>(),
        enforcement in worlds::enforcement(),
    ) {
        let (scope, node) = scope(one_node);
        let mut engine = Engine::new(scope, Options { enforcement, ..Options::default() });
        for change in history {
            engine.apply(change);
        }
        engine.flush();
        check_all_flows(&engine, node)?;
    }

    #[test]
    fn compiled_sets_say_what_evaluate_says_of_addresses_that_several_pods_claim(
        history in worlds::history(0..20),
        claims in worlds::claims(2..10),
        one_node in any::<bool>(),
        flush in any::<bool>(),
    ) {
        let (scope, node) = scope(one_node);
        let mut engine = Engine::new(scope.clone(), Options::default());
        history.into_iter().for_each(|change| engine.apply(change));
        for change in claims {
            engine.apply(change);
            if flush {
                engine.flush();
            }
        }
        engine.flush();
        check_claims(&engine, node)?;
        check_all_flows(&engine, node)?;
        prop_assert_eq!(engine.compiled(), &fresh(&scope, engine.world()));
    }

    #[test]
    fn incremental_state_is_a_fresh_compile_of_the_final_world(
        history in worlds::history(1..60),
        flush_every in 1..8_usize,
        one_node in any::<bool>(),
        enforcement in worlds::enforcement(),
    ) {
        let (scope, _) = scope(one_node);
        let mut engine =
            Engine::new(scope.clone(), Options { enforcement, ..Options::default() });
        let mut mirror = BTreeMap::new();
        let mut hashed = (state(&engine), engine.hashes());
        for (index, change) in history.into_iter().enumerate() {
            engine.apply(change);
            if index % flush_every == 0 {
                let before = engine_rules(&engine);
                let update = engine.flush();
                let now = (state(&engine), engine.hashes());
                prop_assert_eq!(now.0 != hashed.0, now.1 != hashed.1);
                hashed = now;
                follow(&mut mirror, &update, engine.compiled())?;
                prop_assert_eq!(&mirror, &engine.compiled().sets);
                prop_assert!(update.rules_changed || before == engine_rules(&engine));
                prop_assert_eq!(engine.compiled(), &fresh(&scope, engine.world()));
            }
        }
        engine.flush();
        prop_assert!(engine.flush().is_empty(), "a second flush has nothing to say");
        let again = fresh_engine(&scope, engine.world());
        prop_assert_eq!((engine.compiled(), engine.hashes()), (again.compiled(), again.hashes()));
    }

    #[test]
    fn rules_that_exceed_a_budget_deny_and_all_others_are_compiled(
        history in worlds::history(1..30),
        flush_every in 1..8_usize,
        budgets in budgets(),
    ) {
        let options = Options { budgets, ..Options::default() };
        let mut engine = Engine::new(Scope::Cluster, options);
        for (index, change) in history.into_iter().enumerate() {
            engine.apply(change);
            if index % flush_every == 0 {
                engine.flush();
            }
        }
        engine.flush();
        prop_assert!(engine.flush().is_empty(), "a second flush has nothing to say");
        prop_assert_eq!(engine.compiled(), &fresh(&Scope::Cluster, engine.world()));
        for set in engine.compiled().sets.values() {
            let most = match set.kind {
                SetKind::Addresses => budgets.members,
                SetKind::AddressPorts => budgets.members.min(budgets.members_with_ports),
            };
            // Each pod has two addresses, and ports by name are not counted.
            let by_name = 2 * 8 * 2;
            prop_assert!(set.members.len() <= 2 * most + by_name, "{}", set.members.len());
        }
        check_refused(&engine)?;
    }

    #[test]
    fn another_revision_alone_changes_nothing_that_is_enforced(history in worlds::history(0..40)) {
        let mut engine = Engine::new(Scope::Cluster, Options::default());
        history.into_iter().for_each(|change| engine.apply(change));
        engine.flush();
        let policies: Vec<_> = engine.world().policies().cloned().collect();
        for policy in &policies {
            let revision = Revision { uid: Some("u".into()), generation: Some(7) };
            let policy = Policy { revision, ..policy.as_ref().clone() };
            engine.apply(policy.into());
        }
        let update = engine.flush();
        prop_assert!(update.is_empty(), "{update:?}");
        prop_assert!(engine.world().policies().all(|policy| policy.revision.generation == Some(7)));
    }

    #[test]
    fn the_order_of_changes_to_different_objects_does_not_matter(
        (history, shuffled) in worlds::history(1..30)
            .prop_map(last_of_each_object)
            .prop_flat_map(|history| (Just(history.clone()), Just(history).prop_shuffle())),
    ) {
        let states = [history, shuffled].map(|changes| {
            let mut engine = Engine::new(Scope::Cluster, Options::default());
            for change in changes {
                engine.apply(change);
                engine.flush();
            }
            engine.compiled().clone()
        });
        prop_assert_eq!(&states[0], &states[1]);
    }

    #[test]
    fn blame_says_what_an_explanation_says(history in worlds::history(0..40)) {
        let mut engine = Engine::new(Scope::Cluster, Options::default());
        history.into_iter().for_each(|change| engine.apply(change));
        engine.flush();
        let world = engine.world();
        let addresses = worlds::addresses();
        let pairs = addresses.iter().flat_map(|from| addresses.iter().map(move |to| (*from, *to)));
        for (source, destination) in pairs {
            let flow = world.flow(source, destination, worlds::traffic()[3]);
            for view in [View::Enforced, View::Audited] {
                let explained = explain_as(world, &flow, view);
                for direction in Direction::BOTH {
                    let decision = explained.verdict.decision(direction);
                    let blame = engine.blame(&flow, direction, view);
                    let found = view == View::Audited || blame.is_some();
                    prop_assert!(found || decision.is_allowed(), "{decision:?}");
                    // What a node sends to its own pods meets no ruleset.
                    let (Some(blame), false) = (blame, decision.is_allowed()) else { continue };
                    prop_assert_eq!(Some(blame.tier), decision.tier);
                    if decision.reason == Reason::RuleDenies {
                        prop_assert_eq!(blame.denied_by.as_ref(), decision.decided_by.first());
                        continue;
                    }
                    let named = decision.isolated_by.iter().take(POLICIES_NAMED);
                    prop_assert!(named.eq(&blame.isolated_by), "{blame:?} {decision:?}");
                    prop_assert_eq!(blame.isolating, decision.isolated_by.len());
                    let misses = match direction {
                        Direction::Ingress => &explained.ingress,
                        Direction::Egress => &explained.egress,
                    };
                    let closest = misses.first().map(|miss| &miss.rule);
                    prop_assert_eq!(blame.closest.as_ref(), closest);
                }
            }
        }
    }

    #[test]
    fn an_explanation_names_why_every_rule_fails(history in worlds::history(0..40)) {
        let mut world = World::new(Options::default());
        history.into_iter().for_each(|change| world.apply(change));
        for source in worlds::addresses() {
            for destination in worlds::addresses() {
                let flow = world.flow(source, destination, worlds::traffic()[3]);
                let explained = explain(&world, &flow);
                for (direction, misses) in [
                    (Direction::Egress, &explained.egress),
                    (Direction::Ingress, &explained.ingress),
                ] {
                    let decision = explained.verdict.decision(direction);
                    prop_assert!(decision.is_allowed() <= misses.is_empty());
                    for miss in misses {
                        prop_assert!(!miss.peers.is_empty() || !miss.ports.is_empty());
                        let policy = &miss.rule.policy;
                        let ordered = policy.kind == Kind::ClusterNetworkPolicy;
                        prop_assert!(ordered || decision.isolated_by.contains(policy));
                    }
                }
            }
        }
    }
}

/// Budgets that the policies of a small world exceed, or do not exceed.
fn budgets() -> impl Strategy<Value = Budgets> {
    let limit = || prop_oneof![2 => Just(1_000_000), 1 => 0..12_usize];
    (limit(), limit(), limit(), limit(), limit(), limit(), limit()).prop_map(
        |(port_ranges, peers, similar_peers, networks, sets, members, members_with_ports)| {
            Budgets {
                port_ranges,
                peers,
                similar_peers,
                networks,
                sets,
                members,
                members_with_ports,
            }
        },
    )
}

/// Of a pod whose rules exceed a budget, nothing is allowed that the policies do not allow, and every
/// other pod is judged by its policies.
fn check_refused(engine: &Engine) -> Result<(), TestCaseError> {
    let (world, compiled) = (engine.world(), engine.compiled());
    let refused: BTreeSet<_> = engine.refused().map(|r| (r.pod.clone(), r.direction)).collect();
    prop_assert!(engine.refused().all(|refused| refused.largest.is_some()));
    for source in worlds::addresses() {
        for destination in worlds::addresses() {
            let flow = world.flow(source, destination, worlds::traffic()[3]);
            let verdict = evaluate(world, &flow);
            for (direction, subject, peer) in [
                (Direction::Egress, source, destination),
                (Direction::Ingress, destination, source),
            ] {
                let decision = verdict.decision(direction);
                let exempt = [Reason::SamePod, Reason::OwnNode, Reason::EgressToOwnNode];
                if source.is_ipv4() != destination.is_ipv4() || exempt.contains(&decision.reason) {
                    continue;
                }
                let traffic = worlds::traffic()[3];
                let allowed = compiled.allows_in(direction, subject, peer, traffic);
                let pod = world.subject(subject).map(|pod| pod.key.clone());
                if pod.is_some_and(|pod| refused.contains(&(pod, direction))) {
                    prop_assert!(allowed <= decision.is_allowed());
                } else {
                    prop_assert_eq!(allowed, decision.is_allowed());
                }
            }
        }
    }
    Ok(())
}

/// A scope, and its node.
fn scope(one_node: bool) -> (Scope, Option<&'static str>) {
    if one_node {
        (Scope::Node(worlds::OWN_NODE.into()), Some(worlds::OWN_NODE))
    } else {
        (Scope::Cluster, None)
    }
}

/// The rules of docs/semantics.md about addresses that several pods claim, read once more, without
/// the functions that the engine uses.
fn check_claims(engine: &Engine, node: Option<&str>) -> Result<(), TestCaseError> {
    let (world, compiled) = (engine.world(), engine.compiled());
    let members: BTreeSet<IpAddr> =
        compiled.sets.values().flat_map(|set| set.members.iter().map(Member::address)).collect();
    for address in worlds::addresses() {
        let takes_part = |pod: &&Arc<Pod>| {
            !pod.host_network && pod.life != Life::Finished && pod.addresses.contains(&address)
        };
        let claimants: Vec<&Arc<Pod>> = world.pods().values().filter(takes_part).collect();
        let live = claimants.iter().filter(|pod| pod.life == Life::Active);
        let nodes: BTreeSet<_> = live.map(|pod| &pod.node).collect();
        let contested = nodes.len() > 1;
        prop_assert_eq!(world.is_contested(address), contested, "{}", address);
        if contested {
            prop_assert!(!members.contains(&address), "{} is in a set", address);
        }
        let is_local = |pod: &Pod| node.is_some() && pod.node.as_deref() == node;
        let found = world.subject(address);
        prop_assert_eq!(found.is_some(), !claimants.is_empty(), "{}", address);
        let Some(found) = found else { continue };
        let better = claimants.iter().find(|other| {
            (is_local(other), other.life, other.created)
                > (is_local(found), found.life, found.created)
        });
        prop_assert!(better.is_none(), "{}: {} before {:?}", address, found.key, better);
        let isolated = compiled.endpoints.get(&address);
        prop_assert!(isolated.is_none_or(|endpoint| endpoint.pod == found.key));
    }
    Ok(())
}

fn engine_rules(engine: &Engine) -> Compiled {
    Compiled { sets: BTreeMap::new(), ..engine.compiled().clone() }
}

/// Replays an update on a copy of the sets, as a dataplane does.
fn follow(
    mirror: &mut BTreeMap<SetId, AddressSet>,
    update: &Update,
    compiled: &Compiled,
) -> Result<(), TestCaseError> {
    for id in &update.sets_removed {
        prop_assert!(mirror.remove(id).is_some(), "removed a set that was not there");
    }
    for (id, delta) in &update.sets_changed {
        let Some(set) = mirror.get_mut(id) else {
            return Err(TestCaseError::fail("changed a set that was not there"));
        };
        for member in &delta.removed {
            prop_assert!(set.members.remove(member), "removed a member that was not there");
        }
        for member in &delta.added {
            prop_assert!(set.members.insert(*member), "added a member that was there");
        }
    }
    for id in &update.sets_created {
        let before = mirror.insert(*id, compiled.sets[id].clone());
        prop_assert!(before.is_none(), "created a set that was there");
    }
    Ok(())
}

/// Only the last change of each object: then any order leads to the same world.
fn last_of_each_object(history: Vec<Change>) -> Vec<Change> {
    let named = history.into_iter().map(|change| (change.object(), change));
    let last: BTreeMap<_, _> = named.collect();
    last.into_values().collect()
}
