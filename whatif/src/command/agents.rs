//! `inspect`, `trace` and `verify`: programs of the agents of a live cluster, asked in their pods.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use policy_engine::model::Change;
use portcullis_crds::api::inspection::Verification;

use crate::args::{AgentFormat, CheckFormat, Inspect, SourceArgs, Trace, TraceProtocol, Verify};
use crate::gap::Gap;
use crate::model::Inventory;
use crate::output::{self, verify as written};
use crate::source::connection::Connection;
use crate::source::exec::{self, Ran};
use crate::source::reports::{self, Reports};
use crate::status;
use crate::verify::{self, Agreement, Finding};
use crate::{FAILED, MIXED, NO, YES};

/// A node that differs is asked again after this time, because objects and rules change meanwhile.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

pub(super) fn inspect(args: &Inspect, out: &mut dyn Write) -> Result<u8> {
    refuse_manifests(&args.from)?;
    let connection = Connection::new(&args.from)?;
    let pod = full(&args.pod, connection.namespace());
    let node = node_of(&connection, &pod)?;
    let node = node.with_context(|| format!("pod {pod} does not run on a node yet"))?;
    let mut line = vec!["portcullis", "inspect", "pod", pod.as_str()];
    if args.output == AgentFormat::Json {
        line.extend(["-o", "json"]);
    }
    let agents = exec::agents(&connection, &args.from.own_namespace)?;
    let ran = ask(&connection, args.from.own_namespace.as_str(), &agents, &node, &line)?;
    pass_on(&ran, out)?;
    Ok(if ran.code == 0 { YES } else { NO })
}

pub(super) fn trace(args: &Trace, out: &mut dyn Write) -> Result<u8> {
    refuse_manifests(&args.from)?;
    if args.port.is_none() && args.proto != TraceProtocol::Icmp {
        bail!("name the destination port");
    }
    let connection = Connection::new(&args.from)?;
    let sides = [&args.source, &args.destination].map(|side| full(side, connection.namespace()));
    let mut nodes = BTreeSet::new();
    for side in &sides {
        nodes.extend(node_of(&connection, side)?);
    }
    if nodes.is_empty() {
        bail!("neither {} nor {} is a pod that runs on a node", sides[0], sides[1]);
    }
    let port = args.port.map(|port| port.to_string());
    let mut line = vec!["portcullis", "trace", sides[0].as_str(), sides[1].as_str()];
    line.extend(port.as_deref());
    line.extend(["--proto", args.proto.as_str()]);
    let agents = exec::agents(&connection, &args.from.own_namespace)?;
    let mut worst = YES;
    for node in &nodes {
        let ran = ask(&connection, &args.from.own_namespace, &agents, node, &line)?;
        pass_on(&ran, out)?;
        worst = worst.max(match ran.code {
            0 => YES,
            1 => NO,
            _ => MIXED,
        });
    }
    Ok(worst)
}

/// Runs a program of the agent of one node.
fn ask(
    connection: &Connection,
    namespace: &str,
    agents: &BTreeMap<String, String>,
    node: &str,
    line: &[&str],
) -> Result<Ran> {
    let pod = agents.get(node).with_context(|| format!("no agent runs on node {node}"))?;
    let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
    let mut answers = exec::run_in_each(connection, namespace, std::slice::from_ref(pod), &line);
    let ran = answers.pop().context("the agent gave no answer")??;
    if ran.code == i32::from(FAILED) {
        bail!("the agent of {node}: {}", ran.stderr.trim());
    }
    Ok(ran)
}

fn pass_on(ran: &Ran, out: &mut dyn Write) -> Result<()> {
    out.write_all(ran.stdout.as_bytes())?;
    Ok(std::io::stderr().write_all(ran.stderr.as_bytes())?)
}

fn refuse_manifests(from: &SourceArgs) -> Result<()> {
    match from.manifest_flag() {
        Some(flag) => {
            bail!("{flag} reads manifests, and only the agents of a live cluster know its nodes")
        }
        None => Ok(()),
    }
}

/// A pod with its namespace; the name of a node or an address is not changed.
fn full(text: &str, namespace: &str) -> String {
    if text.contains('/') || text.parse::<std::net::IpAddr>().is_ok() {
        text.to_owned()
    } else {
        format!("{namespace}/{text}")
    }
}

