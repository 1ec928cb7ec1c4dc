//! A restore tool that keeps running: one process executes script after script.
//!
//! Ending an `iptables-nft-restore` that removed rules takes 15 ms and more: when its socket
//! closes, the kernel waits until no packet can be in the old rules any more. The new ones are
//! enforced after less than 1 ms. So the tool is not ended. A script is known to be applied when
//! the tool reads more input:
//!
//! ```text
//! script … COMMIT | comments, more than pipe and tool together can hold
//!                 ▲ done when the last of them fits into the pipe
//! ```
//!
//! A script that is cut off, for example because the agent was killed, has no COMMIT: the tool then
//! changes nothing.

use std::fs::File;
use std::io::{self, ErrorKind, PipeWriter, Read as _, Seek as _, Write as _, pipe};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::dataplane::backend::error::Error;

/// A new process is started after so many scripts, so that memory that a tool leaks does not add
/// up.
const SCRIPTS_MAX: u32 = 10_000;

/// The requested size of the pipe in bytes: small, since the comments have to fill it. The kernel
/// makes it one page.
const PIPE_BYTES: i32 = 4096;

/// A comment line, which restore tools ignore.
const COMMENT_BYTES: usize = 1024;

/// One running tool.
#[derive(Debug)]
pub(super) struct Restore {
    command: String,
    child: Child,
    /// The end of the pipe that scripts are written to; `None` once it is closed.
    input: Option<PipeWriter>,
    errors: File,
    filler: String,
    scripts_left: u32,
}

impl Restore {
    /// Starts `program`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(super) fn start(program: &str, arguments: &[&str]) -> Result<Self, Error> {
        let command = [&[program], arguments].concat().join(" ");
        Self::spawn(program, arguments, command.clone())
            .map_err(|source| Error::Start { command, source })
    }

    fn spawn(program: &str, arguments: &[&str], command: String) -> io::Result<Self> {
        let (output, input) = pipe()?;
        fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let held = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
        let held = usize::try_from(held).map_err(io::Error::other)?;
        // A tool reads a pipe by the page as well.
        let comments = 2 * held / COMMENT_BYTES + 2;
        let filler = format!("#{:width$}\n", "", width = COMMENT_BYTES - 2).repeat(comments);
        // A file takes any number of warnings without a reader.
        let errors = File::from(memfd_create("portcullis", MFdFlags::MFD_CLOEXEC)?);
        let child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(output)
            .stdout(Stdio::null())
            .stderr(errors.try_clone()?)
            .spawn()?;
        let input = Some(input);
        Ok(Self { command, child, input, errors, filler, scripts_left: SCRIPTS_MAX })
    }

    /// The process id of the tool.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The tool itself; `None` if it has ended, or has executed so many scripts that a new one is
    /// needed.
    pub(super) fn usable(mut self) -> Option<Self> {
        let is_running = matches!(self.child.try_wait(), Ok(None));
        (is_running && self.scripts_left > 0).then_some(self)
    }

    /// Executes `script`, which ends with COMMIT; it is applied when this returns.
    ///
    /// # Errors
    /// When the tool refuses the script, or is not done within `limit`. The tool has ended then,
    /// and cannot be used again.
    pub(super) fn run(&mut self, script: &str, limit: Duration) -> Result<(), Error> {
        self.scripts_left = self.scripts_left.saturating_sub(1);
        let text = [script, &self.filler].concat();
        match self.feed(text.as_bytes(), limit) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let _ = self.child.kill();
                let command = self.command.clone();
                Err(Error::TimedOut { command, seconds: limit.as_secs() })
            }
            Err(source) => Err(self.ended(source)),
        }
    }

    /// Writes all of `bytes`. Returns false when that takes longer than `limit`.
    fn feed(&mut self, mut bytes: &[u8], limit: Duration) -> io::Result<bool> {
        let Some(input) = &mut self.input else { return Err(ErrorKind::BrokenPipe.into()) };
        let end = Instant::now() + limit;
        while !bytes.is_empty() {
            match input.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    match poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLOUT)], left) {
                        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Why the tool does not read any more.
    fn ended(&mut self, source: io::Error) -> Error {
        let command = self.command.clone();
        self.input = None;
        let Ok(status) = self.child.wait() else { return Error::Start { command, source } };
        let mut stderr = String::new();
        // If its output cannot be read, the error still has its status.
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut stderr));
        Error::Failed { command, status, stderr: stderr.trim_end().to_owned() }
    }
}

impl Drop for Restore {
    /// The tool ends at the end of its input, since it is idle or was killed.
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A tool that reads lines as restore tools do; `on_commit` is what it does at COMMIT.
    fn tool(on_commit: &str) -> Restore {
        let script = format!(
            "while read -r line; do case $line in COMMIT) {on_commit};; esac; done; exit 0"
        );
        Restore::start("sh", &["-c", &script]).unwrap()
    }

    #[test]
    fn a_script_is_done_when_its_commit_is() {
        let directory = tempfile::tempdir().unwrap();
        let done = directory.path().join("done");
        let mut tool = tool(&format!("sleep 0.2; echo >> {}", done.display()));
        for number in 1..=2 {
            tool.run("*filter\nCOMMIT\n", LIMIT).unwrap();
            assert_eq!(std::fs::read_to_string(&done).unwrap().lines().count(), number);
        }
    }

    #[test]
    fn the_error_of_a_tool_that_refuses_has_its_output() {
        let mut tool = tool("echo no such chain >&2; exit 3");
        let error = tool.run("COMMIT\n", LIMIT).unwrap_err().to_string();
        assert!(error.contains("no such chain") && error.contains('3'), "{error}");
        assert!(tool.run("COMMIT\n", LIMIT).is_err(), "it is of no more use");
    }

    #[test]
    fn a_tool_that_was_killed_while_it_was_idle_is_replaced() {
        let mut tool = tool("true");
        tool.run("COMMIT\n", LIMIT).unwrap();
        let mut tool = tool.usable().expect("it is running");
        tool.child.kill().unwrap();
        tool.child.wait().unwrap();
        assert!(tool.usable().is_none());
    }

    #[test]
    fn a_tool_that_hangs_is_killed() {
        let mut tool = tool("exec sleep 600");
        let error = tool.run("COMMIT\n", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }
}
