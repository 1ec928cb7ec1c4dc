//! Policies of the whole cluster on an API server, on real packets: their kinds come and go, and
//! tiers change under traffic that is allowed throughout.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use portcullis_lab::{DEFAULT_TIMEOUT, Endpoint, Listener, PodSpec, Probe};
use portcullis_tests::cluster::{Agent, Cluster};
use portcullis_tests::kube::{ApiServer, CLUSTER_NETWORK_POLICY_CRD};
use serde_json::{Value, json};

use crate::faults::{apply, pods};
use crate::shop::{ADMIN, ECHO, PATIENCE, WEB, allow, check};
use crate::traffic::Traffic;

/// Agents look every second or two for kinds that the cluster lacks.
const FLAGS: &[&str] = &["--missing-kind-period=1"];

/// Every pod of the shop may be reached by nobody, where nothing before it decides.
const CLOSED: &str = "apiVersion: portcullis.dev/v1alpha1\nkind: ClusterDefaultNetworkPolicy\n\
    metadata: {name: closed}\nspec: {policyTypes: [Ingress]}\n---\n";

/// The shop with its agents. NetworkPolicy lets `web` and `near` to `api`; `other` is open.
fn shop() -> Result<Cluster> {
    let mut cluster = pods(FLAGS)?;
    apply(cluster.server()?, &allow("api", &["web", "near"], &[WEB, ECHO]))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    Ok(cluster)
}

/// A policy of the tier Admin: ingress of pods `app=TO` from pods with one of these labels, or
/// from all pods; to what web servers and echo servers listen on.
fn admin(name: &str, priority: u32, action: &str, to: &str, from: &[&str]) -> String {
    let from = if from.is_empty() {
        "{}".to_owned()
    } else {
        let apps = from.join(", ");
        format!("{{matchExpressions: [{{key: app, operator: In, values: [{apps}]}}]}}")
    };
    let port = |number| format!("{{tcp: {{destinationPort: {{number: {number}}}}}}}");
    let (web, echo) = (port(WEB), port(ECHO));
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: {name}}}\nspec:\n  tier: Admin\n  priority: {priority}\n  \
         subject: {{pods: {{podSelector: {{matchLabels: {{app: {to}}}}}}}}}\n  ingress:\n  \
         - action: {action}\n    from: [{{pods: {{podSelector: {from}}}}}]\n    \
         protocols: [{web}, {echo}]\n---\n"
    )
}

fn delete(server: &ApiServer, objects: &[&str]) -> Result<()> {
    server.kubectl(&[&["delete"], objects].concat(), None).map(drop)
}

#[test]
fn a_kind_that_is_installed_late_is_enforced_and_ends_with_its_crd() -> Result<()> {
    let mut cluster = shop()?;
    let open = [("web", "api", WEB), ("near", "api", WEB), ("lurker", "other", WEB)];
    let closed = [("lurker", "api", WEB), ("stranger", "api", WEB), ("web", "api", ADMIN)];
    check(&cluster.lab, "without the kind", &open, &closed)?;
    let absent = "the cluster lacks this kind; it is used when it comes";
    for agent in cluster.agents() {
        agent.wait_for(absent, PATIENCE)?;
    }

    // A server that comes back is no news of the kind.
    let said: Vec<usize> = cluster.agents().map(Agent::logged).collect();
    let server = &mut cluster.control_plane()?.server;
    server.restart()?;
    server.install_cluster_network_policy()?;
    let everybody = admin("b", 2, "Deny", "api", &[]);
    apply(server, &(admin("a", 1, "Accept", "api", &["stranger"]) + &everybody))?;
    cluster.settle(PATIENCE)?;
    for (agent, said) in cluster.agents().zip(said) {
        for line in [absent, "the CRD of this kind was deleted"] {
            ensure!(agent.said_after(said, line).is_none(), "{line}: said again");
        }
    }
    let denied = [("web", "api", WEB), ("near", "api", WEB), ("lurker", "api", WEB)];
    check(&cluster.lab, "with it", &[("stranger", "api", WEB), open[2]], &denied)?;

    delete(cluster.server()?, &["crd", CLUSTER_NETWORK_POLICY_CRD])?;
    for agent in cluster.agents() {
        agent.wait_for("the CRD of this kind was deleted", PATIENCE)?;
    }
    cluster.settle(PATIENCE)?;
    check(&cluster.lab, "when it is gone", &open, &closed)?;

    // The same with our own kind.
    apply(cluster.server()?, CLOSED)?;
    cluster.settle(PATIENCE)?;
    let all_closed = [&closed[..], &open[2..]].concat();
    check(&cluster.lab, "with a default", &open[..2], &all_closed)?;
    delete(cluster.server()?, &["crd", "clusterdefaultnetworkpolicies.portcullis.dev"])?;
    check(&cluster.lab, "without all of these kinds", &open, &closed)?;

    // An agent that starts in a cluster that has neither is enforced.
    let old = cluster.take_agent("n2")?;
    old.terminate()?;
    apply(cluster.server()?, &allow("api", &["web"], &[WEB]))?;
    let new = cluster.spawn_agent("n2")?;
    new.wait_for("policies are enforced", PATIENCE)?;
    let closed = [&closed[..], &[("near", "api", WEB)]].concat();
    check(&cluster.lab, "an agent that starts anew", &[open[0], open[2]], &closed)
}

