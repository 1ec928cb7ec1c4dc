//! The log of an agent that nobody reads, or whose reader is gone: policies are enforced all the same.

use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};

use crate::probes::{METRICS, ask, flags, value, wait_for};
use crate::shop::{WEB, allow, check, lab, shop};

/// The smallest pipe that the kernel gives.
const PIPE_BYTES: usize = 4096;

/// An agent of n2, and the other end of the pipe that it logs to. The pipe is full.
fn start(cluster: &Cluster) -> Result<(Agent, PipeReader)> {
    let (reader, mut writer) = pipe()?;
    let size = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE_BYTES)?))?;
    writer.write_all(&vec![b'\n'; usize::try_from(size)?])?;
    let (stderr, flags) = (Some(writer.into()), flags(&[]));
    let setup = AgentSetup { stderr, flags, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    wait_for(cluster, "/readyz", 200)?;
    Ok((agent, reader))
}

fn change(cluster: &Cluster, when: &str) -> Result<()> {
    let (web, stranger) = (("web", "api", WEB), ("stranger", "api", WEB));
    cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
    check(&cluster.lab, when, &[stranger], &[web])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    check(&cluster.lab, when, &[web], &[stranger])
}

#[test]
fn policies_are_enforced_while_nobody_reads_stderr() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let (agent, mut reader) = start(&cluster)?;
    change(&cluster, "nobody reads")?;

    // What was logged meanwhile is not lost: there is room for much more.
    let mut log = vec![0; PIPE_BYTES];
    reader.read_exact(&mut log)?;
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).map(|_| log)
    });
    agent.terminate()?;
    let log = reading.join().ok().context("the reader panicked")??;
    let first = log.lines().next().unwrap_or_default();
    for part in ["\"starting the agent\"", concat!("\"", env!("CARGO_PKG_VERSION"))] {
        ensure!(first.contains(part), "{part} is not in the first line: {first}");
    }
    for line in ["\"watching\"", "policies are enforced", "stopping"] {
        ensure!(log.contains(line), "{line} is not in\n{log}");
    }
    Ok(())
}

#[test]
fn an_agent_goes_on_and_counts_lost_lines_when_the_reader_of_stderr_is_gone() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let (agent, reader) = start(&cluster)?;
    drop(reader);
    change(&cluster, "the reader is gone")?;
    wait_for(&cluster, "/readyz", 200)?;
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    ensure!(value(&metrics, "portcullis_log_lines_lost_total")? >= 1.0, "{metrics}");
    agent.terminate()
}

#[test]
fn an_agent_ends_while_nobody_reads_stderr() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let (agent, _reader) = start(&cluster)?;
    agent.terminate()
}
