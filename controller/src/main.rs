//! The binary `portcullis`.

use std::process::ExitCode;

use clap::Parser;
use portcullis_controller::args::Cli;

fn main() -> ExitCode {
    portcullis_controller::run(&Cli::parse())
}
