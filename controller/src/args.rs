//! The command line: pure values, read before the world is touched.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use policy_engine::budget::Budgets;
use policy_engine::cidr::Family;
use policy_engine::labels::Str;
use policy_engine::world;

use crate::dataplane::conflict::Conflict;
use crate::dataplane::{AcceptAction, DenyAction, IptablesVariant, LogGroup, Options, UnknownPods};
use crate::node::connections::judge::RevokeEstablished;
use crate::serve::http::Listen;
use crate::watch::Source;
use portcullis_apiserver::client::Access;
use portcullis_crds::convert::labels::namespace_name;

/// Kubernetes NetworkPolicy on every node, beside any routing CNI.
#[derive(Parser, Debug)]
#[command(name = "portcullis", version, max_term_width = 100)]
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
    Cleanup(KernelArgs),
    /// Say whether this node can enforce policies, and what to do where it can't.
    Preflight(PreflightArgs),
}

/// Flags of `portcullis node`.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// Where the objects come from: `kube`, the API server, or `dir:PATH`, a directory of manifests
    /// that is watched.
    #[arg(long, env = "PORTCULLIS_SOURCE", default_value = "kube")]
    pub source: Source,
    /// How to reach the API server; without it, by the ServiceAccount of the pod that this is.
    #[arg(long, env = "KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<OsString>,
    /// The name of this node: its pods are the ones to protect.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Where the container runtime keeps the results of CNI plugins, or `off`.
    #[arg(long, env = "PORTCULLIS_CNI_RESULTS_DIR", default_value = "/var/lib/cni/results")]
    pub cni_results_dir: Directory,
    /// Whether a packet of a pod is dropped unless it comes and goes by the interface of that pod: no
    /// pod can use another address than its own.
    #[arg(long, env = "PORTCULLIS_ANTI_SPOOFING", value_enum, default_value = "on")]
    pub anti_spoofing: Switch,
    /// What happens to packets of interfaces that lead to pods, if their address is none of a known
    /// pod. Without --anti-spoofing they pass.
    #[arg(long, env = "PORTCULLIS_UNKNOWN_PODS", value_enum, default_value = "deny")]
    pub unknown_pods: UnknownPods,
    /// Networks, with commas between, whose addresses a pod also sends from and receives at if its
    /// annotation portcullis.dev/extra-source-ranges lists them. Without this flag, the annotation
    /// is ignored.
    #[arg(
        long,
        env = "PORTCULLIS_EXTRA_SOURCE_RANGES",
        value_name = "CIDRS",
        value_delimiter = ',',
        value_parser = network
    )]
    pub extra_source_ranges: Vec<IpNet>,
    /// Do not apply egress policies to what pods send to their own node.
    #[arg(long, env = "PORTCULLIS_ALLOW_EGRESS_TO_OWN_NODE")]
    pub allow_egress_to_own_node: bool,
    /// What happens to packets that policy denies.
    #[arg(long, env = "PORTCULLIS_DENY_ACTION", value_enum, default_value = "drop")]
    pub deny_action: DenyAction,
    /// What happens to packets of pods that policy allows: on to the rules behind ours, or past
    /// them.
    #[arg(long, env = "PORTCULLIS_ACCEPT_ACTION", value_enum, default_value = "return")]
    pub accept_action: AcceptAction,
    /// Which connections end when policies no longer allow them: of every protocol but TCP, of all
    /// protocols, or none.
    #[arg(long, env = "PORTCULLIS_REVOKE_ESTABLISHED", value_enum, default_value = "udp")]
    pub revoke_established: RevokeEstablished,
    /// Whether to say what is denied, and what policies in audit would deny: log lines and metrics.
    #[arg(long, env = "PORTCULLIS_DENIAL_LOG", value_enum, default_value = "on")]
    pub denial_log: DenialLog,
    /// The group of NFLOG that denied packets come from, 1 to 65535: one that nothing else on the
    /// node listens to.
    #[arg(long, env = "PORTCULLIS_DENIAL_LOG_GROUP", default_value_t)]
    pub denial_log_group: LogGroup,
    /// Limits of what the policies of one pod, direction and tier can cost, as NAME=NUMBER with commas
    /// between. The names are port-ranges, peers, networks, sets, members and members-with-ports.
    /// Rules beyond a limit are not applied: the pod is denied that traffic.
    #[arg(long, env = "PORTCULLIS_BUDGETS", value_name = "LIMITS", value_parser = budgets, default_value = "")]
    pub budgets: Budgets,
    /// Compare the kernel with what should be there this often, in seconds, and repair it.
    #[arg(long, env = "PORTCULLIS_VERIFY_PERIOD", value_parser = seconds, default_value = "60")]
    pub verify_period: Duration,
    /// Do not start unless these can be enforced: IPv4, IPv6, or both with a comma between.
    #[arg(long, env = "PORTCULLIS_REQUIRE_FAMILIES", value_delimiter = ',', value_parser = family)]
    pub require_families: Vec<Family>,
    /// Where the lock is that lets only one agent program a network namespace.
    #[arg(long, env = "PORTCULLIS_LOCK_DIR", default_value = "/run/portcullis")]
    pub lock_dir: PathBuf,
    /// Where the agent remembers that it has enforced policies on this node: after a reboot it drops
    /// packets of pods until it has all objects. Or `off`.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", default_value = "/var/lib/portcullis")]
    pub state_dir: Directory,
    /// The pod that this agent runs in, for its report.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Which namespaces are system namespaces.
    #[command(flatten)]
    pub system: SystemArgs,
    /// How often a kind is looked for that the cluster may lack (its CRD is not installed), in
    /// seconds. Up to as much again is added by chance.
    #[arg(long, env = "PORTCULLIS_MISSING_KIND_PERIOD", value_parser = seconds, default_value = "30")]
    pub missing_kind_period: Duration,
    /// How often the node is examined for conflicts, in seconds: other software that makes the
    /// enforcement of policies void.
    #[arg(long, env = "PORTCULLIS_CONFLICT_PERIOD", value_parser = seconds, default_value = "10")]
    pub conflict_period: Duration,
    /// Which conflicts are ignored.
    #[command(flatten)]
    pub conflicts: ConflictArgs,
    /// Flags of the probes and metrics.
    #[command(flatten)]
    pub http: HttpArgs,
    /// Flags that all commands share.
    #[command(flatten)]
    pub kernel: KernelArgs,
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

