//! The flags of `plan`.

use clap::{Args as ClapArgs, ValueEnum};

use super::{Side, SourceArgs};

pub(super) const HELP: &str = "\
Exit codes: 0 no connection changes, 1 some do; with --fail-on 1 only when one of these happens.";

/// `plan`.
#[derive(ClapArgs, Debug)]
pub struct Plan {
    /// Compare two sets of manifests: the objects as they are. FILE, DIR, `-`, or git:REV:PATH for
    /// files of a git revision
    #[arg(long, value_name = "PATH|git:REV:PATH", requires = "after")]
    pub before: Vec<Side>,
    /// The objects as they will be: what --before contains and --after does not is removed
    #[arg(long, value_name = "PATH|git:REV:PATH", requires = "before")]
    pub after: Vec<Side>,
    /// Compare with what would be if policies in audit were enforced, those of --with included
    #[arg(long)]
    pub audit: bool,
    /// Exit with 1 only when one of these happens
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
    pub fail_on: Vec<Danger>,
    /// In JSON and YAML, write every pair of workloads instead of groups
    #[arg(long, value_enum)]
    pub by: Option<PlanBy>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: PlanFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// What a pipeline may want to stop at.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Danger {
    /// Something is allowed that was not
    Opened,
    /// Something is not allowed that was
    Closed,
    /// Pods can no longer look up names
    Dns,
    /// An Ingress, a route of a Gateway, a LoadBalancer or a webhook loses its backend
    Backend,
    /// Pods are newly reachable from external addresses
    External,
}

/// What one change of `plan` stands for in JSON and YAML.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanBy {
    /// A workload
    Workload,
}

/// How `plan` answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PlanFormat {
    /// For people; many changes are summed up by namespace
    #[default]
    Text,
    /// For people, with every change and every name
    Wide,
    /// `kind: Plan`
    Json,
    /// `kind: Plan`
    Yaml,
    /// A comment for a pull request
    Md,
    /// One page to look through, which needs no network
    Html,
}
