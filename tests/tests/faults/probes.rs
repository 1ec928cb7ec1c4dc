//! Probes and metrics are right: ready means enforced, alive means that the agent makes progress.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::{AgentSetup, Cluster};
use portcullis_tests::tool::wrap;

use crate::shop::{PATIENCE, WEB, allow, lab, shop};

pub(crate) const HEALTH: u16 = 7001;
pub(crate) const METRICS: u16 = 7002;

/// Asks the agent of n2; status and body.
pub(crate) fn ask(cluster: &Cluster, port: u16, path: &str) -> Result<(u16, String)> {
    let answer = cluster.lab.node("n2")?.netns().run(|| -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// Asks until the answer has this status; its body.
pub(crate) fn wait_for(cluster: &Cluster, path: &str, status: u16) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = ask(cluster, HEALTH, path);
        match last {
            Ok((found, body)) if found == status => return Ok(body),
            _ => ensure!(Instant::now() < deadline, "{path} is not {status}: {last:?}"),
        }
        std::thread::yield_now();
    }
}

/// Flags of an agent that is asked here.
pub(crate) fn flags(more: &[&str]) -> Vec<String> {
    let addresses =
        [format!("--health-address=127.0.0.1:{HEALTH}"), format!("--metrics-address=:{METRICS}")];
    addresses.into_iter().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
}

/// The value of a series.
pub(crate) fn value(metrics: &str, series: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series} in\n{metrics}"))?.parse()?)
}

#[test]
fn an_agent_is_ready_while_policies_are_enforced_and_alive_all_the_time() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let tools = tempfile::tempdir()?;
    // Of both families: otherwise one is enforced.
    let restore = ["iptables-nft-restore", "ip6tables-nft-restore"];
    for tool in restore {
        wrap(tools.path(), tool, "echo out of order >&2; exit 1")?;
    }
    let broken = || restore.iter().map(|tool| tools.path().join(format!("{tool}.broken")));
    broken().try_for_each(|broken| fs::write(broken, ""))?;
    let flags = flags(&[]);
    let setup = AgentSetup { tools: Some(tools.path().into()), flags, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;

    agent.wait_for("failed to apply policies", PATIENCE)?;
    let why = wait_for(&cluster, "/readyz", 503)?;
    ensure!(why.starts_with("Failing: ") && why.contains("no rules were applied"), "{why}");
    assert_eq!(ask(&cluster, HEALTH, "/healthz")?, (200, "ok\n".to_owned()));
    broken().try_for_each(fs::remove_file)?;
    wait_for(&cluster, "/readyz", 200)?;
    let (_, before) = ask(&cluster, METRICS, "/metrics")?;
    ensure!(value(&before, "portcullis_sync_failures_total")? >= 1.0, "{before}");

    // Failing again: what is enforced stays so, and the agent is not ready for more.
    broken().try_for_each(|broken| fs::write(broken, ""))?;
    agent.kill_tools()?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let why = wait_for(&cluster, "/readyz", 503)?;
    ensure!(why.starts_with("Failing: ") && why.contains("out of order"), "{why}");
    assert_eq!(ask(&cluster, HEALTH, "/healthz")?, (200, "ok\n".to_owned()));
    broken().try_for_each(fs::remove_file)?;
    wait_for(&cluster, "/readyz", 200)?;

    let (status, metrics) = ask(&cluster, METRICS, "/metrics")?;
    assert_eq!(status, 200);
    assert_eq!(value(&metrics, "portcullis_policies_enforced")?.to_string(), "1");
    let isolated = value(&metrics, "portcullis_pods_isolated{direction=\"ingress\"}")?;
    assert_eq!(isolated.to_string(), "1");
    for about in ["policy", "other"] {
        let errors = format!("portcullis_diagnostics{{severity=\"error\",about=\"{about}\"}}");
        assert_eq!(value(&metrics, &errors)?.to_string(), "0");
    }
    let failures = "portcullis_sync_failures_total";
    ensure!(value(&metrics, failures)? > value(&before, failures)?, "{metrics}");
    ensure!(value(&metrics, "portcullis_sync_latency_seconds_count")? >= 1.0, "{metrics}");
    ensure!(
        value(&metrics, "portcullis_last_successful_sync_timestamp_seconds")? > 1e9,
        "{metrics}"
    );
    ensure!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(ask(&cluster, METRICS, "/healthz")?.0, 404, "probes are for the node alone");
    agent.terminate()
}

