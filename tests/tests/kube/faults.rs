//! The API server ends and comes back, agents end one after the other, policies change all the
//! while: what is allowed never breaks, and what is forbidden never passes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::Cluster;
use portcullis_tests::kube::ApiServer;
use serde_json::json;

use crate::shop::{ADMIN, ECHO, PATIENCE, WEB, allow, check, lab};
use crate::traffic::{Stop, Traffic};

const TRAFFIC: Traffic = Traffic {
    held: &[("web", "api"), ("near", "api")],
    allowed: &[("web", "api", WEB), ("near", "api", WEB), ("stranger", "other", WEB)],
    forbidden: &[("stranger", "api", WEB), ("lurker", "api", WEB), ("web", "api", ADMIN)],
};

/// The shop on an API server, without policies and agents: its pods run in the lab already, their
/// Pods are made here.
pub(crate) fn pods(flags: &[&str]) -> Result<Cluster> {
    let lab = lab(IptablesVariant::Nft).build()?;
    let mut cluster = Cluster::with_api_server(lab, flags, Vec::new())?;
    let mut items = vec![json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop"}})];
    items.extend(cluster.lab.pods().map(|pod| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": pod.name(), "labels": {"app": pod.name()}},
            "spec": {"nodeName": pod.node(), "containers": [{"name": "main", "image": "none"}]}})
    }));
    let pods: Vec<String> = cluster.lab.pods().map(portcullis_lab::Pod::key).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    apply(&cluster.control_plane()?.server, &list)?;
    cluster.run_pods("the shop", PATIENCE, |kubelet| pods.iter().all(|pod| kubelet.knows(pod)))?;
    Ok(cluster)
}

fn shop() -> Result<Cluster> {
    let mut cluster = pods(&[])?;
    let server = &cluster.control_plane()?.server;
    apply(server, &allow("api", &["web", "near"], &[WEB, ECHO]))?;
    churn(server, 0)?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    Ok(cluster)
}

pub(crate) fn apply(server: &ApiServer, text: &str) -> Result<()> {
    server.kubectl(&["apply", "-f", "-"], Some(text)).map(drop)
}

/// Changes that matter to both nodes, yet open and close nothing that is probed.
fn churn(server: &ApiServer, turn: usize) -> Result<()> {
    let more = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: shop, name: more}}\nspec:\n  podSelector: {{}}\n  ingress:\n  \
         - from: [{{ipBlock: {{cidr: 192.0.2.{}/32}}}}]\n    ports: [{{port: {}}}]\n---\n",
        turn % 250,
        9000 + turn % 100
    );
    // `other` is isolated by it as well, so it has to be let in; some turns let in more.
    let apps: &[&str] = if turn.is_multiple_of(2) { &["stranger"] } else { &["stranger", "web"] };
    apply(server, &(allow("other", apps, &[WEB]) + "---\n" + &more))
}

#[test]
fn agents_that_restart_one_after_the_other_are_not_noticed() -> Result<()> {
    let mut cluster = shop()?;
    check(&cluster.lab, "before", TRAFFIC.allowed, TRAFFIC.forbidden)?;
    let old = [cluster.take_agent("n1")?, cluster.take_agent("n2")?];
    let server = cluster.server()?;
    let stop = AtomicBool::new(false);
    let new = thread::scope(|scope| {
        let churning = scope.spawn(|| {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                churn(server, turn)?;
            }
            anyhow::Ok(turn)
        });
        let mut new = Vec::new();
        let done = TRAFFIC.during(&cluster.lab, || {
            let _stop = Stop(&stop);
            for agent in old {
                let node = agent.node().to_owned();
                agent.terminate()?;
                let agent = cluster.spawn_agent(&node)?;
                agent.wait_for("policies are enforced", PATIENCE)?;
                agent.kill()?;
                let agent = cluster.spawn_agent(&node)?;
                agent.wait_for("policies are enforced", PATIENCE)?;
                new.push(agent);
            }
            Ok(())
        });
        let turns = churning.join().map_err(|_| anyhow!("the churn panicked"))??;
        ensure!(turns > 2, "too few changes to tell: {turns}");
        done.map(|()| new)
    })?;
    new.into_iter().for_each(|agent| cluster.put_agent(agent));
    cluster.settle(PATIENCE)?;
    check(&cluster.lab, "after all", TRAFFIC.allowed, TRAFFIC.forbidden)
}

#[test]
fn what_is_enforced_outlives_the_api_server_and_what_changed_is_enforced_after() -> Result<()> {
    let mut cluster = shop()?;
    cluster.control_plane()?.server.kill();
    // Nothing is lost while it is away.
    TRAFFIC.during(&cluster.lab, || {
        check(&cluster.lab, "without an API server", TRAFFIC.allowed, TRAFFIC.forbidden)
    })?;
    for turn in 0..3 {
        let api = cluster.control_plane()?;
        api.server.restart()?;
        // Agents may not be back yet when these changes are made.
        let apps = if turn % 2 == 0 { ["web", "stranger"] } else { ["web", "near"] };
        apply(&api.server, &allow("api", &apps, &[WEB, ECHO]))?;
        if turn < 2 {
            api.server.kill();
        }
    }
    // The last turn lets `stranger` in, and `near` no more.
    cluster.settle(PATIENCE)?;
    let open = [("web", "api", WEB), ("stranger", "api", WEB)];
    let closed = [("near", "api", WEB), ("lurker", "api", WEB), ("web", "api", ADMIN)];
    check(&cluster.lab, "after all", &open, &closed)?;
    for node in ["n1", "n2"] {
        ensure!(cluster.take_agent(node)?.is_running()?, "the agent of {node} ended");
    }
    Ok(())
}
