//! A running agent and what it logs.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many lines of an agent's log are kept.
const LOG_LINES: usize = 2_000;

/// A running agent.
pub struct Agent {
    node: String,
    child: Child,
    log: Arc<Log>,
}

impl Agent {
    /// The agent of `node` that `child` is; what it logs comes out of `stderr`, if the test does not
    /// read it itself.
    pub(super) fn new(node: &str, child: Child, stderr: Option<ChildStderr>) -> Self {
        let log = Arc::new(Log::default());
        if let Some(stderr) = stderr {
            let (copy, lines) = (log.clone(), BufReader::new(stderr).lines());
            thread::spawn(move || lines.map_while(Result::ok).for_each(|line| copy.push(line)));
        }
        Self { node: node.to_owned(), child, log }
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Waits until a line of the log holds `text`; gives the line.
    ///
    /// # Errors
    /// When none does within `limit`, or the agent ends.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for_after(0, text, limit)
    }

    /// How many lines were logged so far.
    #[must_use]
    pub fn logged(&self) -> usize {
        let lines = self.log.lines();
        lines.first + lines.kept.len()
    }

    /// The first line that holds `text` and is none of the first `after`, if it was logged yet.
    #[must_use]
    pub fn said_after(&self, after: usize, text: &str) -> Option<String> {
        let lines = self.log.lines();
        let skip = after.saturating_sub(lines.first);
        lines.kept.iter().skip(skip).find(|line| line.contains(text)).cloned()
    }

    /// As [`Agent::wait_for`], leaving out the first `after` lines.
    ///
    /// # Errors
    /// As [`Agent::wait_for`].
    pub fn wait_for_after(&self, after: usize, text: &str, limit: Duration) -> Result<String> {
        self.find_after(after, limit, |line| line.contains(text))
            .with_context(|| format!("{text:?} was not logged"))?;
        self.said_after(after, text).context("the line was let go of meanwhile")
    }

    /// Waits for a line behind the first `after` ones; gives how many lines there are up to it.
    ///
    /// # Errors
    /// When none is logged within `limit`; the log is in the error.
    pub fn find_after(
        &self,
        after: usize,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lines();
        loop {
            let skip = after.saturating_sub(lines.first);
            if let Some(at) = lines.kept.iter().skip(skip).position(|line| wanted(line)) {
                return Ok(lines.first + skip + at + 1);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all: Vec<&str> = lines.kept.iter().map(String::as_str).collect();
                let all = all.join("\n");
                bail!("the agent of {} did not say so within {limit:?}:\n{all}", self.node);
            }
            let woken = self.log.changed.wait_timeout(lines, left);
            lines = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How much memory it holds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmRSS:")
    }

    /// One of the sizes that `/proc/PID/status` has, such as `VmHWM:`, the highest resident memory so far.
    ///
    /// # Errors
    /// When the agent has ended, or there is no such line.
    pub fn memory_bytes(&self, name: &str) -> Result<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&status).with_context(|| status.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let kib = kib.with_context(|| format!("no {name}"))?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// The number of its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("failed to send {signal} to the agent"))
    }

    /// Ends it as a kubelet does, and waits.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn terminate(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent of {} ended with {status}", self.node);
        Ok(())
    }

    /// Ends the tools that it keeps running, as an out-of-memory killer would, and waits for their end.
    ///
    /// # Errors
    /// When they cannot be found.
    pub fn kill_tools(&self) -> Result<()> {
        let process = format!("/proc/{}/task", self.child.id());
        for task in fs::read_dir(&process).with_context(|| process.clone())? {
            // A thread can end meanwhile.
            let Ok(children) = fs::read_to_string(task?.path().join("children")) else { continue };
            for child in children.split_whitespace() {
                match kill(Pid::from_raw(child.parse()?), Signal::SIGKILL) {
                    Ok(()) => wait_for_end(child)?,
                    Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error).context("failed to kill a tool"),
                }
            }
        }
        Ok(())
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself; its exit code, none when a signal ended it.
    ///
    /// # Errors
    /// When its state cannot be told.
    pub fn wait(mut self) -> Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When its state cannot be told.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    /// How many lines were let go.
    first: usize,
    kept: VecDeque<String>,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        lines.kept.push_back(line);
        if lines.kept.len() > LOG_LINES {
            lines.kept.pop_front();
            lines.first += 1;
        }
        self.changed.notify_all();
    }
}

/// Waits until a process that was killed has ended: its parent may not have noticed yet.
fn wait_for_end(process: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    // proc(5): the state follows the name, which is in parentheses.
    let is_running = || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while is_running() {
        ensure!(Instant::now() < deadline, "the tool {process} does not end");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
