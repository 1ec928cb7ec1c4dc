//! The clock of the agent steps, and the conntrack table of its node is full.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::row::{Exception, Fault};
use super::stage::Stage;
use crate::cluster::AgentSetup;
use crate::shop::PATIENCE;

/// What stands before the time in a line of the log.
const TIME: &str = "\"timestamp\":\"";
/// The table is full for less than this time: writing and removing its entries takes some seconds.
const TABLE_FULL: Duration = Duration::from_secs(40);

/// As many entries as the kernel keeps, which it does not evict because both sides have sent something. The
/// limit is one for all network namespaces; each has a table of its own.
const FILL: &str = "max=$(sysctl -n net.netfilter.nf_conntrack_max)
seq 0 $max | awk '{
    source = \"100.\" 64 + int($1 / 16777216) \".\" int($1 / 65536) % 256 \".\" int($1 / 256) % 256
    port = 1 + $1 % 256
    print \"-A -t 600 -u SEEN_REPLY,ASSURED -p udp -s \" source \" -d 100.127.0.1\" \\
        \" -r 100.127.0.1 -q \" source \" --sport \" port \" --dport 9\" \\
        \" --reply-port-src 9 --reply-port-dst \" port
}' > FILE
conntrack -R FILE > /dev/null 2>&1 || true
[ $(conntrack -C) -ge $max ]";

/// All faults of the machine.
pub(super) fn faults() -> Vec<Fault> {
    vec![
        clock("the clock steps ten years ahead, and back", "+3650d"),
        clock("the clock steps ten years back, and ahead", "-3650d"),
        Fault::new(
            "the conntrack table is full",
            |stage| {
                let entries = stage.tools.path().join("entries");
                let fill = FILL.replace("FILE", &entries.display().to_string());
                stage.lab().node("n2")?.shell(&fill).map(drop)
            },
            |stage| {
                let remove = "conntrack -D -d 100.127.0.1 > /dev/null 2>&1";
                stage.lab().node("n2")?.shell(remove).map(drop)
            },
        )
        // The kernel drops the packets that begin a connection, whatever rules allow.
        .except(Exception::ClosedFor(TABLE_FULL)),
    ]
}

/// The agent and its tools start with a wall clock that can be changed for them alone.
fn clock(name: &'static str, step: &'static str) -> Fault {
    Fault::new(
        name,
        move |stage| {
            let offset = offset(stage);
            fs::write(&offset, "+0")?;
            let environment = [
                ("LD_PRELOAD", library()?.display().to_string()),
                ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                ("NO_FAKE_STAT", "1".to_owned()),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
            stage.restart(AgentSetup { environment, ..AgentSetup::default() })?;
            stage.with_agent(|agent| {
                let line = agent.wait_for(TIME, PATIENCE)?;
                let (before, logged) = (year(&line), agent.logged());
                fs::write(&offset, step)?;
                stage.churn(0);
                let has_stepped = |line: &str| year(line).is_some_and(|now| Some(now) != before);
                agent.find_after(logged, PATIENCE, has_stepped).map(drop)
            })
        },
        |stage| Ok(fs::write(offset(stage), "+0")?),
    )
}

/// The year in which the agent wrote a line of its log.
fn year(line: &str) -> Option<&str> {
    line.split_once(TIME)?.1.get(..4)
}

/// The file with what the clock is changed by.
fn offset(stage: &Stage) -> PathBuf {
    stage.tools.path().join("clock")
}

/// The library of Debian's `libfaketime`.
fn library() -> Result<PathBuf> {
    let places = fs::read_dir("/usr/lib")?.filter_map(Result::ok).map(|place| place.path());
    let mut libraries = places.map(|place| place.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|file| file.is_file()).context("libfaketime is not installed")
}
