//! Pods keep their rulesets while new sets are filled in slices.

use std::collections::BTreeMap;

use policy_engine::compiled::{Compiled, Match, Target};
use policy_engine::engine::Engine;
use policy_engine::id::RulesetId;
use policy_engine::model::Change;
use policy_engine::world::Options;
use portcullis_tests::judging::config;
use portcullis_tests::worlds;
use proptest::prelude::*;

use super::{CASES, follow, fresh, fresh_engine, scope};

proptest! {
    #![proptest_config(config(CASES / 8))]

    #[test]
    fn a_pod_that_waits_gets_the_rules_of_the_final_world_and_never_an_incomplete_set(
        history in worlds::history(1..60),
        slice in 1..5_usize,
        turns in turns(),
        one_node in any::<bool>(),
    ) {
        let (scope, _) = scope(one_node);
        let mut engine = Engine::new(scope.clone(), Options::default());
        // Pods that are new do not wait: only policies change later.
        let (policies, others): (Vec<_>, Vec<_>) =
            history.into_iter().partition(|change| matches!(change, Change::Policy(..)));
        others.into_iter().for_each(|change| engine.apply(change));
        engine.flush();
        engine.fill_in_slices(slice);
        let mut mirror = BTreeMap::new();
        for (change, (flushes, has_all)) in policies.into_iter().zip(turns) {
            engine.apply(change);
            for _ in 0..flushes {
                let update = engine.flush();
                follow(&mut mirror, &update, engine.compiled())?;
                prop_assert_eq!(&mirror, &engine.compiled().sets);
                check_complete(engine.compiled(), &fresh(&scope, engine.world()))?;
                engine.applied(|_| has_all);
            }
        }
        end(&mut engine)?;
        let again = fresh_engine(&scope, engine.world());
        prop_assert_eq!((engine.compiled(), engine.hashes()), (again.compiled(), again.hashes()));
    }

    #[test]
    fn whatever_changes_while_sets_are_filled_the_end_is_a_fresh_compile(
        history in worlds::history(1..60),
        slice in 1..5_usize,
        turns in turns(),
        one_node in any::<bool>(),
    ) {
        let (scope, _) = scope(one_node);
        let mut engine = Engine::new(scope.clone(), Options::default());
        engine.fill_in_slices(slice);
        for (change, (flushes, has_all)) in history.into_iter().zip(turns) {
            engine.apply(change);
            for _ in 0..flushes {
                engine.flush();
                engine.applied(|_| has_all);
            }
        }
        end(&mut engine)?;
        let again = fresh_engine(&scope, engine.world());
        prop_assert_eq!((engine.compiled(), engine.hashes()), (again.compiled(), again.hashes()));
    }
}

/// After each change: how many flushes, and whether the dataplane has all members then.
fn turns() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..3_usize, any::<bool>()), 60).no_shrink()
}

/// Applies everything.
fn end(engine: &mut Engine) -> Result<(), TestCaseError> {
    engine.flush();
    for _ in 0..1000 {
        if !engine.is_filling() {
            break;
        }
        engine.applied(|_| true);
        engine.flush();
    }
    prop_assert!(!engine.is_filling());
    prop_assert!(engine.flush().is_empty());
    Ok(())
}

/// The sets of the rulesets that endpoints use have all their members.
fn check_complete(compiled: &Compiled, complete: &Compiled) -> Result<(), TestCaseError> {
    let endpoints = compiled.endpoints.values();
    let used = endpoints.flat_map(|of| of.enforced.iter().chain(of.audited.iter()).flatten());
    let mut left: Vec<RulesetId> = used.copied().collect();
    while let Some(id) = left.pop() {
        let ruleset = &compiled.rulesets[&id];
        left.extend(
            ruleset.rules.iter().map(|rule| rule.target).chain([ruleset.otherwise]).filter_map(
                |target| match target {
                    Target::Next(next) => Some(next),
                    Target::Allow | Target::Deny => None,
                },
            ),
        );
        for rule in &ruleset.rules {
            let (Match::Peers { labelled: Some(set), .. } | Match::PeerPorts { set }) =
                &rule.matches
            else {
                continue;
            };
            if let Some(whole) = complete.sets.get(set) {
                prop_assert_eq!(&compiled.sets[set].members, &whole.members);
            }
        }
    }
    Ok(())
}
