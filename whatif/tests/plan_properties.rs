//! What `plan` tells of nodes is what `evaluate` says, before and after, in random worlds; and
//! undoing what it blames brings the old answer back.

// The worlds of the `tests` crate, without the controller that it would build.
#[allow(dead_code, unreachable_pub)]
#[path = "../../tests/src/worlds/mod.rs"]
mod worlds;

use std::collections::BTreeSet;

use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::policy::{Peer, Peers};
use policy_engine::reach::{Outside, PortSet, Reach, outside_difference};
use policy_engine::world::{Options, World};
use portcullis_whatif::model::{Cluster, Inventory};
use portcullis_whatif::output::plan::json;
use portcullis_whatif::plan::{Causes, ExternalChange, Plan};
use portcullis_whatif::source::Sources;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// How many random worlds, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 150;

fn runner() -> TestRunner {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    TestRunner::new(ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    })
}

#[test]
fn what_changes_towards_nodes_is_told_and_nothing_else() {
    let told = std::cell::Cell::new(0);
    let changes = (worlds::history(20..60), worlds::history(1..10), any::<bool>());
    let checked = runner().run(&changes, |(history, more, allow_egress_to_own_node)| {
        let options = Options { allow_egress_to_own_node, ..Options::default() };
        let mut before = cluster(history.iter().cloned(), &options);
        let mut after = cluster(history.into_iter().chain(more), &options);
        for cluster in [&mut before, &mut after] {
            assume_namespaces(&mut cluster.world);
        }
        let plan = Plan::new(&Sources::default(), &before, &after, options);
        told.set(told.get() + check(&plan)?);
        Ok(())
    });
    checked.expect("it holds in every world");
    println!("{} connections to nodes change", told.get());
    assert!(told.get() > 100, "{} changes prove little", told.get());
}

fn cluster(changes: impl Iterator<Item = Change>, options: &Options) -> Cluster {
    let mut cluster = Cluster::new(&Inventory::default(), options.clone());
    changes.for_each(|change| cluster.world.apply(change));
    cluster
}

fn assume_namespaces(world: &mut World) {
    for name in ["one", "two", "kube-system"] {
        if !world.namespaces().contains_key(name) {
            let assumed = portcullis_crds::convert::assumed_namespace(name);
            world.apply(Change::Namespace(name.into(), Some(assumed)));
        }
    }
}

/// How many connections change towards nodes.
fn check(plan: &Plan<'_>) -> Result<usize, TestCaseError> {
    let worlds = [&plan.before.world, &plan.after.world];
    if !worlds.into_iter().any(names_nodes) {
        return Ok(0);
    }
    let mut changed = 0;
    for (id, group) in plan.difference.groups.iter().enumerate() {
        if group.before.is_none() || group.after.is_none() {
            continue;
        }
        for node in worlds[1].nodes().keys().filter(|name| worlds[0].nodes().contains_key(*name)) {
            let mut found = plan.external.iter();
            let found = found.find(|change| change.group == id && change.nodes.contains(node));
            let judged = group.pods.iter().filter(|pod| !is_exempt(worlds, pod, node));
            for pod in judged {
                for traffic in worlds::traffic() {
                    if matches!(traffic, Traffic::Port(_, 0)) {
                        continue;
                    }
                    let [was, is] = worlds.map(|world| may_open(world, pod, node, traffic));
                    changed += usize::from(was != is);
                    match found {
                        None => prop_assert_eq!(was, is, "{} to {}: {:?}", pod, node, traffic),
                        Some(change) => {
                            prop_assert_eq!(change.before.contains(traffic), was);
                            prop_assert_eq!(change.after.contains(traffic), is);
                        }
                    }
                }
            }
        }
    }
    Ok(changed)
}

/// Whether it is the pod's own node, to which it may open everything by choice.
fn is_exempt(worlds: [&World; 2], pod: &PodKey, node: &Str) -> bool {
    worlds.into_iter().any(|world| {
        world.options.allow_egress_to_own_node && world.pods()[pod].node.as_ref() == Some(node)
    })
}

