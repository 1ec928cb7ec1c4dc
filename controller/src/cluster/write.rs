//! The controller's writes. Each is safe to send twice, and concerns one version of one object.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, Error, ResourceExt as _};
use portcullis_apiserver::failure::{Failure, Reason, within};
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::api::node_policy_report::NodePolicyReport;
use serde_json::Value;

use super::events::ledger::ObjectFinding;
use super::events::write::{event, namespace};
use super::lease::election::Leadership;
use super::reports::{Action, condition};
use super::standing::Standing;

/// The field manager of server-side apply, which owns the fields that the controller writes.
const FIELD_MANAGER: &str = "portcullis-controller";
/// How long a write may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long to wait after a failure whose answer had no `Retry-After`.
const PAUSE: Duration = Duration::from_secs(5);

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    /// An Event.
    Event(ObjectFinding),
    /// A change or the deletion of the report of the node with this name.
    Report(String, Action),
    /// The status of a ClusterDefaultNetworkPolicy.
    Standing(Box<NewStanding>),
}

impl Write {
    /// The kind of an Event.
    pub const EVENT: &'static str = "Event";
    /// The kind of a change or deletion of a report.
    pub const REPORT: &'static str = "NodePolicyReport";
    /// The kind of a status.
    pub const STANDING: &'static str = "status of a ClusterDefaultNetworkPolicy";

    /// The kind of object that is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Event(_) => Self::EVENT,
            Self::Report(..) => Self::REPORT,
            Self::Standing(_) => Self::STANDING,
        }
    }
}

/// A status that is to be written.
#[derive(Clone, PartialEq, Debug)]
pub struct NewStanding {
    /// The ClusterDefaultNetworkPolicy.
    pub name: String,
    /// The uid of the policy.
    pub uid: String,
    /// The status to write.
    pub standing: Standing,
    /// The status that the policy has now.
    pub before: Value,
}

/// The outcome of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The API server accepted the write.
    Written,
    /// The object exists already, has changed, or does not exist any more.
    Needless,
    /// The API server refuses the object as invalid; another attempt would fail too.
    Refused(String),
    /// The controller lacks the permission (RBAC).
    Forbidden(String),
    /// The write failed, and is to be tried again after this time.
    Failed(String, Duration),
    /// The write was not sent: this process does not lead any more.
    NotLeading,
}

/// Sends writes while this process leads.
#[derive(Clone)]
pub struct Writer {
    /// The client of the API server.
    pub client: Client,
    /// The name of this process.
    pub identity: String,
    /// Whether this process leads.
    pub leadership: Leadership,
}

impl Writer {
    /// Sends one write.
    pub async fn send(&self, write: &Write) -> Outcome {
        // As late as possible: this process may have been stopped since the write was decided.
        if !self.leadership.holds() {
            return Outcome::NotLeading;
        }
        let request = async {
            match write {
                Write::Event(object_finding) => self.event(object_finding).await,
                Write::Report(name, action) => self.report(name, action).await,
                Write::Standing(new) => self.standing(new).await,
            }
        };
        within(LIMIT, request).await.unwrap_or_else(outcome)
    }

    async fn event(&self, object_finding: &ObjectFinding) -> Result<Outcome, Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace(object_finding));
        let event = event(object_finding, &self.identity, Timestamp::now());
        events.create(&PostParams::default(), &event).await?;
        Ok(Outcome::Written)
    }

    async fn report(&self, name: &str, action: &Action) -> Result<Outcome, Error> {
        let reports: Api<NodePolicyReport> = Api::all(self.client.clone());
        match action {
            Action::SetCurrent { uid, still_reports } => {
                let patch = condition(name, uid, *still_reports, Timestamp::now());
                let params = PatchParams::apply(FIELD_MANAGER).force();
                reports.patch_status(name, &params, &Patch::Apply(patch)).await?;
            }
            Action::Delete { uid, version, owner } => {
                // The watches of Nodes and reports may differ by any time, so the Node is read.
                let nodes: Api<Node> = Api::all(self.client.clone());
                let node = nodes.get_opt(name).await?;
                if node.is_some_and(|node| owner.is_none() || node.uid() == *owner) {
                    return Ok(Outcome::Needless);
                }
                if !self.leadership.holds() {
                    return Ok(Outcome::NotLeading);
                }
                let (uid, resource_version) = (Some(uid.clone()), Some(version.clone()));
                let preconditions = Some(Preconditions { uid, resource_version });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                reports.delete(name, &params).await?;
            }
        }
        Ok(Outcome::Written)
    }

    async fn standing(&self, new: &NewStanding) -> Result<Outcome, Error> {
        // Without a type, since the status that another client has written may not decode.
        let resource = ApiResource::erase::<ClusterDefaultNetworkPolicy>(&());
        let policies: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let patch = new.standing.patch(&new.name, &new.uid, &new.before, Timestamp::now());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        policies.patch_status(&new.name, &params, &Patch::Apply(patch)).await?;
        Ok(Outcome::Written)
    }
}

fn outcome(failure: Failure) -> Outcome {
    let Failure { reason, error, retry_after } = failure;
    match reason {
        // The object exists already, has changed, or does not exist any more.
        Reason::Status(404 | 409) => Outcome::Needless,
        Reason::Status(400 | 422) => Outcome::Refused(error),
        Reason::Status(403) if error.contains("being terminated") => Outcome::Needless,
        Reason::Status(403) => Outcome::Forbidden(error),
        _ => Outcome::Failed(error, retry_after.max(PAUSE)),
    }
}
