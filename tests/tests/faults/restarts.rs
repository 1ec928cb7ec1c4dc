//! Agents that end, are killed, or are two: packets do not notice.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use portcullis_lab::{Family, IptablesVariant};
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};

use crate::shop::{ADMIN, ECHO, PATIENCE, WEB, allow, check, lab, shop, start};
use crate::traffic::{Stop, Traffic};

const TRAFFIC: Traffic = Traffic {
    held: &[("web", "api"), ("near", "api")],
    allowed: &[("web", "api", WEB), ("near", "api", WEB), ("stranger", "other", WEB)],
    forbidden: &[
        ("stranger", "api", WEB),
        ("lurker", "api", WEB),
        ("web", "api", ADMIN),
        // By egress.
        ("web", "other", WEB),
        ("near", "other", WEB),
    ],
};

/// Between two turns of changes.
const CHURN_PACE: Duration = Duration::from_millis(20);

/// On both nodes: `web` and `near` may talk to `api` only, and only they to it.
const EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: clients}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [web, near]}]}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: api}}}]
";

fn guarded(variant: IptablesVariant, flags: &[&str]) -> Result<Cluster> {
    let cluster = shop(lab(variant), flags)?;
    cluster.write("api.yaml", &allow("api", &["web", "near"], &[WEB, ECHO]))?;
    cluster.write("egress.yaml", EGRESS)?;
    Ok(cluster)
}

/// One turn of changes that matter to both nodes, yet open and close nothing that is probed.
fn churn(cluster: &Cluster, turn: usize) -> Result<()> {
    let mut ghosts = String::new();
    for number in 0..turn % 7 {
        let _ = writeln!(
            ghosts,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: ghost-{number}, \
             labels: {{app: web}}}}\nspec: {{nodeName: n3}}\nstatus: {{phase: Running, \
             podIPs: [{{ip: 10.244.3.{number}}}, {{ip: \"fd44:0:0:3::{number}\"}}]}}"
        );
    }
    cluster.write("ghosts.yaml", &ghosts)?;
    let more = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: shop, name: more}}\nspec:\n  podSelector: {{}}\n  ingress:\n  \
         - from: [{{ipBlock: {{cidr: 192.0.2.{}/32}}}}]\n    ports: [{{port: {}}}]\n",
        turn % 250,
        9000 + turn % 100
    );
    // `other` is isolated by it as well, so it has to be let in.
    cluster.write("other.yaml", &allow("other", &["stranger", "web", "near"], &[WEB]))?;
    if turn.is_multiple_of(3) {
        cluster.write("more.yaml", "# no policy now\n")
    } else {
        cluster.write("more.yaml", &more)
    }
}

/// Does `action` while policies change all the time, at least so many times.
fn under_churn(cluster: &Cluster, turns: usize, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let (stop, turn) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let churning = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) || turn.load(Ordering::Relaxed) < turns {
                churn(cluster, turn.fetch_add(1, Ordering::Relaxed))?;
                thread::sleep(CHURN_PACE);
            }
            anyhow::Ok(())
        });
        let done = {
            let _stop = Stop(&stop);
            action()
        };
        churning.join().map_err(|_| anyhow!("the churn panicked"))??;
        done
    })
}

fn restarts(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let cluster = guarded(variant, &[])?;
    // Nothing opens or closes later on: the churn begins with this one.
    churn(&cluster, 0)?;
    let mut agents = vec![start(&cluster, "n1")?, start(&cluster, "n2")?];
    TRAFFIC.during(&cluster.lab, || {
        for node in ["n1", "n2"] {
            agents.remove(0).terminate()?;
            agents.push(start(&cluster, node)?);
        }
        for node in ["n1", "n2"] {
            agents.remove(0).kill()?;
            agents.push(start(&cluster, node)?);
        }
        Ok(())
    })?;
    let agent = agents.pop().context("n2")?;
    agent.kill()?;
    TRAFFIC.during(&cluster.lab, || {
        under_churn(&cluster, 1, || {
            for turn in 0..12 {
                let agent = cluster.spawn_agent("n2")?;
                if turn % 2 == 0 {
                    agent.wait_for("opened the dataplane", PATIENCE)?;
                } else {
                    agent.wait_for("policies are enforced", PATIENCE)?;
                }
                // Wherever in its work it is by then.
                thread::sleep(Duration::from_millis(turn * 11 % 60));
                agent.kill()?;
            }
            Ok(())
        })
    })?;
    let _agent = start(&cluster, "n2")?;
    check(&cluster.lab, "after all", TRAFFIC.allowed, TRAFFIC.forbidden)
}

