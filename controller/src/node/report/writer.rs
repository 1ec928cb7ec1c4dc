//! Writes the node's report with server-side apply, which keeps the fields of other writers.
//!
//! The writer needs the permissions (RBAC) `get` on nodes, `create` and `patch` on
//! nodepolicyreports, and `patch` on nodepolicyreports/status.

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _};
use portcullis_apiserver::client::{Access, AccessError};
use portcullis_apiserver::failure::{Failure, Reason, within};
use portcullis_crds::api::node_policy_report::{ENFORCING, NodePolicyReport};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::pace::{News, Pace, Setback};
use super::render::{Facts, Transition, news, render};
use crate::node::signals::Signals;
use crate::node::status::Status;

/// The field manager of the agent's fields, for server-side apply.
pub const FIELD_MANAGER: &str = "portcullis-node";

/// The time between two checks whether the agent makes progress.
const CHECK_PERIOD: Duration = Duration::from_secs(2);

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Writes the report of one node.
pub struct Writer {
    client: Client,
    node: String,
    facts: Facts,
    /// Whether the object exists, as far as this agent knows.
    ensured: bool,
    /// The agent's condition in the object.
    transition: Option<Transition>,
    /// The status that this agent wrote last; `None` before its first write.
    written: Option<Status>,
}

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to get node {0}, which the report belongs to")]
    Node(String, #[source] Failure),
    #[error("failed to create the NodePolicyReport")]
    Create(#[source] Failure),
    #[error("failed to write the status of the NodePolicyReport")]
    Status(#[source] Failure),
}

/// Starts a thread that writes the report of `node` until the agent behind `signals` ends.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    access: Access,
    node: String,
    facts: Facts,
    signals: Signals,
) -> Result<(), AccessError> {
    access.spawn("report", move |client| Writer::new(client, node, facts).run(signals))
}

impl Writer {
    /// A writer that has written nothing yet.
    #[must_use]
    pub fn new(client: Client, node: String, facts: Facts) -> Self {
        Self { client, node, facts, ensured: false, transition: None, written: None }
    }

    /// Writes the report until the agent ends.
    pub async fn run(mut self, mut signals: Signals) {
        let mut pace = Pace::new(Instant::now());
        let mut logged: Option<Discriminant<Setback>> = None;
        loop {
            let latest = signals.latest();
            let news = self.news(&latest);
            let due = pace.due(Instant::now(), news, latest.nodes, fastrand::f64());
            tokio::select! {
                biased;
                changed = signals.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = sleep_until(due) => {}
                // An agent that makes no progress publishes nothing.
                () = sleep(CHECK_PERIOD) => continue,
            }
            match self.write(&latest).await {
                Ok(()) => {
                    if logged.take().is_some() {
                        info!("the NodePolicyReport is written again");
                    }
                    pace.wrote(Instant::now(), fastrand::f64());
                    self.written = Some(latest);
                }
                Err(error) => {
                    let setback = error.setback();
                    pace.failed(Instant::now(), setback, fastrand::f64());
                    // The object may have been deleted, with its node or with the CRD.
                    self.ensured = false;
                    let (advice, error) = (error.advice(), format!("{error}: {}", error.cause()));
                    // Consecutive setbacks of one kind are logged as a warning once.
                    let kind = discriminant(&setback);
                    if logged.replace(kind) == Some(kind) {
                        debug!(error, "still no NodePolicyReport");
                    } else {
                        warn!(error, advice, "failed to write the NodePolicyReport");
                    }
                }
            }
        }
    }

    fn news(&self, latest: &Status) -> News {
        news(self.written.as_ref(), latest)
    }

    async fn write(&mut self, status: &Status) -> Result<(), Error> {
        if !self.ensured {
            self.ensure().await?;
            self.ensured = true;
        }
        let before = self.transition.as_ref();
        let rendered = render(&self.facts, status, before, SystemTime::now());
        let body = json!({
            "apiVersion": NodePolicyReport::api_version(&()),
            "kind": NodePolicyReport::kind(&()),
            "metadata": { "name": self.node },
            "status": rendered,
        });
        let (reports, name) = (self.reports(), self.node.clone());
        let (parameters, patch) = (parameters(), Patch::Apply(&body));
        let request = reports.patch_status(&name, &parameters, &patch);
        let written = within(REQUEST_LIMIT, request).await.map_err(Error::Status)?;
        self.transition = transition(&written);
        debug!("wrote the NodePolicyReport");
        Ok(())
    }

    /// Creates the object, or sets its owner reference to the current Node object.
    async fn ensure(&mut self) -> Result<(), Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = within(REQUEST_LIMIT, nodes.get_metadata(&self.node)).await;
        let node = found.map_err(|failure| Error::Node(self.node.clone(), failure))?;
        let body = json!({
            "apiVersion": NodePolicyReport::api_version(&()),
            "kind": NodePolicyReport::kind(&()),
            "metadata": {
                "name": self.node,
                "ownerReferences": [{
                    "apiVersion": Node::api_version(&()),
                    "kind": Node::kind(&()),
                    "name": self.node,
                    "uid": node.metadata.uid,
                }],
            },
            "spec": { "nodeName": self.node },
        });
        let (reports, parameters) = (self.reports(), parameters());
        let patch = Patch::Apply(&body);
        let request = reports.patch(&self.node, &parameters, &patch);
        let report = within(REQUEST_LIMIT, request).await.map_err(Error::Create)?;
        self.transition = transition(&report);
        Ok(())
    }

    fn reports(&self) -> Api<NodePolicyReport> {
        Api::all(self.client.clone())
    }
}

/// The agent takes its fields over from other managers.
fn parameters() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn transition(report: &NodePolicyReport) -> Option<Transition> {
    let conditions = report.status.iter().flat_map(|status| &status.conditions);
    let own = conditions.into_iter().find(|found| found.type_ == ENFORCING)?;
    Some(Transition { status: own.status.clone(), since: own.last_transition_time.clone() })
}

impl Error {
    fn cause(&self) -> &Failure {
        match self {
            Self::Node(_, failure) | Self::Create(failure) | Self::Status(failure) => failure,
        }
    }

    fn setback(&self) -> Setback {
        let Failure { reason, retry_after, .. } = self.cause();
        match (self, reason) {
            // Forbidden or invalid: this API server will reject the next attempt too.
            (_, Reason::Status(400 | 403 | 422)) | (Self::Create(_), Reason::Status(404)) => {
                Setback::Permanent
            }
            _ => Setback::Transient(*retry_after),
        }
    }

    fn advice(&self) -> &'static str {
        match (self, self.cause().reason) {
            (Self::Create(_), Reason::Status(404)) => "install the CRDs of deploy/crds",
            (_, Reason::Status(403)) => "grant what deploy/ grants",
            (_, Reason::Status(400 | 422)) => "install the CRDs of this version",
            (Self::Node(..), Reason::Status(404)) => "--node-name has to be the name of a Node",
            _ => "none: it is tried again",
        }
    }
}
