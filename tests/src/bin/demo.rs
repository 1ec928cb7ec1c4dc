//! The binary `demo`: packets obeying policies, on three nodes in network namespaces.

use std::process::ExitCode;

use clap::Parser as _;
use portcullis_tests::demo::{self, Args};

fn main() -> ExitCode {
    demo::run(&Args::parse())
}
