//! The binary `kubectl-whatif`, which kubectl runs as `kubectl whatif`.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis_whatif::main()
}
