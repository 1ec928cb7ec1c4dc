//! The flags of `portcullis node`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use policy_engine::budget::Budgets;
use policy_engine::cidr::Family;
use policy_engine::selector::Selector;
use policy_engine::world::enforcement::Enforcement;
use portcullis_apiserver::client::Access;

use super::{
    AgentMode, ConflictArgs, DenialLog, Directory, HttpArgs, KernelArgs, Switch, SystemArgs,
    seconds,
};
use crate::dataplane::{AcceptAction, DenyAction, LogGroup, Options, UnknownPods};
use crate::node::connections::judge::RevokeEstablished;
use crate::watch::Source;

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
    /// Whether policies are enforced, or everywhere in audit: nothing is denied, and what policies would
    /// deny is logged and counted.
    #[arg(long, env = "PORTCULLIS_MODE", value_enum, default_value = "enforce")]
    pub mode: AgentMode,
    /// Enforce policies only for pods of namespaces with these labels, as `env=prod,team in (a,b)`; in
    /// all others they are in audit. Without this flag, they are enforced in every namespace.
    #[arg(long, env = "PORTCULLIS_ENFORCE_NAMESPACES", value_name = "SELECTOR")]
    pub enforce_namespaces: Option<Selector>,
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
    /// between. The names are port-ranges, peers, similar-peers, networks, sets, members and
    /// members-with-ports.
    /// Rules beyond a limit are not applied: the pod is denied that traffic.
    #[arg(long, env = "PORTCULLIS_BUDGETS", value_name = "LIMITS", default_value = "")]
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

impl NodeArgs {
    /// The way to the API server.
    #[must_use]
    pub fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), component: "node" }
    }

    /// In which namespaces policies are enforced.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        match (self.mode, &self.enforce_namespaces) {
            (AgentMode::Audit, _) => Enforcement::Nowhere,
            (AgentMode::Enforce, None) => Enforcement::Everywhere,
            (AgentMode::Enforce, Some(selector)) => Enforcement::Namespaces(selector.clone()),
        }
    }

    /// Whether packets are denied because of their addresses: not where nothing is denied.
    #[must_use]
    pub fn checks_addresses(&self) -> bool {
        self.anti_spoofing == Switch::On && self.mode == AgentMode::Enforce
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
            // It denies packets whatever the policies are.
            anti_spoofing: self.checks_addresses(),
            unknown_pods: self.unknown_pods,
            allow_egress_to_own_node: self.allow_egress_to_own_node,
            ..self.kernel.dataplane_options()
        }
    }
}

fn family(text: &str) -> Result<Family, String> {
    Family::named(text).ok_or_else(|| "IPv4 or IPv6".to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    let read: Option<IpNet> = text.parse().ok();
    read.filter(|network| network.trunc() == *network)
        .ok_or_else(|| "a network without host bits, such as 192.0.2.0/24".to_owned())
}
