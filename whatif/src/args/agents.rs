//! The flags of `inspect`, `trace` and `verify`, which ask the agents of a live cluster.

use clap::{Args as ClapArgs, ValueEnum};

use super::{CheckFormat, SourceArgs};

pub(super) const HELP: &str = "\
It runs `portcullis` in the pod of the agent: `create` and `get` on pods/exec in the namespace of
Portcullis are needed. Exit codes: 0 nothing differs, 1 something differs, 2 the tool failed, 3 some
agent could not be asked. Where `verify` may not run it, it compares the hashes in the report of the
node, and not the kernel.";

pub(super) const TRACE: &str = "\
SRC and DST are [NAMESPACE/]POD, node/NAME, or an address. It runs `portcullis trace` in the pods of the
agents of both nodes: `create` and `get` on pods/exec in the namespace of Portcullis are needed. Exit
codes: 0 allowed, 1 denied, 2 the tool failed, 3 the kernel does other than the policies say.";

/// `inspect`.
#[derive(ClapArgs, Debug)]
pub struct Inspect {
    /// The pod: NAME or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pub pod: String,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: AgentFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `trace`.
#[derive(ClapArgs, Debug)]
pub struct Trace {
    /// Who connects
    #[arg(value_name = "SRC")]
    pub source: String,
    /// To whom
    #[arg(value_name = "DST")]
    pub destination: String,
    /// The destination port, as the pod has it; none with --proto icmp
    #[arg(value_name = "PORT")]
    pub port: Option<u16>,
    /// The protocol
    #[arg(long, value_enum, default_value_t)]
    pub proto: TraceProtocol,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `verify`.
#[derive(ClapArgs, Debug)]
pub struct Verify {
    /// Only these nodes, with commas between
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    pub node: Vec<String>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CheckFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// How an agent answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AgentFormat {
    /// For people
    #[default]
    Text,
    /// One object, as `portcullis inspect -o json` of the agent writes it
    Json,
}

/// The protocol of a packet.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs)]
pub enum TraceProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

impl TraceProtocol {
    /// As `portcullis trace` takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}
