//! The programs of the binary `portcullis`: the node agent, and what looks after its node.
//!
//! `node` is the agent, `cluster` the controller. Both take objects from `watch`, answer probes by
//! `serve` and write what happens to `log`. `inspect` has the programs that ask a running agent, and
//! `status` the one that reads the reports of all nodes. The agent's rules go to the kernel by
//! `dataplane`, which never sees an API object.

pub mod args;
pub mod cluster;
pub mod dataplane;
pub mod inspect;
pub mod log;
pub mod node;
pub mod serve;
pub mod status;
pub mod watch;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;

use self::args::{CleanupArgs, Cli, Command, Inspected, PreflightArgs};
use self::dataplane::CleanupReport;
use self::dataplane::preflight::{Finding, Severity};
use self::log::Log;

/// Does what the command line asks. The exit code is 0, 1 when a check found a fault, or 2 when
/// the program could not do its work.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let log = match Log::start(cli) {
        Ok(log) => log,
        Err(failure) => {
            // Also if nobody reads it: the exit code remains.
            let _ = writeln!(io::stderr(), "{failure:#}");
            return ExitCode::from(2);
        }
    };
    let result = match &cli.command {
        Command::Node(args) => node::run(args, &log.lost()),
        Command::Controller(args) => cluster::run(args, &log.lost()),
        Command::Cleanup(args) => cleanup(args),
        Command::Preflight(args) => Ok(preflight(args)),
        Command::Inspect(args) => match &args.what {
            Inspected::Pod(args) => inspect::pod(args),
        },
        Command::Trace(args) => inspect::trace(args),
        Command::Verify(args) => inspect::verify(args),
        Command::Status(args) => status::run(args),
    };
    result.unwrap_or_else(|failure| {
        error!("{failure:#}");
        ExitCode::from(2)
    })
}

fn cleanup(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let report = dataplane::cleanup(&args.kernel.dataplane_options())
        .context("failed to remove all of it; run it again once the cause is mended")?;
    let CleanupReport { chains_deleted, sets_destroyed, kept } = report;
    println!("removed {chains_deleted} chains and {sets_destroyed} sets");
    let holder = node::lock::holder(&args.lock_dir);
    if let Some(holder) = &holder {
        println!(
            "an agent runs on this node ({holder}), and puts its rules back with its next comparison: \
             end it first (`kubectl delete daemonset -n portcullis-system portcullis-node`), and run \
             this again"
        );
    }
    if !kept.is_empty() {
        println!("kept, for rules that are not ours use them: {}", kept.join(", "));
    }
    let is_clean = holder.is_none() && kept.is_empty();
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn preflight(args: &PreflightArgs) -> ExitCode {
    let options = args.kernel.dataplane_options();
    let mut findings = dataplane::preflight(&options);
    let mut examiner = dataplane::examiner(&options, &args.conflicts.ignore_conflicts);
    findings.extend(examiner.examine(&[]).findings());
    findings.iter().for_each(|finding| println!("{}: {finding}", finding.severity));
    let failed = |finding: &Finding| finding.severity == Severity::Error;
    if !args.no_fail && findings.iter().any(failed) { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// Resolves when the process is asked to end.
fn shutdown() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
