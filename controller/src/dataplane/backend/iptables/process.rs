//! Runs a tool with a time limit.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::dataplane::backend::error::Error;

/// Runs `program` with `input` on its standard input. Returns its standard output.
///
/// # Errors
/// When the program does not start, does not end within `limit`, or ends with a code other than 0.
pub(in crate::dataplane) fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, Error> {
    let command = || [&[program], arguments].concat().join(" ");
    let start = |source| Error::Start { command: command(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(whole(input).map_err(start)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let output = talk(&mut child, limit);
    let Ok(Some((stdout, stderr))) = output else {
        // The tool hangs, or its pipes broke. It is killed, so that it makes no change later.
        let _ = child.kill();
        let _ = child.wait();
        return Err(match output {
            Err(source) => Error::Start { command: command(), source },
            Ok(_) => Error::TimedOut { command: command(), seconds: limit.as_secs() },
        });
    };
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(stdout);
    }
    Err(Error::Failed { command: command(), status, stderr: stderr.trim_end().to_owned() })
}

/// A standard input that holds all of `input` from the start.
///
/// An agent that is killed while it feeds a pipe would leave the tool with a line cut short, and
/// `add SET 10.0.0.12` cut short is another address.
fn whole(input: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("portcullis", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads both outputs to their ends; `None` when that takes longer than `limit`.
fn talk(child: &mut Child, limit: Duration) -> io::Result<Option<(String, String)>> {
    let (done, outputs) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::Builder::new().spawn(move || read(stderr))?;
    thread::Builder::new().spawn(move || {
        let output = read(stdout);
        // The receiver does not wait any more when the time is over.
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
