//! The flags of `suggest`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::SourceArgs;

pub(super) const HELP: &str = "\
  kubectl whatif suggest shop/web shop/api:8080 | kubectl apply -f -
  kubectl logs -n portcullis-system -l app.kubernetes.io/component=node --tail=-1 --since=24h \\
    | kubectl whatif suggest --denials -

Exit codes: 0 all connections are allowed with the policies, 1 no NetworkPolicy can allow some of
them, 2 the tool failed, 3 not all objects could be read.";

/// `suggest`.
#[derive(ClapArgs, Debug)]
pub struct Suggest {
    /// Who has to be able to connect
    #[arg(value_name = "SRC", requires = "destination")]
    pub source: Option<String>,
    /// Whom it connects to; without a port, on every port
    #[arg(value_name = "DST")]
    pub destination: Option<String>,
    /// The port, as `8080`, `http` or `53/udp`, if DST has none
    #[arg(value_name = "PORT")]
    pub port: Option<String>,
    /// Read connections from a file, one per line, as `SRC DST[:PORT]` or `SRC DST PORT`
    #[arg(short, long, value_name = "FILE|-")]
    pub connections: Vec<PathBuf>,
    /// Take the connections that the tests of a `PolicyTest` expect to be allowed
    #[arg(long, value_name = "FILE|-")]
    pub tests: Vec<PathBuf>,
    /// Take the connections of `denied` and `would be denied` lines in a log of agents, text or JSON
    #[arg(long, value_name = "FILE|-")]
    pub denials: Vec<PathBuf>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: SuggestFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// How `suggest` answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SuggestFormat {
    /// The policies, with comments about what they do
    #[default]
    Yaml,
    /// `kind: Suggestion`
    Json,
}
