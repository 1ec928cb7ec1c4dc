//! The command line: pure values, read before the world is touched.

mod controller;
mod inspect;
mod kernel;
mod node;
mod status;

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use policy_engine::labels::Str;
use policy_engine::{words, world};

pub use self::controller::ControllerArgs;
pub use self::inspect::{
    InspectArgs, InspectPodArgs, Inspected, OutputFormat, SocketArgs, TraceArgs, TraceProtocol,
    VerifyArgs,
};
pub use self::kernel::KernelArgs;
pub use self::node::NodeArgs;
pub use self::status::StatusArgs;
use crate::dataplane::conflict::Conflict;
use crate::serve::http::Listen;
use portcullis_crds::convert::labels::namespace_name;

/// The commit that this program was built from, if the build named it: `make build` and the image do.
pub(crate) const COMMIT: Option<&str> = option_env!("PORTCULLIS_COMMIT");

/// The version of this program, and the commit.
pub(crate) static VERSION: LazyLock<String> =
    LazyLock::new(|| words::version(env!("CARGO_PKG_VERSION"), COMMIT));

/// Kubernetes NetworkPolicy on every node, beside any routing CNI.
#[derive(Parser, Debug)]
#[command(name = "portcullis", version = VERSION.as_str(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines look.
    #[arg(long, global = true, env = "PORTCULLIS_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines to print: error, warn, info, debug, trace, or a filter per module.
    #[arg(long, global = true, env = "PORTCULLIS_LOG", default_value = "info")]
    pub log: String,
}

/// The programs in this binary.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Enforce policies on this node, in the network namespace that it runs in.
    Node(Box<NodeArgs>),
    /// Look after the whole cluster: Events on policies that cannot mean what they say, and the
    /// reports of nodes. One of several replicas leads.
    Controller(Box<ControllerArgs>),
    /// Remove every rule, chain and set of Portcullis from this node, and nothing else.
    Cleanup(CleanupArgs),
    /// Say whether this node can enforce policies, and what to do where it can't.
    Preflight(PreflightArgs),
    /// Show what is enforced for a pod of this node, and compare it with the kernel. Changes nothing.
    Inspect(InspectArgs),
    /// Walk the rules that are in the kernel as the first packet of a connection does, and name the
    /// one that decides. Changes nothing.
    Trace(TraceArgs),
    /// Compare all rules and sets in the kernel with those that the agent wants. Changes nothing.
    Verify(VerifyArgs),
    /// Say whether each node on which the DaemonSet runs an agent reports the state Enforcing or
    /// Auditing. Changes nothing.
    Status(StatusArgs),
}

/// Which namespaces are system namespaces, besides those of Kubernetes: kube-system, kube-public
/// and kube-node-lease.
#[derive(Args, Debug)]
pub struct SystemArgs {
    /// The namespace that Portcullis runs in: a system namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = world::OWN_NAMESPACE)]
    pub own_namespace: String,
    /// More system namespaces, with commas between: ClusterDefaultNetworkPolicies do not select
    /// them unless includeSystemNamespaces is true. Must be the same for all agents and controllers.
    #[arg(
        long,
        env = "PORTCULLIS_SYSTEM_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = namespace_name
    )]
    pub system_namespaces: Vec<Str>,
}

impl SystemArgs {
    /// The options of the engine with these system namespaces.
    #[must_use]
    pub fn options(&self) -> world::Options {
        world::Options {
            own_namespace: self.own_namespace.as_str().into(),
            system_namespaces: self.system_namespaces.iter().cloned().collect(),
            ..world::Options::default()
        }
    }
}

/// Flags of `portcullis cleanup`.
#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Where agents have their lock: one that runs would put the rules back.
    #[arg(long, env = "PORTCULLIS_LOCK_DIR", default_value = "/run/portcullis")]
    pub lock_dir: PathBuf,
    /// Flags that all commands share.
    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// Flags of `portcullis preflight`.
