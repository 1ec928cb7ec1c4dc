//! `status [POLICY]`: on which nodes policies are applied, which nodes lag, and why.
//!
//! ```text
//! objects of the API server ─► nodes with pods that a policy selects ┐
//! NodePolicyReports ─────────► what these nodes apply ───────────────┴─► Status
//! ```
//!
//! `--wait` reads only the reports of the nodes that lag, and everything again before it answers yes:
//! the policy and the pods may have changed in the meantime.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use policy_engine::words::few;

use crate::args::{CheckFormat, SourceArgs, Status, WaitFor};
use crate::gap::Gap;
use crate::model::{Cluster, Inventory};
use crate::output::{self, status as written};
use crate::source::connection::Connection;
use crate::source::reports::{self, Reports};
use crate::status::{self, NodeState, PolicyStatus, Stage};
use crate::{MIXED, NO, YES};

/// How often the reports of the nodes that lag are read.
const POLL_PERIOD: Duration = Duration::from_millis(500);
/// How many reports are read each time.
const POLL_MAX: usize = 20;
/// The least time between complete reads. If a read is slow, the time is ten times as long as it.
const REREAD_PERIOD: Duration = Duration::from_secs(10);
/// How many names of nodes a line lists.
const NODES_SHOWN: usize = 5;

pub(super) fn run(args: &Status, out: &mut dyn Write) -> Result<u8> {
    if let Some(flag) = args.from.manifest_flag() {
        bail!(
            "{flag} reads manifests, and only the nodes of a live cluster report what they apply"
        );
    }
    let connection = Connection::new(&args.from)?;
    let policy = args.policy.as_deref().map(|text| policy(text, connection.namespace()));
    let question = Question { args, connection, policy: policy.transpose()? };
    let answer = match args.wait {
        Some(WaitFor::Deleted) => return question.wait_until_deleted(out),
        Some(WaitFor::Applied) => question.wait_until_applied()?,
        None => question.read()?,
    };
    let code = answer.code();
    let (nodes, diagnostics) = (&answer.nodes, &answer.notes);
    match args.output {
        CheckFormat::Text => {
            output::write_notes(&[], diagnostics, &mut std::io::stderr().lock())?;
            written::text(&answer.policies, nodes, question.policy.is_some(), out)?;
        }
        CheckFormat::Json => {
            output::write_json(&written::Status::new(&answer.policies, nodes, diagnostics), out)?;
        }
        CheckFormat::Yaml => {
            output::write_yaml(&written::Status::new(&answer.policies, nodes, diagnostics), out)?;
        }
    }
    Ok(code)
}

/// The policy that a user named.
fn policy(text: &str, namespace: &str) -> Result<ObjectRef> {
    let mut policy: ObjectRef = text.parse()?;
    if !policy.kind.is_policy() {
        bail!("{text} is no policy: name netpol/NAME, cnp/NAME or cdnp/NAME");
    }
    if policy.namespace.is_empty() && policy.kind.is_namespaced() {
        policy.namespace = namespace.into();
    }
    Ok(policy)
}

struct Question<'a> {
    args: &'a Status,
    connection: Connection,
    policy: Option<ObjectRef>,
}

pub(super) struct Answer {
    pub(super) policies: Vec<PolicyStatus>,
    pub(super) nodes: Vec<NodeState>,
    /// The notes about what could not be read, and what follows from it.
    pub(super) notes: Vec<String>,
    is_complete: bool,
}

impl Answer {
    fn code(&self) -> u8 {
        let worst = self.lagging().map(|(_, node)| node.stage).max_by_key(|stage| match stage {
            Stage::Applied => 0,
            Stage::Unknown => 1,
            Stage::Waiting | Stage::NotEnforcing => 2,
        });
        match worst {
            Some(Stage::Waiting | Stage::NotEnforcing) => NO,
            Some(Stage::Unknown) => MIXED,
            _ if !self.is_complete => MIXED,
            _ => YES,
        }
    }

    fn lagging(&self) -> impl Iterator<Item = (&PolicyStatus, &status::NodeStatus)> {
        self.policies.iter().flat_map(|policy| policy.lagging().map(move |node| (policy, node)))
    }

    /// The nodes that lag, each with why.
    fn lagging_nodes(&self) -> BTreeMap<Str, String> {
        self.lagging().map(|(_, node)| (node.node.clone(), node.why.clone())).collect()
    }
}

