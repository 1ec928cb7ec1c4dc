//! Reachability by classes says of every pair of pods, and of every port, what `evaluate` says; and
//! `check` says of every connection of the policy cases what their authors state.
//!
//! `PROPTEST_CASES` sets how many random worlds; `make test` runs thousands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, evaluate_as};
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Pod, PodKey};
use policy_engine::reach::{Class, PortSet, Reach};
use policy_engine::tier::View;
use policy_engine::world::{Options, World};
use portcullis_tests::cases::{self, Case, Expectation, Families, Stage, Verdict};
use portcullis_tests::judging::{config, sides, traffic};
use portcullis_tests::worlds;
use portcullis_whatif::args::SourceArgs;
use portcullis_whatif::endpoint::{self, NumberOrName, PortWord, Target};
use portcullis_whatif::judge::{self, judge};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::policytest::{self, Suite};
use portcullis_whatif::source;
use proptest::prelude::*;

/// The default of `proptest` is 256; this many run here unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 500;

fn can_meet(source: &Endpoint, destination: &Endpoint) -> bool {
    match (source.address(), destination.address()) {
        (Some(source), Some(destination)) => Family::of(source) == Family::of(destination),
        _ => true,
    }
}

/// Whether `evaluate` lets one pod connect to another by any of their addresses.
fn evaluated(
    (world, view): (&World, View),
    source: &Pod,
    destination: &Pod,
    traffic: Traffic,
) -> bool {
    sides(world, source).iter().any(|from| {
        sides(world, destination).iter().filter(|to| can_meet(from, to)).any(|to| {
            let flow = Flow { source: from.clone(), destination: to.clone(), traffic };
            evaluate_as(world, &flow, view).is_allowed()
        })
    })
}

/// What the map says of each pair of different pods.
fn by_pod(reach: &Reach<'_>) -> BTreeMap<(PodKey, PodKey), PortSet> {
    let mut found = BTreeMap::new();
    for edge in reach.edges().iter() {
        for source in &reach.classes()[edge.source].pods {
            for destination in &reach.classes()[edge.destination].pods {
                let pair = (source.clone(), destination.clone());
                let before = found.insert(pair, edge.allowed.clone());
                assert_eq!(before, None, "one edge for each pair");
            }
        }
    }
    found
}

fn check_pods(world: &World, view: View, reach: &Reach<'_>) -> Result<(), TestCaseError> {
    let map = by_pod(reach);
    let pods: Vec<&Pod> =
        world.pods().values().map(AsRef::as_ref).filter(|pod| pod.takes_part()).collect();
    for source in &pods {
        for destination in pods.iter().filter(|pod| pod.key != source.key) {
            let mapped = map.get(&(source.key.clone(), destination.key.clone()));
            for traffic in traffic() {
                prop_assert_eq!(
                    mapped.is_some_and(|ports| ports.contains(traffic)),
                    evaluated((world, view), source, destination, traffic),
                    "{:?}: {} → {} {}",
                    view,
                    source.key,
                    destination.key,
                    traffic
                );
            }
        }
    }
    Ok(())
}

/// What holds between any two addresses, and between pods and the addresses outside.
fn check_addresses(world: &World, view: View, reach: &Reach<'_>) -> Result<(), TestCaseError> {
    for source in worlds::addresses() {
        for destination in worlds::addresses() {
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            let (from, to) = (world.endpoint(source), world.endpoint(destination));
            let between = reach.between(&from, &to);
            for traffic in traffic() {
                let flow = world.flow(source, destination, traffic);
                let verdict = evaluate_as(world, &flow, view);
                let allowed = verdict.is_allowed();
                prop_assert_eq!(between.contains(traffic), allowed, "{:?} {:?}", view, flow);
                for (direction, side, other) in
                    [(Direction::Egress, &from, &to), (Direction::Ingress, &to, &from)]
                {
                    let Endpoint::Pod(key, _) = side else { continue };
                    let Some(class) = reach.class_of(key) else { continue };
                    check_isolation(
                        &reach.classes()[class],
                        direction,
                        verdict.decision(direction),
                    )?;
                    let Endpoint::External(address) = other else { continue };
                    let parts = reach.outside(class, direction).parts;
                    let holding: Vec<_> =
                        parts.iter().filter(|(cidrs, _)| cidrs.contains(*address)).collect();
                    prop_assert!(holding.len() < 2, "parts do not overlap");
                    let outside = holding.iter().any(|(_, ports)| ports.contains(traffic));
                    prop_assert_eq!(outside, allowed, "outside: {:?}", flow);
                }
            }
        }
    }
    Ok(())
}