#[derive(Args, Debug)]
pub struct PreflightArgs {
    /// Exit with 0 whatever was found: for an init container that sets what the agent may not set,
    /// and must not keep it from starting.
    #[arg(long)]
    pub no_fail: bool,
    /// Which conflicts are ignored.
    #[command(flatten)]
    pub conflicts: ConflictArgs,
    /// Flags that all commands share.
    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// Which conflicts are ignored.
#[derive(Args, Debug)]
pub struct ConflictArgs {
    /// Conflicts in spite of which the node counts as enforcing policies, with commas between.
    #[arg(
        long,
        env = "PORTCULLIS_IGNORE_CONFLICTS",
        value_name = "NAMES",
        value_delimiter = ',',
        value_enum
    )]
    pub ignore_conflicts: Vec<Conflict>,
}

/// Flags of the probes and metrics.
#[derive(Args, Debug)]
pub struct HttpArgs {
    /// Where to serve /healthz and /readyz: ADDRESS:PORT, :PORT for every address, or off.
    #[arg(long, env = "PORTCULLIS_HEALTH_ADDRESS", default_value = "127.0.0.1:9467")]
    pub health_address: Listen,
    /// Where to serve /metrics: ADDRESS:PORT, :PORT for every address, or off.
    #[arg(long, env = "PORTCULLIS_METRICS_ADDRESS", default_value = ":9466")]
    pub metrics_address: Listen,
    /// /healthz fails when the agent has made no progress for this long, in seconds.
    #[arg(long, env = "PORTCULLIS_STALLED_AFTER", value_parser = seconds, default_value = "120")]
    pub stalled_after: Duration,
    /// /readyz fails when there has been no progress for this long, in seconds.
    #[arg(long, env = "PORTCULLIS_UNREADY_AFTER", value_parser = seconds, default_value = "30")]
    pub unready_after: Duration,
}

/// Whether denials are logged.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenialLog {
    /// They are.
    On,
    /// They are only counted.
    Off,
}

/// A directory that can be left out, by `off` or an empty text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory(pub Option<PathBuf>);

impl FromStr for Directory {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_off = matches!(text, "" | "off");
        Ok(Self((!is_off).then(|| text.into())))
    }
}

/// Whether policies are enforced.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgentMode {
    /// They are.
    Enforce,
    /// They are only audited.
    Audit,
}

/// Whether something is done.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Formats of the log.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(0) | Err(_) => Err("a whole number of seconds, 1 or more".to_owned()),
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(command: &str, value: &str) -> Result<Vec<String>, String> {
        let value = format!("--system-namespaces={value}");
        let line = ["portcullis", command, "--node-name=n1", &value];
        let line = line.into_iter().filter(|word| command == "node" || !word.contains("node-name"));
        let cli = Cli::try_parse_from(line).map_err(|error| error.to_string())?;
        let options = match &cli.command {
            Command::Node(args) => args.system.options(),
            Command::Controller(args) => args.system.options(),
            other => panic!("{other:?}"),
        };
        Ok(options.system_namespaces.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn system_namespaces_are_names_with_commas_between() {
        for command in ["node", "controller"] {
            let names = system(command, "monitoring,cert-manager");
            assert_eq!(names, Ok(vec!["cert-manager".to_owned(), "monitoring".to_owned()]));
        }
    }

    #[test]
    fn a_directory_can_be_left_out() {
        for text in ["", "off"] {
            assert_eq!(text.parse(), Ok(Directory(None)));
        }
        assert_eq!("/a/off".parse(), Ok(Directory(Some("/a/off".into()))));
    }

    #[test]
    fn what_no_namespace_can_be_called_is_refused() {
        let long = "a".repeat(64);
        for value in ["kube-*", "a,,b", "a, b", "Team", "-a", "a-", "a.b", &long] {
            for command in ["node", "controller"] {
                let refused = system(command, value).unwrap_err();
                assert!(refused.contains("the name of a namespace is at most 63"), "{refused}");
            }
        }
    }
}