/// Flags of everything that programs the kernel.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// Which iptables to use; auto: where kube-proxy and the CNI have their chains.
    #[arg(long, env = "PORTCULLIS_IPTABLES", value_enum, default_value = "auto")]
    pub iptables: IptablesVariant,
    /// How long to wait for the lock of iptables, in seconds.
    #[arg(long, env = "PORTCULLIS_XTABLES_WAIT", default_value = "10")]
    pub xtables_wait: u32,
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

impl NodeArgs {
    /// The way to the API server.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), component: "node" }
    }

    /// What the dataplane needs to know of these.
    #[must_use]
    pub fn dataplane_options(&self) -> Options {
        Options {
            deny: self.deny_action,
            accept: self.accept_action,
            denial_log: match self.denial_log {
                DenialLog::On => Some(self.denial_log_group),
                DenialLog::Off => None,
            },
            anti_spoofing: self.anti_spoofing == Switch::On,
            unknown_pods: self.unknown_pods,
            allow_egress_to_own_node: self.allow_egress_to_own_node,
            ..self.kernel.dataplane_options()
        }
    }
}

impl KernelArgs {
    /// What the dataplane needs to know of these; the rest as it is by default.
    #[must_use]
    pub fn dataplane_options(&self) -> Options {
        Options {
            variant: self.iptables,
            lock_wait_seconds: self.xtables_wait,
            ..Options::default()
        }
    }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "IPv4" => Ok(Family::V4),
        "IPv6" => Ok(Family::V6),
        _ => Err("IPv4 or IPv6".to_owned()),
    }
}

fn budgets(text: &str) -> Result<Budgets, String> {
    let limits = text.split(',').filter(|limit| !limit.is_empty());
    limits.into_iter().try_fold(Budgets::default(), |all, limit| {
        let (name, number) = limit.split_once('=').ok_or("a limit is NAME=NUMBER")?;
        let number = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
        let names =
            || format!("no limit is named {name:?}; there are {}", Budgets::NAMES.join(", "));
        all.with(name, number).ok_or_else(names)
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    let read: Option<IpNet> = text.parse().ok();
    read.filter(|network| network.trunc() == *network)
        .ok_or_else(|| "a network without host bits, such as 192.0.2.0/24".to_owned())
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