/// A name in capitals, with a domain or with a typing error: the agent finds no pods of its node.
#[test]
fn an_agent_whose_node_does_not_exist_is_never_ready() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let (flags, node_name) = (flags(&[]), Some("N2".to_owned()));
    let agent =
        cluster.spawn_agent_as("n2", &AgentSetup { flags, node_name, ..AgentSetup::default() })?;
    agent.wait_for("no Node has the name `N2`", PATIENCE)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let why = wait_for(&cluster, "/readyz", 503)?;
    ensure!(
        why.contains("no Node has the name `N2`") && why.contains("did you mean `n2`"),
        "{why}"
    );
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    assert_eq!(value(&metrics, "portcullis_node_degraded{what=\"NodeUnknown\"}")?.to_string(), "1");
    assert_eq!(ask(&cluster, HEALTH, "/healthz")?, (200, "ok\n".to_owned()));

    cluster.write("n2.yaml", "{apiVersion: v1, kind: Node, metadata: {name: N2}}")?;
    wait_for(&cluster, "/readyz", 200)?;
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    assert_eq!(value(&metrics, "portcullis_node_degraded{what=\"NodeUnknown\"}")?.to_string(), "0");
    cluster.remove("n2.yaml")?;
    wait_for(&cluster, "/readyz", 503)?;
    agent.terminate()
}

/// A Pod that cannot be read is not known: it may be open.
#[test]
fn an_agent_that_cannot_read_a_manifest_is_not_ready_and_names_it() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let lost = "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: lost, labels: {";
    cluster.write("lost.yaml", lost)?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let setup = AgentSetup { flags: flags(&[]), ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let why = wait_for(&cluster, "/readyz", 503)?;
    ensure!(why.starts_with("Degraded: ") && why.contains("lost.yaml:"), "{why}");
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    for series in ["portcullis_node_state{state=\"Degraded\"}", "portcullis_policies_enforced"] {
        assert_eq!(value(&metrics, series)?.to_string(), "1", "{series}");
    }
    cluster.write("lost.yaml", &(lost.to_owned() + "}}}"))?;
    wait_for(&cluster, "/readyz", 200)?;
    agent.terminate()
}

#[test]
fn an_agent_whose_tool_hangs_is_not_alive() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let tools = tempfile::tempdir()?;
    // It ends as soon as the test removes the file.
    wrap(tools.path(), "ipset", "while [ -e \"$0.broken\" ]; do sleep 0.1; done")?;
    let broken = tools.path().join("ipset.broken");
    let flags = flags(&["--stalled-after=7"]);
    let setup = AgentSetup { tools: Some(tools.path().into()), flags, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    wait_for(&cluster, "/readyz", 200)?;

    fs::write(&broken, "")?;
    agent.kill_tools()?;
    cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
    let hung = Instant::now();
    let why = wait_for(&cluster, "/healthz", 503)?;
    ensure!(hung.elapsed() >= Duration::from_secs(6), "it takes time to tell: {why}");
    ensure!(why.starts_with("no progress for "), "{why}");
    wait_for(&cluster, "/readyz", 503)?;
    fs::remove_file(&broken)?;
    wait_for(&cluster, "/healthz", 200)?;
    agent.terminate()
}

/// A tool that takes long to fail has not applied the change in that time either.
#[test]
fn an_agent_is_unready_in_time_after_a_change_however_slowly_its_tools_fail() -> Result<()> {
    let unready_after = Duration::from_secs(6);
    for slowness in ["sleep 4; echo out of order >&2; exit 1", "sleep 20"] {
        let cluster = shop(lab(IptablesVariant::Nft), &[])?;
        cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
        let tools = tempfile::tempdir()?;
        wrap(tools.path(), "ipset", slowness)?;
        let flags = flags(&["--unready-after=6"]);
        let setup = AgentSetup { tools: Some(tools.path().into()), flags, ..AgentSetup::default() };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        wait_for(&cluster, "/readyz", 200)?;

        fs::write(tools.path().join("ipset.broken"), "")?;
        agent.kill_tools()?;
        let changed = Instant::now();
        cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
        let why = wait_for(&cluster, "/readyz", 503)?;
        let took = changed.elapsed();
        ensure!(took < unready_after + Duration::from_secs(2), "{slowness}: {took:?}: {why}");
        assert_eq!(ask(&cluster, HEALTH, "/healthz")?, (200, "ok\n".to_owned()));
        agent.kill()?;
    }
    Ok(())
}
