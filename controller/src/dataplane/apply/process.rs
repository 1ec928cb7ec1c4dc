//! Runs a tool with a time limit.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::Error;

/// Runs `program` with `input` on its standard input; gives what it printed.
///
/// # Errors
/// When it does not start, does not end within `limit`, or ends with another code than 0.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, Error> {
    let command = || [&[program], arguments].concat().join(" ");
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { command: command(), source })?;
    let output = talk(&mut child, input, limit);
    let Ok(Some((stdout, stderr))) = output else {
        // It hangs, or its pipes broke: it must not go on by itself either way.
        let _ = child.kill();
        let _ = child.wait();
        return Err(match output {
            Err(source) => Error::Start { command: command(), source },
            Ok(_) => Error::TimedOut { command: command(), seconds: limit.as_secs() },
        });
    };
    let status = child.wait().map_err(|source| Error::Start { command: command(), source })?;
    if status.success() {
        return Ok(stdout);
    }
    Err(Error::Failed { command: command(), status, stderr: stderr.trim_end().to_owned() })
}

/// Writes `input`, reads both outputs to their ends; none when that takes longer than `limit`.
fn talk(child: &mut Child, input: &str, limit: Duration) -> io::Result<Option<(String, String)>> {
    let (done, outputs) = mpsc::channel();
    let stdin = child.stdin.take();
    let input = input.to_owned();
    thread::Builder::new().spawn(move || {
        // A tool that fails early closes its input: its exit code tells.
        stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::Builder::new().spawn(move || read(stderr))?;
    thread::Builder::new().spawn(move || {
        let output = read(stdout);
        // Nobody waits any more when the time is over.
        let _ = done.send((output, errors.join().unwrap_or_default()));
    })?;
    Ok(outputs.recv_timeout(limit).ok())
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that breaks leaves a dump that is cut off, which its parser notices.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