const TRAFFIC: Traffic = Traffic {
    held: &[("web", "api"), ("near", "api")],
    allowed: &[("web", "api", WEB), ("near", "api", WEB), ("stranger", "other", WEB)],
    forbidden: &[("stranger", "api", WEB), ("lurker", "api", WEB), ("web", "api", ADMIN)],
};

#[test]
fn tiers_that_come_and_go_are_not_noticed_by_what_is_allowed_throughout() -> Result<()> {
    let cluster = {
        let mut cluster = shop()?;
        cluster.control_plane()?.server.install_cluster_network_policy()?;
        cluster.settle(PATIENCE)?;
        cluster
    };
    let server = cluster.server()?;
    let then = |change: Result<()>| change.and_then(|()| cluster.settle(PATIENCE));
    let lurker = [("lurker", "other", WEB)];
    check(&cluster.lab, "before", TRAFFIC.allowed, TRAFFIC.forbidden)?;
    check(&cluster.lab, "before", &lurker, &[])?;
    TRAFFIC.during(&cluster.lab, || {
        for _ in 0..3 {
            // What was allowed for want of a policy is accepted, then all else is closed.
            then(apply(server, &admin("accept", 1, "Accept", "other", &["stranger"])))?;
            then(apply(server, CLOSED))?;
            check(&cluster.lab, "with a default", &[], &lurker)?;
            // What NetworkPolicy allows is passed to it, then all else is denied before it.
            then(apply(server, &admin("pass", 2, "Pass", "api", &["web", "near"])))?;
            then(apply(server, &admin("deny", 3, "Deny", "api", &[])))?;
            // Another tier decides the same, and NetworkPolicy lets in nobody meanwhile.
            then(apply(server, &admin("pass", 2, "Accept", "api", &["web", "near"])))?;
            then(apply(server, &allow("api", &[], &[])))?;
            then(apply(server, &allow("api", &["web", "near"], &[WEB, ECHO])))?;
            then(delete(server, &["clusternetworkpolicies", "deny"]))?;
            then(delete(server, &["clusternetworkpolicies", "pass"]))?;
            then(delete(server, &["clusterdefaultnetworkpolicies", "closed"]))?;
            check(&cluster.lab, "without the default", &lurker, &[])?;
            then(delete(server, &["clusternetworkpolicies", "accept"]))?;
        }
        Ok(())
    })?;
    check(&cluster.lab, "after all", TRAFFIC.allowed, TRAFFIC.forbidden)
}

/// Takes from the account of agents, or gives it back, the right to read ClusterNetworkPolicies.
fn forbid(server: &ApiServer, is_forbidden: bool) -> Result<()> {
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/portcullis-node";
    let mut role: Value = serde_json::from_str(&server.kubectl(&["get", "--raw", path], None)?)?;
    let rules = role["rules"].as_array_mut().context("a role has rules")?;
    let resources = json!(["clusternetworkpolicies"]);
    rules.retain(|rule| rule["resources"] != resources);
    if !is_forbidden {
        let group = "policy.networking.k8s.io";
        rules.push(
            json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]}),
        );
    }
    server.kubectl(&["replace", "-f", "-"], Some(&role.to_string())).map(drop)
}

