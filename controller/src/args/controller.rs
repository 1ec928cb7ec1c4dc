//! The flags of `portcullis controller`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Args};
use portcullis_apiserver::client::Access;

use super::{HttpArgs, SystemArgs, seconds};

/// Flags of `portcullis controller`.
#[derive(Args, Debug)]
pub struct ControllerArgs {
    /// How to reach the API server; without it, by the ServiceAccount of the pod that this is.
    #[arg(long, env = "KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<OsString>,
    /// Whether to write only while holding the Lease. Without, run one replica and no more.
    #[arg(long, env = "PORTCULLIS_LEADER_ELECT", action = ArgAction::Set, default_value_t = true)]
    pub leader_elect: bool,
    /// The namespace of the Lease; without it, that of the pod that this is.
    #[arg(long, env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// The name of the Lease.
    #[arg(long, env = "PORTCULLIS_LEASE_NAME", default_value = "portcullis-controller")]
    pub lease_name: String,
    /// Who this is, in the Lease and in Events; a random end is added. Without it, the host name.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Another replica takes over when the Lease has not changed for this long, in seconds.
    #[arg(long, env = "PORTCULLIS_LEASE_DURATION", value_parser = seconds, default_value = "15")]
    pub lease_duration: Duration,
    /// A leader that cannot renew for this long, in seconds, stops to lead.
    #[arg(long, env = "PORTCULLIS_RENEW_DEADLINE", value_parser = seconds, default_value = "10")]
    pub renew_deadline: Duration,
    /// How often to try to become or to stay leader, in seconds.
    #[arg(long, env = "PORTCULLIS_RETRY_PERIOD", value_parser = seconds, default_value = "2")]
    pub retry_period: Duration,
    /// How long a selector may match nothing before an Event says so, in seconds.
    #[arg(long, env = "PORTCULLIS_EVENT_DELAY", value_parser = seconds, default_value = "600")]
    pub event_delay: Duration,
    /// An agent is silent when its report has not changed for this long, in seconds. Agents write
    /// at least every 5 to 6 minutes.
    #[arg(long, env = "PORTCULLIS_SILENT_AFTER", value_parser = seconds, default_value = "750")]
    pub silent_after: Duration,
    /// Which namespaces are system namespaces.
    #[command(flatten)]
    pub system: SystemArgs,
    /// How often a kind is looked for that the cluster may lack (its CRD is not installed), in
    /// seconds. Up to as much again is added by chance.
    #[arg(long, env = "PORTCULLIS_MISSING_KIND_PERIOD", value_parser = seconds, default_value = "30")]
    pub missing_kind_period: Duration,
    /// Flags of the probes and metrics.
    #[command(flatten)]
    pub http: HttpArgs,
}

impl ControllerArgs {
    /// The way to the API server.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), component: "controller" }
    }
}
