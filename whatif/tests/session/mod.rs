//! Runs the real binary as one would in a terminal.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `kubectl-whatif` at the root of the repository, where examples have short names, with pipes.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(line.split_whitespace())
        .env_remove("KUBECONFIG")
        .env("HOME", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a [`command`] with this input.
pub(crate) fn run(line: &str, input: &str) -> Output {
    let mut child = command(line).spawn().expect("the binary is built");
    // It may end without reading.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// Several commands as one would see them.
pub(crate) fn session(lines: &[&str]) -> String {
    let mut shown = String::new();
    for line in lines {
        let Output { status, stdout, stderr } = run(line, "");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = status.code().expect("it was not killed");
        let (stderr, stdout) = (text(stderr), text(stdout));
        shown +=
            &[format!("$ kubectl whatif {line}\n"), stderr, stdout, format!("[exit {code}]\n\n")]
                .concat();
    }
    shown
}

/// What was written.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