fn names_nodes(world: &World) -> bool {
    let mut rules = world.policies().flat_map(|policy| policy.rules(Direction::Egress));
    rules.any(|rule| match &rule.peers {
        Peers::Any => false,
        Peers::Listed(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
    })
}

/// Whether some address of the pod may open it at some address of the node.
fn may_open(world: &World, pod: &PodKey, node: &Str, traffic: Traffic) -> bool {
    meetings(world, pod, node).into_iter().any(|(source, destination)| {
        evaluate(world, &Flow { source, destination, traffic }).is_allowed()
    })
}

/// All that some address of the pod may open at some address of the node.
fn to_node(reach: &Reach<'_>, world: &World, pod: &PodKey, node: &Str) -> PortSet {
    let mut ports = PortSet::default();
    for (source, destination) in meetings(world, pod, node) {
        ports.add(&reach.between(&source, &destination));
    }
    ports
}

/// The addresses of the pod and of the node that can meet.
fn meetings(world: &World, pod: &PodKey, node: &Str) -> Vec<(Endpoint, Endpoint)> {
    let own: Vec<_> = world.owned_addresses(&world.pods()[pod]).map(Some).collect();
    let own = if own.is_empty() { vec![None] } else { own };
    let there: Vec<_> = world.nodes()[node].addresses.iter().copied().map(Some).collect();
    let there = if there.is_empty() { vec![None] } else { there };
    let pairs = own.iter().flat_map(|from| there.iter().map(move |to| (*from, *to)));
    pairs
        .filter(|(from, to)| from.zip(*to).is_none_or(|(one, two)| one.is_ipv4() == two.is_ipv4()))
        .map(|(from, to)| (Endpoint::Pod(pod.clone(), from), Endpoint::Node(node.clone(), to)))
        .collect()
}

#[test]
fn undoing_what_is_blamed_brings_the_old_answer_back() {
    let told = std::cell::Cell::new([0; 3]);
    let changes = (worlds::history(20..60), vec(policy_change(), 1..6));
    let checked = runner().run(&changes, |(history, more)| {
        let mut sources = Sources::default();
        history.into_iter().for_each(|change| sources.before.apply(change));
        sources.after = sources.before.clone();
        more.into_iter().for_each(|change| sources.after.apply(change));
        let cluster = |inventory| Cluster::new(inventory, Options::default());
        let (before, after) = (cluster(&sources.before), cluster(&sources.after));
        let plan = Plan::new(&sources, &before, &after, Options::default());
        let [mut alone, mut shared, mut outside] = told.get();
        for change in &plan.changes {
            let (from, to) = (&plan.difference.groups[change.source].pods, change.destination);
            let to = &plan.difference.groups[to].pods;
            let holds = |undone: &Cluster| between(undone, &from[0], to) == change.before;
            let together = blamed(&plan, &sources, &change.because, holds)?;
            *(if together { &mut shared } else { &mut alone }) += 1;
        }
        for change in &plan.external {
            let holds = |undone: &Cluster| is_as_before(undone, &plan, change);
            blamed(&plan, &sources, &change.because, holds)?;
            outside += 1;
        }
        told.set([alone, shared, outside]);
        Ok(())
    });
    checked.expect("it holds in every world");
    let [alone, shared, outside] = told.get();
    println!("{alone} by one object each, {shared} by several together, {outside} outside");
    assert!(alone > 100 && shared > 10 && outside > 100, "{:?} prove little", told.get());
}

/// The connections between two different members that change, and what happens to each.
type Told = BTreeSet<(String, String, String)>;

#[test]
fn groups_say_what_pairs_say() {
    let told = std::cell::Cell::new(0);
    let changes = (worlds::history(20..60), vec(worlds::change(), 1..6));
    let checked = runner().run(&changes, |(history, more)| {
        let mut sources = Sources::default();
        history.into_iter().for_each(|change| sources.before.apply(change));
        sources.after = sources.before.clone();
        more.into_iter().for_each(|change| sources.after.apply(change));
        let cluster = |inventory| Cluster::new(inventory, Options::default());
        let (before, after) = (cluster(&sources.before), cluster(&sources.after));
        let plan = Plan::new(&sources, &before, &after, Options::default());
        let json = |plan| serde_json::to_value(plan).expect("JSON");
        let pairs = json(json::Plan::of_pairs(&plan, Vec::new()));
        let groups = json(json::Plan::of_groups(&plan, Vec::new()));
        let (of_pairs, of_groups) = (in_pairs(&pairs), in_groups(&groups));
        prop_assert_eq!(&of_pairs, &of_groups);
        let count = groups["edges"].as_array().map_or(0, Vec::len);
        prop_assert!(count <= pairs["changes"].as_array().map_or(0, Vec::len));
        told.set(told.get() + of_pairs.len());
        Ok(())
    });
    checked.expect("it holds in every world");
    assert!(told.get() > 500, "{} changes prove little", told.get());
}

/// What happens: the ports, and what did it by name.
fn what(change: &Value, because: Vec<&Value>) -> String {
    let object = |cause: &Value| cause["object"].to_string();
    let because: Vec<String> = because.into_iter().map(object).collect();
    format!("{} {} {} {because:?}", change["change"], change["before"], change["after"])
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn in_pairs(plan: &Value) -> Told {
    let mut told = Told::new();
    for change in list(plan, "changes") {
        let what = what(change, list(change, "because").iter().collect());
        if change["source"] != change["destination"] {
            told.insert((change["source"].to_string(), change["destination"].to_string(), what));
        }
    }
    for change in list(plan, "external") {
        let what = what(change, list(change, "because").iter().collect());
        let peers = format!("{} {} {}", change["direction"], change["cidrs"], change["nodes"]);
        told.insert((change["workload"].to_string(), peers, what));
    }
    told
}

fn in_groups(plan: &Value) -> Told {
    let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).expect("small");
    let members = |groups: &[Value]| -> Vec<String> {
        let groups = groups.iter().map(|id| &plan["groups"][number(id)]);
        groups.flat_map(|group| list(group, "members")).map(Value::to_string).collect()
    };
    let what = |edge: &Value| {
        let because = list(edge, "because").iter().map(|id| &plan["objects"][number(id)]);
        what(edge, because.collect())
    };
    let mut told = Told::new();
    for edge in list(plan, "edges") {
        for from in members(list(edge, "from")) {
            for to in members(list(edge, "to")).into_iter().filter(|to| *to != from) {
                told.insert((from.clone(), to, what(edge)));
            }
        }
    }
    for edge in list(plan, "externalEdges") {
        let peers = format!("{} {} {}", edge["direction"], edge["cidrs"], edge["nodes"]);
        for member in members(list(edge, "groups")) {
            told.insert((member, peers.clone(), what(edge)));
        }
    }
    told
}

/// Of a policy of any kind.
fn policy_change() -> impl Strategy<Value = Change> {
    worlds::change().prop_filter("a policy", |change| {
        !matches!(change, Change::Pod(..) | Change::Namespace(..) | Change::Node(..))
    })
}

/// Whether several objects are blamed together: each alone does not bring the old answer back, all
/// of them do, and none can be left out.
fn blamed(
    plan: &Plan<'_>,
    sources: &Sources,
    because: &Causes,
    holds: impl Fn(&Cluster) -> bool,
) -> Result<bool, TestCaseError> {
    prop_assert!(!because.is_empty(), "something did it");
    let without = |undone: &mut dyn Iterator<Item = &usize>| {
        let mut inventory = sources.after.clone();
        for number in undone {
            let name = plan.objects[*number].name.clone();
            let old = sources.before.get(&name).cloned();
            inventory.put(name, old);
        }
        holds(&Cluster::new(&inventory, Options::default()))
    };
    let alone: BTreeSet<_> =
        because.iter().filter(|number| without(&mut [**number].iter())).collect();
    if !alone.is_empty() {
        prop_assert_eq!(alone.len(), because.len(), "either each alone, or none");
        return Ok(false);
    }
    prop_assert!(without(&mut because.iter()), "all together do it");
    for left_out in because.iter() {
        let mut others = because.iter().filter(|number| *number != left_out);
        prop_assert!(!without(&mut others), "{} is blamed for nothing", left_out);
    }
    Ok(true)
}

/// What a pod may open at another of these.
fn between(cluster: &Cluster, source: &PodKey, destinations: &[PodKey]) -> PortSet {
    let reach = Reach::new(&cluster.world);
    let other = destinations.iter().find(|pod| *pod != source).expect("another pod");
    let class = |pod| reach.class_of(pod).expect("pods stay");
    let edges = reach.edges();
    let mut edges = edges.iter();
    let edge = edges.find(|edge| (edge.source, edge.destination) == (class(source), class(other)));
    edge.map(|edge| edge.allowed.clone()).unwrap_or_default()
}

/// Whether addresses outside, or nodes, fare as they did before.
fn is_as_before(undone: &Cluster, plan: &Plan<'_>, change: &ExternalChange) -> bool {
    let pod = &plan.difference.groups[change.group].pods[0];
    let reach = Reach::new(&undone.world);
    if let Some(node) = change.nodes.first() {
        return to_node(&reach, &undone.world, pod, node) == change.before;
    }
    let is = reach.outside(reach.class_of(pod).expect("pods stay"), change.direction);
    let mut was = Outside::default();
    if !change.before.is_empty() {
        was.parts.push((change.addresses.clone(), change.before.clone()));
    }
    let mut differing = outside_difference(&was, &is).into_iter();
    differing.all(|piece| piece.addresses.intersection(&change.addresses).is_empty())
}
