//! `portcullis status`: whether each node on which the DaemonSet runs an agent enforces policies. It
//! is what `helm test` runs.
//!
//! ```text
//! DaemonSet, pods of agents ─► nodes, and whether their agents are ready ┐
//! NodePolicyReports ─────────► states of the nodes ──────────────────────┴─► judge ─► nodes that do not
//! ```
//!
//! The pods tell that an agent ended before its report is too old.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use portcullis_apiserver::pages::Pages;
use portcullis_crds::api::node_policy_report::{
    ENFORCING, NodePolicyReport, NodePolicyReportStatus, State,
};
use serde_json::Value;

use crate::args::StatusArgs;

/// The least time between two reads. If a read is slow, the time is ten times as long as it.
const PERIOD: Duration = Duration::from_secs(1);
/// The DaemonSet of the agents.
const DAEMON_SET: &str = "portcullis-node";
/// The labels of the pods of agents.
const AGENTS: &str = "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=node";
const REPORTS: &str = "/apis/portcullis.dev/v1alpha1/nodepolicyreports";

/// Runs the program: the exit code is 0 if all nodes enforce or audit policies, 1 if some node does
/// not.
///
/// # Errors
/// When the API server does not answer what is asked.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.access().client().await?;
        let end = Instant::now() + args.timeout;
        loop {
            let began = Instant::now();
            let read = Installation::read(&client, &args.own_namespace).await;
            let problems = read.map(|found| (found.wanted(), found.problems(SystemTime::now())));
            let again = Instant::now() + PERIOD.max(began.elapsed() * 10);
            match problems {
                Ok((nodes, problems)) if problems.is_empty() => {
                    println!("all {nodes} nodes enforce or audit policies");
                    return Ok(ExitCode::SUCCESS);
                }
                problems if !args.wait || again >= end => {
                    problems?.1.iter().for_each(|problem| println!("{problem}"));
                    return Ok(ExitCode::from(1));
                }
                _ => tokio::time::sleep_until(again.into()).await,
            }
        }
    })
}

/// What the API server has of the agents and their reports.
struct Installation {
    daemon_set: Value,
    pods: Vec<Value>,
    reports: Vec<Value>,
}

impl Installation {
    async fn read(client: &Client, namespace: &str) -> Result<Self> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
        let request = Request::new(path).get(DAEMON_SET, &GetParams::default());
        let daemon_set = client.request(request.map_err(kube::Error::BuildRequest)?).await;
        let daemon_set = daemon_set.with_context(|| {
            format!("failed to read the DaemonSet {DAEMON_SET} in namespace {namespace}")
        })?;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let pods = list(client, Pages::new(path, None).labels(Some(AGENTS))).await;
        let pods =
            pods.with_context(|| format!("failed to list the agents in namespace {namespace}"))?;
        // After the pods, so that they are of these agents or later ones.
        let reports = list(client, Pages::new(REPORTS, None)).await;
        let reports = reports.context("failed to list nodepolicyreports.portcullis.dev")?;
        Ok(Self { daemon_set, pods, reports })
    }

    /// On how many nodes the DaemonSet runs agents.
    fn wanted(&self) -> u64 {
        self.daemon_set["status"]["desiredNumberScheduled"].as_u64().unwrap_or_default()
    }

    /// The nodes that do not enforce, each with its state and why: one line each.
    fn problems(&self, now: SystemTime) -> Vec<String> {
        let mut agents: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for pod in &self.pods {
            if let Some(node) = node_of(pod) {
                agents.entry(node).or_default().push(pod);
            }
        }
        let report = |node: &str| {
            self.reports.iter().find(|report| report["metadata"]["name"].as_str() == Some(node))
        };
        let (nodes, wanted) = (agents.len() as u64, self.wanted());
        let mut problems: Vec<String> = agents
            .into_iter()
            .filter_map(|(node, pods)| {
                let (state, why) = judge(&pods, report(node), now);
                let state =
                    state.map_or_else(|| "Unknown".to_owned(), |state| format!("{state:?}"));
                Some(format!("{node}: {state}: {}", why?))
            })
            .collect();
        let observed = &self.daemon_set["status"]["observedGeneration"];
        if *observed != self.daemon_set["metadata"]["generation"] {
            problems.push(format!("Kubernetes has not processed the DaemonSet {DAEMON_SET} yet"));
        } else if wanted == 0 {
            problems.push(format!("the DaemonSet {DAEMON_SET} wants no agent on any node"));
        } else if nodes != wanted {
            problems.push(format!(
                "the DaemonSet {DAEMON_SET} wants agents on {wanted} nodes, and has pods for {nodes}: \
                 `kubectl describe` of it shows why"
            ));
        }
        problems
    }
}

/// The state of a node that has these pods of agents. Also the reason, if the node is not counted as
/// enforcing.
fn judge(
    pods: &[&Value],
    report: Option<&Value>,
    now: SystemTime,
) -> (Option<State>, Option<String>) {
    let report = match current(report, now) {
        Ok(report) => report,
        Err(why) => {
            let why = [why].into_iter().chain(pods.iter().filter_map(|pod| unready(pod)));
            return (None, Some(why.collect::<Vec<_>>().join("; ")));
        }
    };
    let Some(state) = report.state.filter(|state| state.is_good()) else {
        let condition = report.condition(ENFORCING);
        let why = condition.map(|found| format!("{}: {}", found.reason, found.message));
        return (report.state, Some(why.unwrap_or_else(|| "its report has no reason".to_owned())));
    };
    let author = report.agent.as_ref().and_then(|agent| agent.pod_name.as_deref());
    let wrote = |pod: &&&Value| author.is_some() && pod["metadata"]["name"].as_str() == author;
    let problem = match pods.iter().find(wrote) {
        Some(pod) => unready(pod),
        None => {
            Some("an earlier agent wrote this, and the present one has not reported yet".into())
        }
    };
    (Some(state), problem)
}

/// The report of a node, if its agent keeps writing it; otherwise the reason why there is none.
fn current(report: Option<&Value>, now: SystemTime) -> Result<NodePolicyReportStatus, String> {
    let report = report.ok_or("the node has no NodePolicyReport")?;
    let report = serde_json::from_value::<NodePolicyReport>(report.clone())
        .map_err(|_| "its report cannot be understood: the agent is of another version")?;
    let report = report.status.unwrap_or_default();
    report.silence(now).map_or(Ok(report), Err)
}

/// Why a pod is not ready; `None` when it is.
fn unready(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Some(format!("pod {name} is being deleted"));
    }
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    if ready.any(|condition| condition["status"] == "True") {
        return None;
    }
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let mut waiting =
        containers.filter_map(|container| container["state"]["waiting"]["reason"].as_str());
    let why = waiting.next().or(pod["status"]["phase"].as_str());
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    Some(format!("pod {name} is not ready{why}"))
}

/// The node of a pod of a DaemonSet, also before the pod is scheduled.
fn node_of(pod: &Value) -> Option<&str> {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                 /nodeSelectorTerms/0/matchFields/0/values/0";
    pod["spec"]["nodeName"].as_str().or_else(|| pod.pointer(terms)?.as_str())
}

async fn list(client: &Client, mut pages: Pages) -> Result<Vec<Value>, kube::Error> {
    let mut items = Vec::new();
    loop {
        let page = pages.next(client).await?;
        items.extend(page.items);
        if page.last.is_some() {
            return Ok(items);
        }
    }
}

#[cfg(test)]
mod tests;