impl Question<'_> {
    /// Reads everything once.
    fn read(&self) -> Result<Answer> {
        read(&self.connection, &self.args.from, self.policy.as_ref())
    }

    /// Reads until every node that is concerned applies the policies, or the time limit is reached.
    fn wait_until_applied(&self) -> Result<Answer> {
        let end = Instant::now() + self.args.timeout;
        loop {
            let began = Instant::now();
            let mut answer = self.read()?;
            let reread_at = Instant::now() + REREAD_PERIOD.max(began.elapsed() * 10);
            let mut shown = 0;
            loop {
                let lagging = answer.lagging_nodes();
                if lagging.len() != shown {
                    shown = lagging.len();
                    show_waiting(&lagging);
                }
                let now = Instant::now();
                if now >= end {
                    return self.timed_out(answer);
                }
                if lagging.is_empty() || now >= reread_at {
                    break;
                }
                thread::sleep(POLL_PERIOD.min(end - now));
                self.poll(&mut answer, lagging.keys())?;
            }
            // The answer yes needs one complete read.
            if answer.lagging().next().is_none() {
                let last = self.read()?;
                if last.lagging().next().is_none() {
                    return Ok(last);
                }
            }
        }
    }

    /// Reads the reports of some nodes that lag.
    fn poll<'n>(&self, answer: &mut Answer, nodes: impl Iterator<Item = &'n Str>) -> Result<()> {
        let mut read = Reports::new();
        for node in nodes.take(POLL_MAX) {
            if let Some(report) = reports::get(&self.connection, node)? {
                read.insert(node.clone(), report);
            }
        }
        let now = SystemTime::now();
        for policy in &mut answer.policies {
            read.keys().for_each(|node| policy.judge_again(node, &read, now));
        }
        Ok(())
    }

    fn timed_out(&self, answer: Answer) -> Result<Answer> {
        let lagging = answer.lagging_nodes();
        let seconds = self.args.timeout.as_secs_f32();
        writeln!(
            std::io::stderr(),
            "timed out after {seconds} s: not applied on {}",
            few(lagging.keys(), NODES_SHOWN)
        )?;
        Ok(answer)
    }

    /// Reads until the policy is deleted and no node reports it, or the time limit is reached.
    fn wait_until_deleted(&self, out: &mut dyn Write) -> Result<u8> {
        let Some(policy) = &self.policy else {
            bail!("--wait=deleted needs a policy, as netpol/NAME, cnp/NAME or cdnp/NAME");
        };
        let end = Instant::now() + self.args.timeout;
        loop {
            let exists = self.connection.has(policy)?;
            let reports = reports::list(&self.connection)?;
            let nodes = status::reporting(policy, &reports);
            if !exists && nodes.is_empty() {
                writeln!(out, "{policy} is deleted, and no node reports it")?;
                return Ok(YES);
            }
            let now = Instant::now();
            if now >= end {
                let still = if exists { "it exists".to_owned() } else { few(&nodes, NODES_SHOWN) };
                writeln!(out, "{policy} is not deleted everywhere: {still}")?;
                return Ok(NO);
            }
            thread::sleep(POLL_PERIOD.min(end - now));
        }
    }
}

/// Reads once what is applied where: of all policies, or of one.
pub(super) fn read(
    connection: &Connection,
    from: &SourceArgs,
    policy: Option<&ObjectRef>,
) -> Result<Answer> {
    // Reports are read after the objects, so that they are about these objects or later ones.
    let live = connection.read()?;
    let mut inventory = Inventory::default();
    for object in &live.objects {
        inventory.add_value(object, &live.namespace);
    }
    inventory.hidden = live.gaps;
    let cluster = Cluster::new(&inventory, from.options());
    let reports = reports::list(connection)?;
    if let Some(policy) = policy {
        must_exist(policy, &live.revisions, &inventory.hidden)?;
    }
    let (world, now) = (&cluster.world, SystemTime::now());
    let policies = status::policies(world, &live.revisions, &reports, policy, now);
    let is_complete = !cluster.gaps.iter().any(Gap::decides);
    let notes = inventory.hidden.iter().map(Gap::to_string).collect();
    Ok(Answer { policies, nodes: status::nodes(world, &reports, now), notes, is_complete })
}

fn must_exist(
    policy: &ObjectRef,
    revisions: &BTreeMap<ObjectRef, Revision>,
    hidden: &[Gap],
) -> Result<()> {
    if revisions.contains_key(policy) {
        return Ok(());
    }
    if hidden.is_empty() {
        bail!("the cluster has no {policy}");
    }
    bail!("{policy} was not found; {}", few(hidden, NODES_SHOWN))
}

/// Writes to standard error what the command waits for.
fn show_waiting(lagging: &BTreeMap<Str, String>) {
    if let Some((node, why)) = lagging.first_key_value().filter(|_| std::io::stderr().is_terminal())
    {
        let others = lagging.len() - 1;
        let more = if others > 0 { format!(", and {others} more nodes") } else { String::new() };
        let _ = writeln!(std::io::stderr(), "waiting for {node}: {why}{more}");
    }
}
