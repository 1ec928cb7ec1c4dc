//! An agent watches its own Node, and all others only while a policy names nodes. Until these are
//! known, such a policy is held back or decided closed, and nothing else waits for them.

use anyhow::{Result, ensure};
use policy_engine::direction::Direction;
use policy_engine::model::Change;
use policy_engine::policy::{OrderedRule, Peer};
use portcullis_tests::kube::{ApiServer, Options};

use super::proxy::{Mode, Proxy};
use super::seen::Seen;
use super::{apply, namespace, policy, unbent};

/// The parts of the requests for all Nodes but n1, and of those for n1.
const OTHERS: [&str; 2] = ["/nodes?", "metadata.name%21%3Dn1"];
const OWN: [&str; 2] = ["/nodes?", "metadata.name%3Dn1"];

fn node(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n---\n")
}

/// A policy of the tier Admin that denies egress to these peers.
fn denies(name: &str, to: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/v1beta1, kind: ClusterNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {{tier: Admin, priority: 1, \
         subject: {{namespaces: {{}}}}, egress: [{{action: Deny, to: [{to}]}}]}}}}\n---\n"
    )
}

const NODES: &str = "{nodes: {}}";
const NO_NODES: &str = "{namespaces: {}}";

fn server() -> Result<ApiServer> {
    let server = ApiServer::start(Options::default())?;
    server.install_cluster_network_policy()?;
    apply(&server, &[&namespace("shop"), &node("n1"), &node("n2"), &denies("other", NO_NODES)])?;
    Ok(server)
}

/// The rules of a policy for egress, as they were sent last.
fn rules(seen: &Seen, name: &str) -> Vec<OrderedRule> {
    match seen.objects.get(&format!("ClusterNetworkPolicy {name}")) {
        Some(Change::Policy(_, Some(policy))) => policy.ordered(Direction::Egress).to_vec(),
        _ => Vec::new(),
    }
}

fn is_closed(seen: &Seen, name: &str) -> bool {
    rules(seen, name) == [OrderedRule::deny_everything()]
}

fn is_written(seen: &Seen, name: &str) -> bool {
    let is_nodes = |peer: &Peer| matches!(peer, Peer::Nodes(_));
    rules(seen, name).iter().any(|found| found.rule.peers.listed().iter().any(is_nodes))
}

fn has(name: &str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.objects.contains_key(name)
}

#[test]
fn other_nodes_are_watched_while_a_policy_names_nodes_and_not_before_or_after() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    ensure!(has("Node n1")(&seen) && !has("Node n2")(&seen), "{:?}", seen.objects.keys());
    let own = proxy.count(&OWN);
    ensure!(own >= 1 && proxy.count(&["/nodes"]) == own, "only its own Node is requested");

    apply(&server, &[&denies("nodes", NODES)])?;
    seen.until("the policy with all Nodes", |seen| is_written(seen, "nodes"))?;
    ensure!(has("Node n2")(&seen), "{:?}", seen.objects.keys());
    assert_eq!(proxy.count(&OTHERS), 1, "one list, which is the beginning of the watch");
    let together = seen.batches_of("Node n2", 0);
    assert_eq!(together, [["+Node n2", "+ClusterNetworkPolicy nodes"].map(str::to_owned)]);
    assert_eq!(seen.batches_of("ClusterNetworkPolicy nodes", 0).len(), 1, "it was never closed");
    // Changes of other Nodes arrive, and another policy needs no other list.
    apply(&server, &[&node("n3")])?;
    seen.until_change("+Node n3")?;
    apply(&server, &[&denies("more", NODES)])?;
    seen.until_change("+ClusterNetworkPolicy more")?;
    ensure!(is_written(&seen, "more"), "{:?}", rules(&seen, "more"));
    // The first of two goes, and the second no longer names nodes.
    server.kubectl(&["delete", "clusternetworkpolicies", "nodes"], None)?;
    apply(&server, &[&denies("more", NO_NODES)])?;
    seen.until("the end of the other Nodes", |seen| !has("Node n3")(seen))?;
    ensure!(has("Node n1")(&seen) && !has("Node n2")(&seen), "{:?}", seen.objects.keys());
    apply(&server, &[&node("n4"), &policy("after")])?;
    seen.until_change("+NetworkPolicy shop/after")?;
    ensure!(!has("Node n4")(&seen), "no policy names nodes");
    assert_eq!(proxy.count(&OTHERS), 1);

    apply(&server, &[&denies("again", NODES)])?;
    seen.until("the policy with all Nodes", |seen| is_written(seen, "again"))?;
    ensure!(has("Node n4")(&seen), "{:?}", seen.objects.keys());
    assert_eq!(proxy.count(&OTHERS), 2);
    Ok(())
}

#[test]
fn until_the_nodes_are_known_a_policy_that_names_them_is_closed_and_nothing_waits() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server, unbent)?;
    proxy.set(Mode::RefuseSome(OTHERS[1], 403));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    apply(&server, &[&denies("nodes", NODES), &policy("before")])?;
    seen.until("a policy that is closed", |seen| is_closed(seen, "nodes"))?;
    seen.until("another one", has("NetworkPolicy shop/before"))?;
    let late = |seen: &Seen| seen.diagnostics.get("policies that name nodes").cloned();
    seen.until("a report", |seen| late(seen).is_some_and(|found| found.len() == 1))?;
    ensure!(late(&seen).is_some_and(|found| found[0].contains("could not be listed yet")));
    ensure!(is_closed(&seen, "nodes"), "{:?}", rules(&seen, "nodes"));
    proxy.set(Mode::Pass);
    seen.until("the policy with all Nodes", |seen| is_written(seen, "nodes"))?;
    seen.until("the end of the report", |seen| late(seen).is_some_and(|found| found.is_empty()))?;

    // A watch that fails later does not close it.
    proxy.set(Mode::RefuseSome(OTHERS[1], 503));
    apply(&server, &[&policy("after"), &denies("more", NODES)])?;
    seen.until("another policy", |seen| is_written(seen, "more"))?;
    ensure!(is_written(&seen, "nodes") && has("Node n2")(&seen), "{:?}", seen.objects.keys());
    Ok(())
}

/// An agent with rules of an earlier agent waits for [`Seen::synced_after`], another one does not.
#[test]
fn a_start_waits_for_the_nodes_that_a_policy_names_but_not_for_long() -> Result<()> {
    let server = server()?;
    apply(&server, &[&denies("nodes", NODES)])?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    ensure!(is_written(&seen, "nodes") && has("Node n2")(&seen), "{:?}", seen.objects.keys());

    proxy.set(Mode::RefuseSome(OTHERS[1], 503));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until("all but the Nodes", |seen| seen.is_synced_in_part)?;
    ensure!(is_closed(&seen, "nodes"), "{:?}", rules(&seen, "nodes"));
    seen.until_synced()?;
    ensure!(is_closed(&seen, "nodes"), "it is applied closed");
    proxy.set(Mode::Pass);
    seen.until("the policy with all Nodes", |seen| is_written(seen, "nodes"))
}
