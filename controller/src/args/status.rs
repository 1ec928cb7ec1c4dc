//! The flags of `portcullis status`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use policy_engine::world;
use portcullis_apiserver::client::Access;

use super::seconds;

/// Flags of `portcullis status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// How to reach the API server; without it, by the ServiceAccount of the pod that this is.
    #[arg(long, env = "KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<OsString>,
    /// The namespace that Portcullis runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = world::OWN_NAMESPACE)]
    pub own_namespace: String,
    /// Wait until the answer is yes.
    #[arg(long)]
    pub wait: bool,
    /// How long --wait waits, in seconds.
    #[arg(long, value_parser = seconds, default_value = "60")]
    pub timeout: Duration,
}

impl StatusArgs {
    /// The way to the API server.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), component: "status" }
    }
}