#[test]
fn an_agent_that_ends_is_killed_and_killed_while_it_applies_is_not_noticed_nft() -> Result<()> {
    restarts(IptablesVariant::Nft)
}

#[test]
fn an_agent_that_ends_is_killed_and_killed_while_it_applies_is_not_noticed_legacy() -> Result<()> {
    restarts(IptablesVariant::Legacy)
}

/// An agent with other flags, as after an update, whose chains are in another table.
fn change_of_table(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    let cluster = guarded(variant, &[])?;
    churn(&cluster, 0)?;
    let start = |node: &str, action: &str, table: &str| -> Result<Agent> {
        let flags = vec![format!("--deny-action={action}")];
        let agent = cluster.spawn_agent_as(node, &AgentSetup { flags, ..AgentSetup::default() })?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        let iptables = variant.program(Family::V4);
        let saved = cluster.lab.node(node)?.shell(&format!("{iptables}-save -t {table}"))?;
        ensure!(saved.contains("-A FORWARD -j PORTCULLIS-FORWARD"), "not in {table}:\n{saved}");
        Ok(agent)
    };
    let mut agents = vec![start("n1", "reject", "filter")?, start("n2", "reject", "filter")?];
    TRAFFIC.during(&cluster.lab, || {
        for (action, table) in [("drop", "mangle"), ("reject", "filter"), ("drop", "mangle")] {
            for node in ["n1", "n2"] {
                agents.remove(0).terminate()?;
                agents.push(start(node, action, table)?);
            }
        }
        Ok(())
    })?;
    check(&cluster.lab, "after all", TRAFFIC.allowed, TRAFFIC.forbidden)
}

#[test]
fn a_change_of_the_table_is_not_noticed_nft() -> Result<()> {
    change_of_table(IptablesVariant::Nft)
}

#[test]
fn a_change_of_the_table_is_not_noticed_legacy() -> Result<()> {
    change_of_table(IptablesVariant::Legacy)
}

fn rivals(variant: IptablesVariant) -> Result<()> {
    let _alone = crate::alone();
    // They repair what the other one did behind their back.
    let cluster = guarded(variant, &["--verify-period=1"])?;
    churn(&cluster, 0)?;
    let agents = (start(&cluster, "n1")?, start(&cluster, "n2")?);
    TRAFFIC.during(&cluster.lab, || {
        let second = cluster.spawn_agent("n2")?;
        second.wait_for("another agent runs on this node", PATIENCE)?;
        under_churn(&cluster, 20, || Ok(()))?;
        anyhow::ensure!(second.said_after(0, "policies are enforced").is_none(), "it waits");
        agents.1.kill()?;
        second.wait_for("policies are enforced", PATIENCE)?;
        churn(&cluster, 1)?;
        cluster.settle_on([&second], PATIENCE)?;
        // Two that both think to be alone.
        let elsewhere = tempfile::tempdir()?;
        let setup = AgentSetup { lock_dir: Some(elsewhere.path().into()), ..AgentSetup::default() };
        let third = cluster.spawn_agent_as("n2", &setup)?;
        third.wait_for("policies are enforced", PATIENCE)?;
        under_churn(&cluster, 150, || Ok(()))?;
        third.terminate()?;
        second.terminate()
    })?;
    let _last = start(&cluster, "n2")?;
    check(&cluster.lab, "after all", TRAFFIC.allowed, TRAFFIC.forbidden)
}

#[test]
fn two_agents_on_a_node_do_no_harm_with_and_without_a_common_lock_nft() -> Result<()> {
    rivals(IptablesVariant::Nft)
}

#[test]
fn two_agents_on_a_node_do_no_harm_with_and_without_a_common_lock_legacy() -> Result<()> {
    rivals(IptablesVariant::Legacy)
}
