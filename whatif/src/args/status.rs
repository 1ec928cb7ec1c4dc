//! The flags of `status`.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::source::duration;
use super::{CheckFormat, SourceArgs};

pub(super) const HELP: &str = "\
Exit codes: 0 every node with a pod that a policy selects applies it, 1 some node does not, 2 the tool
failed, 3 some node does not say. Only nodes in the state Enforcing count.";

/// `status`.
#[derive(ClapArgs, Debug)]
pub struct Status {
    /// The policy: netpol/NAME, cnp/NAME or cdnp/NAME; without it, all policies
    #[arg(value_name = "POLICY")]
    pub policy: Option<String>,
    /// Wait until every node applies the policy, or with `deleted` until it is deleted and no node reports
    /// it
    #[arg(
        long,
        value_enum,
        value_name = "CONDITION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "applied"
    )]
    pub wait: Option<WaitFor>,
    /// How long --wait waits, as `30s` or `2m`
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CheckFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// What `status` waits for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Every node with a pod that the policy selects applies it
    Applied,
    /// The policy is deleted, and no node reports it
    Deleted,
}
