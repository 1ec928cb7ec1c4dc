//! The flags of `portcullis inspect`, `trace` and `verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Flags of `portcullis inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// What to inspect.
    #[command(subcommand)]
    pub what: Inspected,
}

/// What can be inspected.
#[derive(Subcommand, Debug)]
pub enum Inspected {
    /// Addresses, interface, policies, rules, sets and counters of a pod of this node.
    Pod(InspectPodArgs),
}

/// Flags of `portcullis inspect pod`.
#[derive(Args, Debug)]
pub struct InspectPodArgs {
    /// The pod, as NAMESPACE/NAME.
    #[arg(value_name = "NAMESPACE/POD")]
    pub pod: String,
    /// How to reach the agent, and how to answer.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Flags of `portcullis trace`.
#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Who connects: NAMESPACE/POD, node/NAME, or an address.
    #[arg(value_name = "SRC")]
    pub source: String,
    /// To whom: NAMESPACE/POD, node/NAME, or an address.
    #[arg(value_name = "DST")]
    pub destination: String,
    /// The destination port, as the pod has it: after the translation of a Service. Not with
    /// --proto icmp.
    #[arg(value_name = "PORT", required_if_eq_any([("proto", "tcp"), ("proto", "udp"), ("proto", "sctp")]))]
    pub port: Option<u16>,
    /// The protocol.
    #[arg(long, value_enum, default_value = "tcp")]
    pub proto: TraceProtocol,
    /// How to reach the agent, and how to answer.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Flags of `portcullis verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// How to reach the agent, and how to answer.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// How to reach the agent, and how to answer.
#[derive(Args, Debug)]
pub struct SocketArgs {
    /// Where the agent has its lock: its socket is there too.
    #[arg(long, env = "PORTCULLIS_LOCK_DIR", default_value = "/run/portcullis")]
    pub lock_dir: PathBuf,
    /// How long to wait for the lock of iptables, in seconds.
    #[arg(long, env = "PORTCULLIS_XTABLES_WAIT", default_value = "10")]
    pub xtables_wait: u32,
    /// How the answer is written.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: OutputFormat,
}

/// How an answer is written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The protocol of a packet.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceProtocol {
    /// The first packet of a TCP connection, a SYN.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// The first packet of an SCTP association, an INIT.
    Sctp,
    /// An ICMP echo request.
    Icmp,
}
