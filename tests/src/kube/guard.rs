//! A server process that ends with this one, however this one ends.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use portcullis_lab::Namespace;

/// Waits for the server and for the end of standard input, whichever comes first.
///
/// `PR_SET_PDEATHSIG` would be shorter, but it fires when the *thread* that started the server
/// ends, and a test's threads do.
const GUARD: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
server=$!
{ read -r _ <&3; kill -9 $server; } &
guard=$!
wait $server
status=$?
kill $guard
exit $status
"#;

/// A running server. Dropping it kills the server, and so does the end of this process.
pub struct Guarded {
    shell: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Guarded {
    /// Starts `program` in `namespace`, or else where this process runs. What it prints is added
    /// to the file `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        namespace: Option<&Namespace>,
        program: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        // A terminal's Ctrl-C is for the test, whose end is enough.
        command.current_dir("/").process_group(0);
        let mut shell = match namespace {
            Some(namespace) => namespace.spawn(&mut command)?,
            None => command.spawn().context("failed to start sh")?,
        };
        let lifeline = shell.stdin.take();
        Ok(Self { shell, lifeline, log: log.to_owned() })
    }

    /// How the server ended, if it did.
    ///
    /// # Errors
    /// When its state cannot be told.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.shell.try_wait()?)
    }

    /// The end of what it printed.
    #[must_use]
    pub fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sleeper(directory: &Path) -> Result<Guarded> {
        let pid = directory.join("pid");
        let script = format!("echo $$ > {}; exec sleep 1000", pid.display());
        Guarded::start(None, Path::new("sh"), &["-c".into(), script], &directory.join("log"))
    }

    fn pid(directory: &Path) -> Result<PathBuf> {
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            let text = std::fs::read_to_string(directory.join("pid")).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n') {
                return Ok(Path::new("/proc").join(pid));
            }
            std::thread::yield_now();
        }
        anyhow::bail!("it did not start")
    }

    #[test]
    fn a_server_ends_when_its_guard_is_dropped() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut server = sleeper(directory.path())?;
        let process = pid(directory.path())?;
        assert!(process.exists() && server.ended()?.is_none());
        drop(server);
        assert!(!process.exists());
        Ok(())
    }

    #[test]
    fn the_end_of_a_server_is_noticed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let script = "echo no such flag; exit 3".to_owned();
        let mut server = Guarded::start(None, Path::new("sh"), &["-c".into(), script], &log)?;
        let limit = Instant::now() + Duration::from_secs(10);
        while server.ended()?.is_none() && Instant::now() < limit {
            std::thread::yield_now();
        }
        assert_eq!(server.ended()?.and_then(|status| status.code()), Some(3));
        assert_eq!(server.last_words(), "no such flag");
        Ok(())
    }
}
