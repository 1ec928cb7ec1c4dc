//! `check`, `who`, `reach` and `map` agree with one another and with `evaluate`, in random worlds.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds/mod.rs"]
mod worlds;

use std::collections::BTreeMap;

use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;
use policy_engine::reach::Reach;
use policy_engine::world::{Options, World};
use portcullis_whatif::args::By;
use portcullis_whatif::endpoint::{self, Resolved, Side, resolve};
use portcullis_whatif::judge::{Verdict, judge};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::output::map::matrix::{Focus, Matrix};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// How many random worlds, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 60;

/// A port that rules single out.
const PORT: u16 = 81;

fn resolved(cluster: &Cluster, words: &str) -> Resolved {
    let endpoint: endpoint::Endpoint = words.parse().expect("an endpoint");
    resolve(cluster, &endpoint, "default").expect("it is there")
}

/// Whether `evaluate` lets one side connect to the other by some of their addresses.
fn evaluated(world: &World, from: &[Endpoint], to: &[Endpoint]) -> bool {
    from.iter().any(|source| {
        to.iter().any(|destination| {
            let addresses = source.address().zip(destination.address());
            let traffic = Traffic::Port(Protocol::Tcp, PORT);
            let (source, destination) = (source.clone(), destination.clone());
            addresses.is_none_or(|(one, other)| one.is_ipv4() == other.is_ipv4())
                && evaluate(world, &Flow { source, destination, traffic }).is_allowed()
        })
    })
}

fn pod(world: &World, key: &PodKey) -> Vec<Endpoint> {
    let side = |address| Endpoint::Pod(key.clone(), address);
    let owned: Vec<_> =
        world.owned_addresses(&world.pods()[key]).map(|address| side(Some(address))).collect();
    if owned.is_empty() { vec![side(None)] } else { owned }
}

fn node(world: &World, name: &str) -> Vec<Endpoint> {
    let side = |address| Endpoint::Node(name.into(), address);
    let known = world.nodes().get(name).map(|node| node.addresses.clone()).unwrap_or_default();
    if known.is_empty() {
        vec![side(None)]
    } else {
        known.into_iter().map(|address| side(Some(address))).collect()
    }
}

/// Who may open the port at whom, by name, as a list tells it.
fn told(matrix: &Matrix) -> BTreeMap<(String, String), bool> {
    let asked = |allowed: &[portcullis_whatif::output::json::Ports]| {
        allowed.iter().any(|ports| {
            matches!(ports.protocol, portcullis_whatif::output::json::Protocol::Tcp)
                && (ports.from..=ports.to).contains(&PORT)
        })
    };
    let entries = matrix.entries().into_iter();
    entries
        .map(|entry| {
            let sides = (entry.source.to_string(), entry.destination.to_string());
            (sides, asked(&entry.allowed))
        })
        .collect()
}

/// What `check` says between two sides, by name of their pods.
fn checked(
    cluster: &Cluster,
    reach: &Reach<'_>,
    source: &str,
    destination: &str,
) -> BTreeMap<(String, String), Verdict> {
    let (from, to) = (resolved(cluster, source), resolved(cluster, destination));
    let everyone = |side: &Resolved, names: &[String]| -> Vec<String> {
        let one = names == [side.name.clone()];
        let parties = side.parties.iter().map(|party| party.name.clone());
        if one { parties.collect() } else { names.to_vec() }
    };
    let mut found: BTreeMap<(String, String), Verdict> = BTreeMap::new();
    for part in judge(cluster, reach.into(), &from, &to).parts {
        for source in everyone(&from, &part.sources) {
            for destination in everyone(&to, &part.destinations) {
                let verdict = found.entry((source.clone(), destination)).or_insert(part.verdict);
                // Some address of one family is enough.
                if part.verdict == Verdict::Allowed {
                    *verdict = Verdict::Allowed;
                }
            }
        }
    }
    found
}

fn agree(world: World) -> Result<usize, TestCaseError> {
    let mut cluster = Cluster::new(&Inventory::default(), world.options.clone());
    cluster.world = world;
    let (world, reach) = (&cluster.world, Reach::new(&cluster.world));
    let pods: Vec<&PodKey> =
        world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    if pods.is_empty() {
        return Ok(0);
    }
    let name = |key: &PodKey| cluster.pod_ref(key);
    let mut asked = 0;
    // Nodes: who reaches each, and whom it reaches.
    for own in world.nodes().keys() {
        let words = format!("node/{own}");
        let side = Side::Node(own.clone(), None);
        for direction in Direction::BOTH {
            let node_side = (&side, words.as_str());
            let matrix = Matrix::of_node(&cluster, &reach, By::Pod, node_side, direction, None);
            let list = told(&matrix);
            let egress = direction == Direction::Egress;
            let port = format!(":{PORT}");
            let check = if egress {
                checked(&cluster, &reach, "*/*", &format!("{words}{port}"))
            } else {
                checked(&cluster, &reach, &words, &format!("*/*{port}"))
            };
            for key in &pods {
                let (from, to, sides) = if egress {
                    (pod(world, key), node(world, own), (name(key), words.clone()))
                } else {
                    (node(world, own), pod(world, key), (words.clone(), name(key)))
                };
                let expected = evaluated(world, &from, &to);
                prop_assert_eq!(list.get(&sides) == Some(&true), expected, "list {:?}", &sides);
                let verdict = check.get(&sides) == Some(&Verdict::Allowed);
                prop_assert_eq!(verdict, expected, "check {:?}", &sides);
                asked += 1;
            }
        }
    }
    // Pods: each with all others.
    let all = told(&Matrix::new(&cluster, &reach, By::Pod, &Focus::default()));
    for source in &pods {
        let of_source = Focus { sources: Some([(*source).clone()].into()), ..Focus::default() };
        let reached = told(&Matrix::new(&cluster, &reach, By::Pod, &of_source));
        let check = checked(&cluster, &reach, &name(source), &format!("*/*:{PORT}"));
        for destination in pods.iter().filter(|other| other != &source) {
            let sides = (name(source), name(destination));
            let expected = evaluated(world, &pod(world, source), &pod(world, destination));
            prop_assert_eq!(all.get(&sides) == Some(&true), expected, "map {:?}", &sides);
            prop_assert_eq!(reached.get(&sides) == Some(&true), expected, "reach {:?}", &sides);
            let verdict = check.get(&sides) == Some(&Verdict::Allowed);
            prop_assert_eq!(verdict, expected, "check {:?}", &sides);
            asked += 1;
        }
    }
    Ok(asked)
}

#[test]
fn check_who_reach_and_map_say_what_evaluate_says() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    });
    let asked = std::cell::Cell::new(0);
    let worlds = (worlds::history(20..60), any::<bool>());
    let held = runner.run(&worlds, |(history, allow_egress_to_own_node)| {
        let options = Options { allow_egress_to_own_node, ..Options::default() };
        let mut world = World::new(options);
        history.into_iter().for_each(|change| world.apply(change));
        asked.set(asked.get() + agree(world)?);
        Ok(())
    });
    held.expect("it holds in every world");
    println!("{} connections", asked.get());
    assert!(asked.get() > 500, "{} connections prove little", asked.get());
}
