//! Writes the node's report, with server-side apply: what other writers own stays as it is.
//!
//! It needs `get` on nodes, `create` and `patch` on nodepolicyreports, and `patch` on
//! nodepolicyreports/status.

use std::error::Error as _;
use std::thread;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _};
use portcullis_crds::api::node_policy_report::{ENFORCING, NodePolicyReport};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::pace::{News, Pace, Setback};
use super::render::{Facts, Transition, news, render};
use crate::client::{Access, AccessError};
use crate::node::status::Status;

/// Who owns what the agent writes, for server-side apply.
pub const FIELD_MANAGER: &str = "portcullis-node";

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Writes the report of one node.
pub struct Writer {
    client: Client,
    node: String,
    facts: Facts,
    /// Whether the object is known to be there.
    ensured: bool,
    /// The agent's condition as it is in the object.
    transition: Option<Transition>,
    /// What the object says, when this agent wrote it.
    written: Option<Status>,
}

/// A report was not written.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to get node {0}, which the report belongs to")]
    Node(String, #[source] kube::Error),
    #[error("failed to create the NodePolicyReport")]
    Create(#[source] kube::Error),
    #[error("failed to write the status of the NodePolicyReport")]
    Status(#[source] kube::Error),
    #[error("the API server did not answer within {} s", REQUEST_LIMIT.as_secs())]
    Silent,
}

/// Starts to report on `node`, on a thread of its own, until the publisher of `status` is gone.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    access: Access,
    node: String,
    facts: Facts,
    status: watch::Receiver<Status>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = move || {
        let result: Result<(), AccessError> = runtime.block_on(async {
            Writer::new(access.client().await?, node, facts).run(status).await;
            Ok(())
        });
        if let Err(error) = result {
            warn!(%error, "there will be no NodePolicyReport of this node");
        }
    };
    thread::Builder::new().name("report".to_owned()).spawn(work).map(drop)
}

impl Writer {
    /// A writer that has written nothing yet.
    #[must_use]
    pub fn new(client: Client, node: String, facts: Facts) -> Self {
        Self { client, node, facts, ensured: false, transition: None, written: None }
    }

    /// Writes until the publisher is gone.
    pub async fn run(mut self, mut status: watch::Receiver<Status>) {
        let mut pace = Pace::new(Instant::now());
        let mut told = None;
        loop {
            let latest = status.borrow_and_update().clone();
            let due = pace.due(Instant::now(), self.news(&latest), fastrand::f64());
            tokio::select! {
                biased;
                changed = status.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = sleep_until(due) => {}
            }
            match self.write(&latest).await {
                Ok(()) => {
                    if told.take().is_some() {
                        info!("the NodePolicyReport is written again");
                    }
                    pace.wrote(Instant::now(), fastrand::f64());
                    self.written = Some(latest);
                }
                Err(error) => {
                    let setback = error.setback();
                    pace.failed(Instant::now(), setback, fastrand::f64());
                    // The object may have gone, with its node, or with all of its kind.
                    self.ensured = false;
                    let (advice, causes) = (error.advice(), error.causes());
                    if told.replace(setback_kind(setback)) == Some(setback_kind(setback)) {
                        debug!(error = causes, "still no NodePolicyReport");
                    } else {
                        warn!(error = causes, advice, "failed to write the NodePolicyReport");
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
        let written = limited(request).await?.map_err(Error::Status)?;
        self.transition = transition(&written);
        debug!("wrote the NodePolicyReport");
        Ok(())
    }

    /// Makes the object, or sees to it that it belongs to the node as it is now.
    async fn ensure(&mut self) -> Result<(), Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = limited(nodes.get_metadata(&self.node)).await?;
        let node = found.map_err(|error| Error::Node(self.node.clone(), error))?;
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
        let report = limited(reports.patch(&self.node, &parameters, &patch)).await?;
        self.transition = transition(&report.map_err(Error::Create)?);
        Ok(())
    }

    fn reports(&self) -> Api<NodePolicyReport> {
        Api::all(self.client.clone())
    }
}

/// Nobody else has a say in what the agent writes.
fn parameters() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

async fn limited<T>(request: impl Future<Output = T>) -> Result<T, Error> {
    timeout(REQUEST_LIMIT, request).await.map_err(|_| Error::Silent)
}

fn transition(report: &NodePolicyReport) -> Option<Transition> {
    let conditions = report.status.iter().flat_map(|status| &status.conditions);
    let own = conditions.into_iter().find(|found| found.type_ == ENFORCING)?;
    Some(Transition { status: own.status.clone(), since: own.last_transition_time.clone() })
}

/// Two setbacks of a kind are told once.
fn setback_kind(setback: Setback) -> Setback {
    match setback {
        Setback::Passing(_) => Setback::Passing(None),
        Setback::Hopeless => Setback::Hopeless,
    }
}

impl Error {
    fn answer(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Node(_, kube::Error::Api(status))
            | Self::Create(kube::Error::Api(status))
            | Self::Status(kube::Error::Api(status)) => Some(status),
            Self::Node(..) | Self::Create(_) | Self::Status(_) | Self::Silent => None,
        }
    }

    fn setback(&self) -> Setback {
        let Some(answer) = self.answer() else { return Setback::Passing(None) };
        let asked = answer.details.as_ref().map(|details| details.retry_after_seconds);
        match (self, answer.code) {
            // Refused, or not understood: by this API server it will be refused again.
            (_, 400 | 403 | 422) | (Self::Create(_), 404) => Setback::Hopeless,
            _ => Setback::Passing(asked.map(|seconds| Duration::from_secs(seconds.into()))),
        }
    }

    fn advice(&self) -> &'static str {
        match (self, self.answer().map_or(0, |answer| answer.code)) {
            (Self::Create(_), 404) => "install the CRDs of deploy/crds",
            (_, 403) => "grant what deploy/ grants",
            (_, 400 | 422) => "install the CRDs of this version",
            (Self::Node(..), 404) => "--node-name has to be the name of a Node",
            _ => "none: it is tried again",
        }
    }

    fn causes(&self) -> String {
        // What the API server says of itself is clearer than what the client makes of it.
        let said = self.answer().map(|answer| answer.message.trim().to_owned());
        let cause = said.or_else(|| self.source().map(ToString::to_string));
        cause.map_or(self.to_string(), |cause| format!("{self}: {cause}"))
    }
}
