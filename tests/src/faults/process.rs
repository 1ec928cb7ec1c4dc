//! Agents that are stopped, killed, or two; that lack file descriptors or disk; whose log nobody reads.

use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::row::Fault;
use super::stage::{Stage, lock};
use crate::cluster::{Agent, AgentSetup};
use crate::shop::PATIENCE;

/// All faults of processes.
pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::new(
            "the agent is stopped (SIGSTOP) in an apply",
            |stage| {
                stage.churn(0);
                stage.with_agent(|agent| agent.signal(Signal::SIGSTOP))
            },
            |stage| stage.with_agent(|agent| agent.signal(Signal::SIGCONT)),
        ),
        Fault::new("the agent is killed (SIGKILL)", Stage::kill, |stage| {
            stage.start(AgentSetup::default())
        }),
        Fault::new("the agent is killed in 20 applies", killed_in_applies, |stage| {
            stage.start(AgentSetup::default())
        }),
        Fault::new(
            "the agent is terminated (SIGTERM)",
            |stage| {
                stage.with_agent(|agent| agent.signal(Signal::SIGTERM))?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            },
            |stage| stage.start(AgentSetup::default()),
        ),
        Fault::new(
            "a second agent waits, the first is killed",
            |stage| {
                let flags = vec!["--health-address=127.0.0.1:7003".to_owned()];
                let waits = stage.spawn(AgentSetup { flags, ..AgentSetup::default() })?;
                waits.wait_for("waiting until it stops", PATIENCE)?;
                *lock(&stage.other) = Some(waits);
                stage.kill()
            },
            |stage| {
                lock(&stage.other).take().map_or(Ok(()), Agent::kill)?;
                stage.start(AgentSetup::default())
            },
        ),
        Fault::new("two agents without a common lock", rival, |stage| {
            lock(&stage.other).take().map_or(Ok(()), Agent::terminate)
        }),
        no_more_files(),
        disk("the state directory is full (ENOSPC)", "size=4k,nr_inodes=1"),
        disk("the state directory is read-only", "ro"),
        log("nobody reads standard error", Reader::Stalls),
        log("the reader of standard error is gone", Reader::Goes),
        log("standard error is read slowly (100 bytes/s)", Reader::IsSlow),
    ]
}

/// At another moment of an apply each time.
fn killed_in_applies(stage: &Stage) -> Result<()> {
    for turn in 0..20_u64 {
        stage.churn(turn);
        thread::sleep(Duration::from_millis(turn * 2));
        stage.kill()?;
        stage.start(AgentSetup::default())?;
        if turn % 4 == 3 {
            stage.wait_ready()?;
        } else {
            stage.with_agent(|agent| agent.wait_for("\"watching\"", PATIENCE))?;
            thread::sleep(Duration::from_millis(turn * 5));
        }
    }
    stage.kill()
}

fn rival(stage: &Stage) -> Result<()> {
    start_beside(stage, AgentSetup::default())
}

/// One more agent, which does not wait until the first one stops.
pub(super) fn start_beside(stage: &Stage, setup: AgentSetup) -> Result<()> {
    let lock_dir = Some(stage.tools.path().join("another-lock"));
    let flags = vec!["--health-address=127.0.0.1:7003".to_owned()];
    let rival = stage.spawn(AgentSetup { lock_dir, flags, ..setup })?;
    rival.wait_for("policies are enforced", PATIENCE)?;
    *lock(&stage.other) = Some(rival);
    Ok(())
}

/// The agent can open no more files, and start no tool.
fn no_more_files() -> Fault {
    let limit = |stage: &Stage, limit: &str| {
        let process = stage.with_agent(|agent| Ok(agent.process()))?.to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &process, &format!("--nofile={limit}:")])
            .status()
            .context("failed to run prlimit")?;
        ensure!(status.success(), "prlimit: {status}");
        Ok(())
    };
    Fault::new(
        "no file can be opened (EMFILE)",
        move |stage| {
            limit(stage, "4")?;
            stage.with_agent(Agent::kill_tools)
        },
        move |stage| limit(stage, "1024"),
    )
}

/// The agent starts with a directory for its state on such a file system.
fn disk(name: &'static str, options: &'static str) -> Fault {
    let mount: Arc<Mutex<Option<TempDir>>> = Arc::default();
    let mounted = Arc::clone(&mount);
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status()?;
        ensure!(status.success(), "{program} {arguments:?}: {status}");
        Ok(())
    };
    Fault::new(
        name,
        move |stage| {
            let directory = tempfile::tempdir()?;
            let path = directory.path().display().to_string();
            run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &path])?;
            let flags = vec![format!("--state-dir={path}/state")];
            *lock(&mount) = Some(directory);
            stage.restart(AgentSetup { flags, ..AgentSetup::default() })
        },
        move |_| {
            let Some(directory) = lock(&mounted).take() else { return Ok(()) };
            run("umount", &[&directory.path().display().to_string()])
        },
    )
}

/// What the reader of standard error does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Stalls,
    Goes,
    IsSlow,
}

/// The agent starts with a small pipe as standard error.
fn log(name: &'static str, reader: Reader) -> Fault {
    let kept: Arc<Mutex<Option<PipeReader>>> = Arc::default();
    let stalled = Arc::clone(&kept);
    Fault::new(
        name,
        move |stage| {
            let (mut output, mut writer) = pipe()?;
            let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))?;
            writer.write_all(&vec![b'\n'; usize::try_from(size)?])?;
            let stderr = Some(writer.into());
            stage.restart(AgentSetup { stderr, ..AgentSetup::default() })?;
            match reader {
                Reader::Stalls => *lock(&stalled) = Some(output),
                Reader::Goes => drop(output),
                Reader::IsSlow => drop(thread::spawn(move || {
                    let mut some = [0; 10];
                    while output.read(&mut some).is_ok_and(|count| count > 0) {
                        thread::sleep(Duration::from_millis(100));
                    }
                })),
            }
            Ok(())
        },
        move |_| {
            if let Some(mut output) = lock(&kept).take() {
                thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            }
            Ok(())
        },
    )
}
