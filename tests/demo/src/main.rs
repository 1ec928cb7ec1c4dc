//! The binary `demo`: packets obeying policies, on three nodes in network namespaces.

use std::process::ExitCode;

use clap::Parser as _;
use portcullis_demo::Args;

fn main() -> ExitCode {
    portcullis_demo::run(&Args::parse())
}