/// The node of a pod, or the node that is named; none for an address.
fn node_of(connection: &Connection, side: &str) -> Result<Option<String>> {
    let Some((namespace, name)) = side.split_once('/') else { return Ok(None) };
    if namespace == "node" {
        return Ok(Some(name.to_owned()));
    }
    let pod = connection.pod(namespace, name)?;
    let pod = pod.with_context(|| format!("the cluster has no pod {side}"))?;
    Ok(pod["spec"]["nodeName"].as_str().map(ToOwned::to_owned))
}

pub(super) fn verify(args: &Verify, out: &mut dyn Write) -> Result<u8> {
    refuse_manifests(&args.from)?;
    let connection = Connection::new(&args.from)?;
    let agents = exec::agents(&connection, &args.from.own_namespace)?;
    if let Some(missing) = args.node.iter().find(|node| !agents.contains_key(*node)) {
        bail!("no agent runs on node {missing}");
    }
    let mut nodes: Vec<String> = agents.keys().cloned().collect();
    if !args.node.is_empty() {
        nodes.retain(|node| args.node.contains(node));
    }
    let question = Question { args, connection, agents };
    let mut findings = question.ask(&nodes)?;
    // A node that was applying a change agrees shortly after.
    let agrees = |found: &Finding| found.agreement() == Agreement::Agrees;
    let differ: Vec<String> =
        findings.iter().filter(|found| !agrees(found)).map(|found| found.node.clone()).collect();
    if !differ.is_empty() {
        thread::sleep(RETRY_PAUSE);
        findings.retain(agrees);
        findings.extend(question.ask(&differ)?);
        findings.sort_by(|a, b| a.node.cmp(&b.node));
    }
    match args.output {
        CheckFormat::Text => written::text(&findings, out)?,
        CheckFormat::Json => {
            output::write_json(&written::Verification::new(&findings), out)?;
        }
        CheckFormat::Yaml => {
            output::write_yaml(&written::Verification::new(&findings), out)?;
        }
    }
    let has = |agreement| findings.iter().any(|found| found.agreement() == agreement);
    Ok(if has(Agreement::Differs) {
        NO
    } else if has(Agreement::Unknown) || findings.iter().any(|found| found.by_report.is_some()) {
        MIXED
    } else {
        YES
    })
}

struct Question<'a> {
    args: &'a Verify,
    connection: Connection,
    agents: BTreeMap<String, String>,
}

impl Question<'_> {
    /// Asks the agents of these nodes, and compares what they enforce with the objects.
    fn ask(&self, nodes: &[String]) -> Result<Vec<Finding>> {
        let command = ["portcullis", "verify", "-o", "json"].map(ToOwned::to_owned);
        let pods: Vec<String> =
            nodes.iter().filter_map(|node| self.agents.get(node)).cloned().collect();
        let namespace = &self.args.from.own_namespace;
        let answers = exec::run_in_each(&self.connection, namespace, &pods, &command);
        let live = self.connection.read()?;
        let mut inventory = Inventory::default();
        for object in &live.objects {
            inventory.add_value(object, &live.namespace);
        }
        inventory.hidden = live.gaps;
        let gaps: Vec<String> =
            inventory.gaps().iter().filter(|gap| gap.decides()).map(Gap::to_string).collect();
        let changes: Vec<Change> = inventory.changes().collect();
        // After the objects, so that they are about these objects or later ones.
        let is_forbidden = |answer: &Result<Ran>| answer.as_ref().is_err_and(exec::is_forbidden);
        let reports = if answers.iter().any(is_forbidden) {
            reports::list(&self.connection)?
        } else {
            Reports::new()
        };
        let now = SystemTime::now();
        let findings = nodes.iter().zip(answers).map(|(node, answer)| {
            let is_forbidden = is_forbidden(&answer);
            match answer.and_then(|ran| understood(&ran)) {
                Ok(theirs) if gaps.is_empty() => verify::compare(&theirs, &changes),
                Err(error) if is_forbidden && gaps.is_empty() => {
                    let report = status::current_report(node, &reports, now);
                    verify::compare_report(node, &report, &changes, format!("{error:#}"), now)
                }
                Ok(theirs) => Finding::unknown(
                    node,
                    format!("not all objects can be read: {}", gaps.join("; ")),
                    Some(theirs.node.compiled_state.to_string()),
                ),
                Err(error) => Finding::unknown(node, format!("{error:#}"), None),
            }
        });
        Ok(findings.collect())
    }
}

fn understood(ran: &Ran) -> Result<Verification> {
    if ran.code == i32::from(FAILED) {
        bail!("{}", ran.stderr.trim());
    }
    serde_json::from_str(&ran.stdout)
        .context("the agent answers in an unknown way: it is of another version")
}
