//! The flags of `ui`.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::SourceArgs;
use super::source::duration;

pub(super) const HELP: &str = "\
  kubectl whatif ui
  kubectl whatif ui -n shop --port=8080

The page is served at 127.0.0.1 only, and its address contains a random token. It can be read until
Ctrl-C. Exit code 2: the tool failed.";

/// `ui`.
#[derive(ClapArgs, Debug)]
pub struct Ui {
    /// The port at 127.0.0.1; 0 for a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// How far back denials are shown, as `10m` or `24h`
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub since: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}
