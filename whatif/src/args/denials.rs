//! The flags of `denials`.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::SourceArgs;
use super::source::duration;

pub(super) const HELP: &str = "\
  kubectl whatif denials -n shop --follow
  kubectl whatif denials --since=24h -o json | kubectl whatif suggest --denials -

Exit codes: 0 all logs were read, 2 the tool failed, 3 some logs could not be read.";

/// `denials`.
#[derive(ClapArgs, Debug)]
pub struct Denials {
    /// Only connections from or to this pod: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// How far back, as `10m` or `24h`
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub since: Duration,
    /// Go on with what is denied from now on, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: DenialsFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// How `denials` answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DenialsFormat {
    /// For people, one line each
    #[default]
    Text,
    /// `kind: Denial`, one object a line
    Json,
}
