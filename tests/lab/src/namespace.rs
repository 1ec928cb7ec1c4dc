//! A network namespace and the ways into it. What is inside is configured elsewhere.
//!
//! A thread enters a namespace with `setns`; sockets that it creates and processes that it spawns
//! belong there for good, whichever thread uses them afterwards. So nothing here needs a helper
//! process, and entering costs one short-lived thread.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps named namespaces.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, as `ip netns` lists it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Opens a namespace that exists.
    pub(super) fn open(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let handle = File::open(Path::new(DIRECTORY).join(&name))
            .with_context(|| format!("failed to open network namespace {name}"))?;
        Ok(Self { name, handle })
    }

    /// Opens the network namespace of a running process, by its number in this process's view.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let name = format!("/proc/{pid}/ns/net");
        let handle = File::open(&name)
            .with_context(|| format!("failed to open network namespace {name}"))?;
        Ok(Self { name, handle })
    }

    /// A second handle of the same namespace, for what may outlive this one.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn try_clone(&self) -> Result<Self> {
        let handle = self.handle.try_clone();
        let handle = handle.with_context(|| format!("failed to share namespace {}", self.name))?;
        Ok(Self { name: self.name.clone(), handle })
    }

    /// The name that `ip netns exec` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `task` on a thread of its own that is inside the namespace, and waits for it.
    ///
    /// `/proc/sys/net` and new sockets are those of the namespace; `/sys` is not.
    ///
    /// # Errors
    /// When the thread cannot start or enter, or when `task` panics.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = thread::Builder::new().name("lab-inside".into()).spawn_scoped(
                scope,
                move || -> Result<T> {
                    setns(&self.handle, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("failed to enter namespace {}", self.name))?;
                    Ok(task())
                },
            );
            match inside.context("failed to start a thread")?.join() {
                Ok(result) => result,
                Err(_) => bail!("a task inside namespace {} panicked", self.name),
            }
        })
    }

    /// A command that will run inside the namespace, wherever it is spawned from.
    ///
    /// It is `nsenter`, which replaces itself with `program`: the child's pid and signals are those
    /// of `program`. Where the caller needs no [`Command`] of its own, [`Namespace::spawn`] saves
    /// one `exec`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Spawns `command` inside the namespace. The child is killed when the lab ends.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot start.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?
            .with_context(|| format!("failed to start {program} in namespace {}", self.name))
    }

    /// Runs `command` inside the namespace to its end and collects what it printed.
    ///
    /// # Errors
    /// When the program cannot start; a failure of the program itself is in [`Output::status`].
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output())?
            .with_context(|| format!("failed to run {program} in namespace {}", self.name))
    }

    /// Runs `script` with `sh -e` inside the namespace; its standard output.
    ///
    /// # Errors
    /// When the script fails: with its exit status and what it said on standard error.
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = self.output(Command::new("sh").args(["-ec", script]))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{script}` in {}: {}: {}", self.name, output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes sysctls, given as paths below `/proc/sys/net` and values.
    pub(super) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("failed to set sysctl net/{key}={value}"))
            })
        })?
        .with_context(|| format!("in namespace {}", self.name))
    }
}