#[test]
fn a_kind_that_agents_may_not_read_any_more_stays_enforced_and_holds_up_no_other() -> Result<()> {
    let mut cluster = shop()?;
    cluster.control_plane()?.server.install_cluster_network_policy()?;
    apply(cluster.server()?, &admin("deny", 1, "Deny", "other", &["lurker"]))?;
    cluster.settle(PATIENCE)?;
    let kept = [("lurker", "other", WEB)];
    check(&cluster.lab, "before", &[("web", "api", WEB)], &kept)?;

    forbid(cluster.server()?, true)?;
    let said: Vec<usize> = cluster.agents().map(Agent::logged).collect();
    // A watch goes on with the rights that it was opened with.
    cluster.control_plane()?.server.restart()?;
    for (agent, said) in cluster.agents().zip(&said) {
        agent.wait_for_after(
            *said,
            "clusternetworkpolicies.policy.networking.k8s.io is forbidden",
            PATIENCE,
        )?;
    }
    let server = cluster.server()?;
    delete(server, &["clusternetworkpolicies", "deny"])?;
    apply(server, &allow("api", &["stranger"], &[WEB]))?;
    check(&cluster.lab, "unread", &[("stranger", "api", WEB)], &[("web", "api", WEB), kept[0]])?;

    forbid(server, false)?;
    cluster.settle(PATIENCE)?;
    check(&cluster.lab, "read again", &[("stranger", "api", WEB), kept[0]], &[("web", "api", WEB)])
}

/// A Namespace with one Pod of node n2, in one request.
fn namespace_with_pod(namespace: &str) -> String {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": "first", "labels": {"app": "first"}},
        "spec": {"nodeName": "n2", "containers": [{"name": "main", "image": "none"}]}});
    let about = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    json!({"apiVersion": "v1", "kind": "List", "items": [about, pod]}).to_string()
}

#[test]
fn a_new_namespace_is_covered_from_the_first_packet_of_its_first_pod() -> Result<()> {
    let mut cluster = shop()?;
    apply(cluster.server()?, CLOSED)?;
    cluster.settle(PATIENCE)?;
    // `kube-public` is the system's, which a default leaves out: its pod shows that packets arrive.
    let pods = [("new", false), ("kube-public", true)];
    let mut addresses = Vec::new();
    for (place, (namespace, _)) in pods.iter().enumerate() {
        apply(cluster.server()?, &namespace_with_pod(namespace))?;
        let host = u32::try_from(200 + place)?;
        let node = cluster.lab.node("n2")?;
        let own: Vec<IpAddr> = node.pod_cidrs().iter().filter_map(|net| nth(*net, host)).collect();
        let ips: Vec<_> = own.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {"phase": "Running", "podIPs": ips}}).to_string();
        let patch =
            ["patch", "pod", "first", "-n", namespace, "--subresource=status", "-p", &status];
        cluster.server()?.kubectl(&patch, None)?;
        addresses.push(own);
    }
    // Nothing but the two objects and the address is known when the pod gets its network.
    cluster.settle(PATIENCE)?;
    for ((namespace, open), own) in pods.into_iter().zip(addresses) {
        let spec = PodSpec::new(namespace, "first", "n2").listen(Listener::tcp(WEB));
        cluster.lab.add_pod(own.iter().fold(spec, |spec, address| spec.address(*address)))?;
        let from = ["web", "near"].map(|name| Endpoint::pod(format!("shop/{name}")));
        let to = |address: &IpAddr| from.clone().map(|from| Probe::tcp(from, *address, WEB));
        let probes: Vec<Probe> = own.iter().flat_map(to).collect();
        for (probe, outcome) in probes.iter().zip(cluster.lab.probe_all(&probes, DEFAULT_TIMEOUT)?)
        {
            ensure!(outcome.is_open() == open, "{namespace}: {probe} is {outcome}");
        }
    }
    Ok(())
}

/// An address of a network by its number.
fn nth(net: IpNet, number: u32) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) => net.hosts().nth(number.try_into().ok()?).map(IpAddr::from),
        IpNet::V6(net) => {
            Some(Ipv6Addr::from(u128::from(net.network()) + u128::from(number)).into())
        }
    }
}
