//! `kubectl whatif` beside the agents of a real cluster: when a policy is applied, and who was denied.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;
use portcullis_cluster::probe::{expect_closed, get};
use portcullis_tests::cluster::kubectl_whatif;
use serde_json::Value;

use crate::world::{apply, create_namespace, default_deny, delete_namespace, server};

/// How often a policy comes and goes.
const ROUNDS: usize = 2;
/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn command(cluster: &Cluster, line: &str) -> Result<Command> {
    let mut command = Command::new(kubectl_whatif()?);
    command.args(line.split_whitespace()).env("KUBECONFIG", cluster.kubeconfig());
    Ok(command)
}

pub(crate) fn ask(cluster: &Cluster, line: &str) -> Result<String> {
    let output = command(cluster, line)?.output()?;
    let (out, error) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{line}: {}: {out}{error}", output.status);
    Ok(out)
}

/// When `status --wait` returns, the pods of every node obey the policy: the first packet does.
pub(crate) fn status_returns_when_every_node_obeys(cluster: &Cluster) -> Result<()> {
    let namespace = "status";
    create_namespace(cluster, namespace)?;
    let pods = [("client", "n1"), ("a", "n1"), ("b", "n2")];
    let pods = pods.map(|(name, node)| server(namespace, name, name, node));
    apply(cluster, &pods.concat())?;
    cluster.wait_until_pods_are_ready(namespace)?;
    let client = cluster.pod_netns(namespace, "client")?;
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        servers.extend(cluster.pod_addresses(namespace, name)?);
    }
    let answered = || -> Result<Vec<bool>> {
        let ask =
            |address: &_| Ok(get(&client, SocketAddr::new(*address, 8080), "/hostname")?.is_body());
        servers.iter().map(ask).collect()
    };
    let deny = default_deny(namespace).replace("[Ingress, Egress]", "[Ingress]");
    for round in 0..ROUNDS {
        apply(cluster, &deny)?;
        let began = Instant::now();
        let applied = ask(cluster, "status netpol/default-deny -n status --wait --timeout=2m")?;
        let took = began.elapsed();
        ensure!(!answered()?.contains(&true), "round {round}: too early: {applied}");
        ensure!(applied.contains("applied on 2 of 2 nodes"), "{applied}");
        cluster.kubectl(&["delete", "netpol", "default-deny", "-n", namespace])?;
        ask(cluster, "status netpol/default-deny -n status --wait=deleted --timeout=2m")?;
        ensure!(!answered()?.contains(&false), "round {round}: still closed after its end");
        eprintln!("  status --wait returned after {:.1} s", took.as_secs_f64());
    }
    delete_namespace(cluster, namespace)
}

/// A process that is ended when it is dropped.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a namespace with the pods `client` and `a` on n1 and `b` on n2, into which no connection is allowed.
fn isolated_on_both_nodes(cluster: &Cluster, namespace: &str) -> Result<()> {
    create_namespace(cluster, namespace)?;
    let pods = [("client", "n1"), ("a", "n1"), ("b", "n2")];
    let pods = pods.map(|(name, node)| server(namespace, name, name, node));
    let deny = default_deny(namespace).replace("[Ingress, Egress]", "[Ingress]");
    apply(cluster, &format!("{}{deny}", pods.concat()))?;
    cluster.wait_until_pods_are_ready(namespace)
}

/// Denials of all nodes are listed as they come, with pods and policies, and later too.
pub(crate) fn denials_of_all_nodes_are_listed(cluster: &Cluster) -> Result<()> {
    let namespace = "denials";
    isolated_on_both_nodes(cluster, namespace)?;
    let follow = command(cluster, "denials --follow -n denials --since=1s -o json")?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut follow = Following(follow);
    let lines = BufReader::new(follow.0.stdout.take().context("no stdout")?).lines();
    let (sender, records) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let client = cluster.pod_netns(namespace, "client")?;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let addresses = cluster.pod_addresses(namespace, name)?;
        let destination = format!("denials/{name}");
        let began = Instant::now();
        let record = thread::scope(|scope| -> Result<Value> {
            let asking = scope
                .spawn(|| expect_closed("client to an isolated pod", &client, &addresses, 8080));
            let record = loop {
                let left = PATIENCE.saturating_sub(began.elapsed());
                let line = records.recv_timeout(left).context("no record")?;
                let record: Value = serde_json::from_str(&line)?;
                if record["destination"] == *destination {
                    break record;
                }
            };
            eprintln!("  {destination}: listed after {:.2} s", began.elapsed().as_secs_f64());
            asking.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
            Ok(record)
        })?;
        ensure!(record["source"] == "denials/client" && record["node"] == node, "{record}");
        let why = record["why"].as_str().context("no reason")?;
        ensure!(
            why.starts_with("isolated by denials/default-deny; no rule allows TCP 8080"),
            "{why}"
        );
    }
    let listed = ask(cluster, "denials --pod denials/b --since=10m")?;
    ensure!(listed.contains("n2 Denied Ingress denials/client → denials/b 8080/TCP"), "{listed}");
    ensure!(!listed.contains("denials/a"), "{listed}");
    delete_namespace(cluster, namespace)
}

/// What `kubectl whatif ui` answers to its page, which asks each second. A browser shows such answers in
/// whatif/tests/ui.rs.
fn news(url: &str) -> Result<Value> {
    let place = url.strip_prefix("http://").context("no URL")?;
    let (host, path) = place.split_once('/').context("no path")?;
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET /{path}news HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(serde_json::from_str(body)?)
}

/// The live page gets what is applied where, and denials of all nodes as they come.
pub(crate) fn the_live_page_gets_status_and_denials(cluster: &Cluster) -> Result<()> {
    let namespace = "live";
    isolated_on_both_nodes(cluster, namespace)?;
    let ui = command(cluster, "ui --since=1s")?.stdout(Stdio::piped()).spawn()?;
    let mut ui = Following(ui);
    let mut url = String::new();
    BufReader::new(ui.0.stdout.take().context("no stdout")?).read_line(&mut url)?;
    let url = url.trim_end();
    let began = Instant::now();
    let until = |wanted: &dyn Fn(&Value) -> bool| loop {
        let found = news(url)?;
        if wanted(&found) {
            return anyhow::Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "{found}");
        thread::sleep(Duration::from_millis(100));
    };
    let found = until(&|news| {
        let policies = news["status"]["policies"].as_array().into_iter().flatten();
        let mut policies =
            policies.filter(|one| one["policy"] == "networkpolicy/live/default-deny");
        policies.any(|policy| policy["nodesApplied"] == 2)
    })?;
    for node in ["n1", "n2"] {
        let nodes = found["status"]["nodes"].as_array().context("no nodes")?;
        let node = nodes.iter().find(|one| one["node"] == node).context("a node is missing")?;
        ensure!(node["state"] == "Enforcing", "{node}");
    }
    let client = cluster.pod_netns(namespace, "client")?;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let addresses = cluster.pod_addresses(namespace, name)?;
        let destination = format!("live/{name}");
        let sent = Instant::now();
        thread::scope(|scope| -> Result<()> {
            let asking = scope
                .spawn(|| expect_closed("client to an isolated pod", &client, &addresses, 8080));
            until(&|news| {
                let mut denials = news["denials"].as_array().into_iter().flatten();
                denials.any(|record| {
                    record["source"] == "live/client"
                        && record["destination"] == *destination
                        && record["node"] == node
                })
            })?;
            eprintln!("  {destination}: on the page after {:.2} s", sent.elapsed().as_secs_f64());
            asking.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?
        })?;
    }
    delete_namespace(cluster, namespace)
}