/// Nothing falls through a tier that isolates, and no other tier is said to.
fn check_isolation(
    class: &Class,
    direction: Direction,
    decision: &Decision,
) -> Result<(), TestCaseError> {
    if matches!(decision.reason, Reason::NotIsolated) {
        prop_assert!(!class.is_isolated(direction), "{:?} {:?}", class, decision);
    }
    if !decision.isolated_by.is_empty() {
        prop_assert_eq!(class.isolated_by(direction), decision.tier);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn the_map_says_what_evaluate_says(
        history in worlds::history(0..40),
        allow_egress_to_own_node in any::<bool>(),
        view in prop::sample::select(vec![View::Enforced, View::Audited]),
    ) {
        let mut world = World::new(Options { allow_egress_to_own_node, ..Options::default() });
        history.into_iter().for_each(|change| world.apply(change));
        let reach = Reach::new_as(&world, view);
        check_pods(&world, view, &reach)?;
        check_addresses(&world, view, &reach)?;
    }
}

/// Asks as `check` does for everything that a stage of a case expects, and tells what differs.
fn check_stage(case: &Case, families: Families, stage: &Stage) -> (usize, String) {
    let mut inventory = Inventory::default();
    for manifest in stage.world.manifests() {
        inventory.add_value(&manifest.value, "default");
    }
    let cluster = Cluster::new(&inventory, case.options.clone());
    let reach = Reach::new(&cluster.world);
    let mut failures = String::new();
    for Expectation { probe, verdict, line, .. } in &stage.expectations {
        let judged = probe.judged;
        let side = |address: IpAddr, port: Option<PortWord>| {
            let endpoint =
                endpoint::Endpoint { target: Target::Network(ipnet::IpNet::from(address)), port };
            endpoint::resolve(&cluster, &endpoint, "default").expect("an address is an endpoint")
        };
        let port = match judged.traffic {
            Traffic::Port(protocol, number) => {
                Some(PortWord { port: NumberOrName::Number(number), protocol })
            }
            Traffic::Other => None,
        };
        let (source, destination) = (side(judged.source, None), side(judged.destination, port));
        let answer = judge(&cluster, (&reach).into(), &source, &destination);
        let allowed = match judged.traffic {
            Traffic::Port(..) => answer.verdict == judge::Verdict::Allowed,
            // A question without a port tells about ICMP beside all ports.
            Traffic::Other => answer.parts.iter().all(|part| part.allowed.has_other()),
        };
        if allowed != (*verdict == Verdict::Allowed) {
            let (name, step) = (&case.name, stage.number);
            let _ = writeln!(
                failures,
                "{name} step {step} {families:?}: {probe}: line {line:?} states {verdict:?}, check {:?}",
                answer.verdict
            );
        }
    }
    (stage.expectations.len(), failures)
}

#[test]
fn check_says_what_every_case_states() -> anyhow::Result<()> {
    let (mut verdicts, mut failures) = (0, String::new());
    for families in [Families::V4, Families::V6, Families::Dual] {
        let world = cases::world(families)?;
        for case in cases::all()?.iter().filter(|case| case.is_about(families)) {
            for stage in case.run(world.clone())? {
                let (count, failed) = check_stage(case, families, &stage);
                verdicts += count;
                failures += &failed;
            }
        }
    }
    println!("{verdicts} verdicts");
    assert!(failures.is_empty(), "{} disagreements:\n{failures}", failures.lines().count());
    assert!(verdicts > 100_000, "only {verdicts} verdicts");
    Ok(())
}

#[test]
fn classes_say_what_every_case_states_also_as_audited() -> anyhow::Result<()> {
    let (mut files, mut connections, mut failures) = (0, 0, String::new());
    for case in cases::all()? {
        files += 1;
        let families = match case.families() {
            [Family::V4] => Families::V4,
            [Family::V6] => Families::V6,
            _ => Families::Dual,
        };
        for stage in case.run(cases::world(families)?)? {
            let mut inventory = Inventory::default();
            for manifest in stage.world.manifests() {
                inventory.add_value(&manifest.value, "default");
            }
            let world = Cluster::new(&inventory, case.options.clone()).world;
            for view in [View::Enforced, View::Audited] {
                let reach = Reach::new_as(&world, view);
                for expectation in &stage.expectations {
                    connections += 1;
                    let judged = expectation.probe.judged;
                    let Flow { source, destination, traffic } =
                        world.flow(judged.source, judged.destination, judged.traffic);
                    let stated = match view {
                        View::Enforced => expectation.verdict,
                        View::Audited => expectation.audited,
                    };
                    let allowed = reach.between(&source, &destination).contains(traffic);
                    if allowed != (stated == Verdict::Allowed) {
                        let (name, step) = (&case.name, stage.number);
                        let _ = writeln!(failures, "{name} step {step} {view:?}: {expectation:?}");
                    }
                }
            }
        }
    }
    println!("{files} files, {connections} connections");
    assert!(failures.is_empty(), "{failures}");
    assert!(files >= 70, "only {files} files");
    Ok(())
}

#[test]
fn whatif_test_passes_policy_cases_that_need_no_addresses() -> anyhow::Result<()> {
    let world = cases::directory().join("world.yaml");
    let sources = source::read(&SourceArgs { filename: vec![world], ..SourceArgs::default() })?;
    let cluster = Cluster::new(&sources.after, Options::default());
    let (mut files, mut failures) = (0, String::new());
    for (name, path) in cases::files()? {
        let text = std::fs::read_to_string(path)?;
        // The world has no addresses, and Services and nodes are reached by theirs.
        let needs_addresses =
            ["${", "/svc/", "node/", "external", "families"].iter().any(|word| text.contains(word));
        // A lab asks neither a DNS cache on the node nor a pod that is pending.
        if needs_addresses || ["default-dns", "pod-pending"].contains(&name.as_str()) {
            continue;
        }
        files += 1;
        for suite in Suite::read(&name, &text)? {
            for outcome in policytest::run(&suite, &sources.after, &cluster)? {
                if !outcome.passed() {
                    let _ = writeln!(failures, "{}: {outcome:#?}", outcome.origin);
                }
            }
        }
    }
    println!("{files} files");
    assert!(failures.is_empty(), "{failures}");
    assert!(files >= 100, "only {files} files");
    Ok(())
}
