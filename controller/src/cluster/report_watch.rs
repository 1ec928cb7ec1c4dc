//! The watch of the nodes' reports, which only the controller needs.

use std::time::Duration;

use kube::Client;
use portcullis_apiserver::watch::{Closed, Contacts, Event, Sink, Watch};
use portcullis_crds::api::node_policy_report::NodePolicyReport;
use portcullis_crds::diagnostic::Diagnostic;
use portcullis_crds::lean::Lean;
use tokio::sync::mpsc;
use tracing::warn;

/// A batch of events of the watch, in order.
pub type Reported = Vec<Event<Lean<NodePolicyReport>>>;

/// Batches that may wait. The watch is not read further while they do.
const QUEUED: usize = 16;

/// The versions of `NodePolicyReport` that the controller reads.
const VERSIONS: &[&str] = &["v1alpha1"];

/// Watches all reports until the receiver is dropped. Failed requests are tried again with
/// back-off. While the cluster lacks the kind, its CRD is requested every `missing_kind_period`.
#[must_use]
pub fn start(
    client: Client,
    missing_kind_period: Duration,
    contacts: &Contacts,
) -> mpsc::Receiver<Reported> {
    let (sender, receiver) = mpsc::channel(QUEUED);
    let watch = Watch::new(client, "NodePolicyReport", Outlet(sender)).contacts(contacts);
    tokio::spawn(watch.optional(VERSIONS, missing_kind_period).run());
    receiver
}

struct Outlet(mpsc::Sender<Reported>);

impl Sink<NodePolicyReport> for Outlet {
    async fn take(&mut self, events: Reported) -> Result<(), Closed> {
        self.0.send(events).await.map_err(|_| Closed)
    }

    async fn diagnose(&mut self, _: String, found: Vec<Diagnostic>) -> Result<(), Closed> {
        found.iter().for_each(|diagnostic| warn!(%diagnostic, "cannot read reports"));
        Ok(())
    }

    fn known(&self) -> Option<usize> {
        None
    }
}
