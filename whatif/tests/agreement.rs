//! `check`, `who`, `reach` and `map` agree with one another and with `evaluate`, in random worlds.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds/mod.rs"]
mod worlds;

mod advice;
mod exposed;
mod formats;
mod session;
mod suggested;

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;
use policy_engine::reach::Reach;
use policy_engine::tier::View;
use policy_engine::world::{Options, World};
use portcullis_whatif::args::By;
use portcullis_whatif::endpoint::{self, Resolved, Side, resolve};
use portcullis_whatif::judge::{Verdict, judge};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::output::map::hosts::Host;
use portcullis_whatif::output::map::json::Map;
use portcullis_whatif::output::map::matrix::{Focus, Matrix};
use portcullis_whatif::output::map::{About, table, text};
use portcullis_whatif::output::write_json;
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
    evaluated_for(world, from, to, Traffic::Port(Protocol::Tcp, PORT))
}

fn evaluated_for(world: &World, from: &[Endpoint], to: &[Endpoint], traffic: Traffic) -> bool {
    from.iter().any(|source| {
        to.iter().any(|destination| {
            let addresses = source.address().zip(destination.address());
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
        let host = [Host { side: Side::Node(own.clone(), None), name: words.clone() }];
        for direction in Direction::BOTH {
            let matrix = Matrix::of_hosts(&cluster, &reach, By::Pod, &host, direction, None);
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
    let all = told(&Matrix::new(&cluster, &reach, By::Pod, &Focus::all(About::Destinations)));
    for source in &pods {
        let of_source =
            Focus { subjects: Some([(*source).clone()].into()), ..Focus::all(About::Sources) };
        let reached = told(&Matrix::new(&cluster, &reach, By::Pod, &of_source));
        let check = checked(&cluster, &reach, &name(source), &format!("*/*:{PORT}"));
        for destination in pods.iter().filter(|other| other != &source) {
            let sides = (name(source), name(destination));
            let expected = evaluated(world, &pod(world, source), &pod(world, destination));
            prop_assert_eq!(all.get(&sides) == Some(&true), expected, "map {:?}", &sides);
            prop_assert_eq!(reached.get(&sides) == Some(&true), expected, "reach {:?}", &sides);
            let verdict = check.get(&sides) == Some(&Verdict::Allowed);
            prop_assert_eq!(verdict, expected, "check {:?}", &sides);
            // The command looks at the pods only that it is asked about.
            let both = [(*source).clone(), (*destination).clone()].into();
            let few = Reach::among(world, View::Enforced, &both);
            for from in pod(world, source) {
                for to in pod(world, destination) {
                    prop_assert_eq!(few.between(&from, &to), reach.between(&from, &to));
                }
            }
            asked += 1;
        }
    }
    Ok(asked)
}

/// Every format of `map`, read back, says of each ordered pair of pods what `evaluate` says.
fn formats_agree(world: World) -> Result<usize, TestCaseError> {
    const TRAFFIC: [Traffic; 6] = [
        Traffic::Port(Protocol::Tcp, 80),
        Traffic::Port(Protocol::Tcp, PORT),
        Traffic::Port(Protocol::Tcp, 65535),
        Traffic::Port(Protocol::Udp, 53),
        Traffic::Port(Protocol::Sctp, 82),
        Traffic::Other,
    ];
    let mut cluster = Cluster::new(&Inventory::default(), world.options.clone());
    cluster.world = world;
    let (world, reach) = (&cluster.world, Reach::new(&cluster.world));
    let matrix = [Matrix::new(&cluster, &reach, By::Pod, &Focus::all(About::Destinations))];
    let map = Map::of_pairs(&matrix, Vec::new());
    let by_source = [Matrix::new(&cluster, &reach, By::Pod, &Focus::all(About::Sources))];
    let grouped = Map::of_groups(&matrix, Vec::new());
    let grouped_by_source = Map::of_groups(&by_source, Vec::new());
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    };
    let short = |key: &PodKey| format!("{}/{}", key.namespace, key.name);
    let pods: Vec<&PodKey> =
        world.pods().values().filter(|pod| pod.takes_part()).map(|pod| &pod.key).collect();
    let everyone: BTreeSet<String> = pods.iter().map(|key| short(key)).collect();
    let mut formats = vec![
        ("json", formats::json(&written(&|out| write_json(&map, out).expect("written")))),
        ("groups", formats::groups(&written(&|out| write_json(&grouped, out).expect("written")))),
        (
            "groups by source",
            formats::groups(&written(&|out| write_json(&grouped_by_source, out).expect("written"))),
        ),
        ("csv", formats::csv(&written(&|out| table::csv(&map, out).expect("written")))),
        ("md", formats::markdown(&written(&|out| table::markdown(&map, out).expect("written")))),
    ];
    for (about, wide, name) in [
        (About::Destinations, false, "text"),
        (About::Destinations, true, "wide"),
        (About::Sources, false, "text by source"),
        (About::Sources, true, "wide by source"),
    ] {
        let matrix = Matrix::new(&cluster, &reach, By::Pod, &Focus::all(about));
        let found = written(&|out| text(&matrix, wide, out).expect("written"));
        formats.push((name, formats::text(&found, &everyone, about == About::Destinations)));
    }
    let mut asked = 0;
    for source in &pods {
        for destination in pods.iter().filter(|other| other != &source) {
            let (from, to) = (pod(world, source), pod(world, destination));
            for traffic in TRAFFIC {
                let expected = evaluated_for(world, &from, &to, traffic);
                for (name, read) in &formats {
                    // Only text has a word for protocols without ports.
                    let has_word = name.starts_with("text") || name.starts_with("wide");
                    let said = read.allows(&short(source), &short(destination), traffic);
                    if let Some(said) = said.filter(|_| has_word || traffic != Traffic::Other) {
                        prop_assert_eq!(
                            said,
                            expected,
                            "{}: {} to {}, {}",
                            name,
                            source,
                            destination,
                            traffic
                        );
                        asked += 1;
                    }
                }
            }
        }
    }
    Ok(asked)
}

fn in_random_worlds(cases: u32, check: impl Fn(World) -> Result<usize, TestCaseError>) -> usize {
    let asked_for = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: asked_for.unwrap_or(cases),
        failure_persistence: None,
        ..Default::default()
    });
    let asked = std::cell::Cell::new(0);
    let worlds = (worlds::history(20..60), any::<bool>());
    let held = runner.run(&worlds, |(history, allow_egress_to_own_node)| {
        let options = Options { allow_egress_to_own_node, ..Options::default() };
        let mut world = World::new(options);
        history.into_iter().for_each(|change| world.apply(change));
        asked.set(asked.get() + check(world)?);
        Ok(())
    });
    held.expect("it holds in every world");
    println!("{} answers", asked.get());
    asked.get()
}

#[test]
fn check_who_reach_and_map_say_what_evaluate_says() {
    let asked = in_random_worlds(CASES, agree);
    assert!(asked > 500, "{asked} connections prove little");
}

#[test]
fn every_format_of_map_says_what_evaluate_says() {
    let asked = in_random_worlds(CASES / 2, formats_agree);
    assert!(asked > 10_000, "{asked} answers prove little");
}

#[test]
fn advice_allows_what_is_asked_and_says_what_else_changes() {
    let tried = in_random_worlds(CASES / 2, advice::is_worth_it);
    assert!(tried > 25, "{tried} connections prove little");
}

#[test]
fn suggested_policies_allow_what_is_asked_and_no_rule_can_be_left_out() {
    let tried = in_random_worlds(CASES, |world| suggested::is_least(&world));
    assert!(tried > 60, "{tried} rules prove little");
}

#[test]
fn new_pods_can_connect_to_what_exposure_says_and_to_nothing_else() {
    let tried = in_random_worlds(CASES, |world| exposed::is_true(&world));
    assert!(tried > 2_000, "{tried} connections prove little");
}

#[test]
fn pods_in_an_ip_block_of_a_suggestion_need_no_rule_of_their_own() {
    let list = "10.0.0.0/8 shop/db:5432\nshop/web shop/db 5432\n192.168.0.0/16 shop/db:9187\n";
    let line = "suggest -c - -o json -f whatif/tests/sources/running.yaml";
    let answer = session::run(line, list);
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    let rules = answer["policies"][0]["spec"]["ingress"].as_array().expect("rules");
    assert_eq!(rules.len(), 2, "{answer:#}");
    let pods = rules.iter().any(|rule| rule.to_string().contains("podSelector"));
    assert!(!pods, "{answer:#}");
}

/// Each question is denied; with the policies that the answer prints it is allowed.
#[test]
fn the_policies_of_an_answer_allow_what_was_denied() {
    for (file, from, to) in [
        ("advice.yaml", "b/bare", "a/api:8080"),
        ("advice.yaml", "b/client", "a/api:8080"),
        ("advice.yaml", "b/mig", "a/api:8080"),
        ("advice.yaml", "c/flag", "a/api:8080"),
        ("advice.yaml", "b/client", "external:443"),
        ("advice.yaml", "203.0.113.0/24", "a/api:8080"),
        ("running.yaml", "192.168.1.1", "shop/db:5432"),
        ("kinds.yaml", "shop/db", "shop/db:5432"),
    ] {
        let line = format!("check {from} {to} -f whatif/tests/sources/{file}");
        let answer = session::run(&line, "");
        assert_eq!(answer.status.code(), Some(1), "{line}\n{}", session::text(&answer.stdout));
        let yaml = advice::yaml_in(&session::text(&answer.stdout));
        let then = session::run(&format!("{line} --with -"), &yaml);
        let (said, odd) = (session::text(&then.stdout), session::text(&then.stderr));
        assert_eq!(then.status.code(), Some(0), "{line}\n{said}{odd}\n{yaml}");
        assert!(!yaml.contains("controller-uid") && !yaml.contains("pod-template-hash"), "{yaml}");
    }
}
