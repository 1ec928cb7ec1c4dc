//! Names of a lab's namespaces, and their removal: at the end of a lab, and after dead processes.
//!
//! ```text
//! pcl-<pid>-<start time of pid>-<counter>-<what>     pcl-4711-90312-0-node.n1
//! ```
//!
//! The start time (clock ticks since boot, `/proc/PID/stat` field 22) tells a living owner from
//! another process that got its pid later.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::DIRECTORY;
use super::process;

const PREFIX: &str = "pcl-";

/// Owns every namespace whose name starts with its prefix: they are gone when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    prefix: String,
    heir: Option<(Child, ChildStdin)>,
}

/// What the heir does when its standard input ends: this process is gone, or done.
const INHERIT: &str = r#"
read -r _
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] || continue
    ip netns pids "${path##*/}" | xargs -r kill -9
    ip netns del "${path##*/}"
done
"#;

impl Claim {
    /// A prefix that no other lab has, in this process or another.
    pub(super) fn new() -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let start = start_time(pid).context("failed to read the start time of this process")?;
        let lab = LABS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { prefix: format!("{PREFIX}{pid}-{start}-{lab}"), heir: None })
    }

    /// From here on the namespaces go also when this process is killed, by Ctrl-C or `kill -9`.
    ///
    /// A small shell waits for the end of a pipe. It is in a process group of its own, so a
    /// terminal's Ctrl-C does not reach it.
    pub(super) fn bequeath(&mut self) -> Result<()> {
        let mut heir = Command::new("sh")
            .args(["-c", INHERIT, "lab-heir", &self.prefix])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the shell that cleans up after this process")?;
        self.heir = heir.stdin.take().map(|pipe| (heir, pipe));
        Ok(())
    }

    /// The prefix, without the dash that follows it.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full name of one namespace of the lab.
    pub(super) fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.prefix)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next sweep tries again.
        let _ = sweep(&self.prefix);
        if let Some((mut heir, pipe)) = self.heir.take() {
            drop(pipe);
            let _ = heir.wait();
        }
    }
}

/// Removes every namespace named `prefix-…` and kills the processes inside; how many there were.
///
/// Only for prefixes that a lab made ([`Lab::prefix`](super::Lab::prefix)).
///
/// # Errors
/// When namespaces cannot be listed. One that cannot be removed is left out of the count.
pub fn sweep(prefix: &str) -> Result<usize> {
    let prefix = format!("{prefix}-");
    let doomed: Vec<String> = names()?.into_iter().filter(|n| n.starts_with(&prefix)).collect();
    remove(&doomed)
}

/// Removes what labs of dead processes left behind; how many namespaces there were.
///
/// Every new lab does this first.
///
/// # Errors
/// When namespaces cannot be listed.
pub fn sweep_stale() -> Result<usize> {
    let doomed: Vec<String> = names()?.into_iter().filter(|name| is_stale(name)).collect();
    remove(&doomed)
}

/// True for the prefix or a namespace of a lab whose owner no longer runs; false for names of other
/// shapes.
#[must_use]
pub fn is_stale(name: &str) -> bool {
    let mut fields = name.strip_prefix(PREFIX).unwrap_or_default().splitn(4, '-');
    let mut number = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let (Some(pid), Some(start), Some(_lab)) = (number(), number(), number()) else {
        return false;
    };
    let running = u32::try_from(pid).ok().and_then(start_time);
    running != Some(start)
}

fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("failed to list network namespaces"),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn remove(names: &[String]) -> Result<usize> {
    if names.is_empty() {
        return Ok(0);
    }
    // While they are open no other namespace can get their identity.
    let open: Vec<File> =
        names.iter().filter_map(|name| File::open(Path::new(DIRECTORY).join(name)).ok()).collect();
    let inside: BTreeSet<Identity> =
        open.iter().filter_map(|file| file.metadata().ok()).map(|meta| identity(&meta)).collect();
    kill_inside(&inside);
    process::delete_namespaces(names)?;
    // An `nsenter` that was just started had the name but was not inside yet.
    kill_inside(&inside);
    Ok(names.iter().filter(|name| !Path::new(DIRECTORY).join(name).exists()).count())
}

/// Device and inode: what `/proc/PID/ns/net` and a name's file have in common.
type Identity = (u64, u64);

fn identity(meta: &Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

/// Kills the processes that run in the namespaces: agents that a panicking test did not reap.
fn kill_inside(namespaces: &BTreeSet<Identity>) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(meta) = fs::metadata(process.path().join("ns/net")) else { continue };
        if Pid::from_raw(pid) != Pid::this() && namespaces.contains(&identity(&meta)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_dead_owners_are_stale() {
        let pid = std::process::id();
        let start = start_time(pid).expect("this process runs");
        let check = |name: String, expected: bool| assert_eq!(is_stale(&name), expected, "{name}");
        check(format!("pcl-{pid}-{start}-0-fabric"), false);
        check(format!("pcl-{pid}-{}-0-fabric", start + 1), true);
        check("pcl-4194304-1-0-node.n1".into(), true);
        check("pcl-demo-1-0-fabric".into(), false);
        check("cni-4194304-1-0-fabric".into(), false);
        check("pcl-4194304".into(), false);
    }
}
