//! The only place that changes the kernel: spawns the tools, and changes sets over netlink.

mod links;
mod members;
mod nft_tables;
pub(super) mod probe;
mod process;
mod restore;
pub(super) mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::time::Duration;

use policy_engine::cidr::Family;

use self::restore::Restore;
use super::applied::{Applied, ParseError, Table, parse_sets};
use super::denial::{Denial, Reading, parse_list, parse_save};
use super::render::Step;
use super::variant::Variant;

/// How long a tool may take beyond its wait for the lock.
const TOOL_LIMIT: Duration = Duration::from_mins(1);

/// A tool or the kernel did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tool is not there, or cannot be started.
    #[error("failed to start `{command}`; install iptables and ipset")]
    Start {
        /// What was run.
        command: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
    /// The tool said no.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The tool did not end.
    #[error(
        "`{command}` did not end within {seconds} s and was killed; who holds the xtables lock?"
    )]
    TimedOut {
        /// What was run.
        command: String,
        /// How long it had.
        seconds: u64,
    },
    /// The kernel refused a member.
    #[error("failed to change {address} in set {set}: {message}")]
    Member {
        /// The set.
        set: String,
        /// The member.
        address: IpAddr,
        /// What libipset said.
        message: String,
    },
    /// What was read back makes no sense.
    #[error("failed to read back what is applied")]
    ReadBack(#[from] ParseError),
    /// Pods have addresses of a family that cannot be enforced.
    #[error("{count} IPv6 addresses of pods are not enforced: {command} is not there; install it")]
    Unenforced {
        /// How many addresses.
        count: usize,
        /// What is missing.
        command: &'static str,
    },
    /// Neither variant of iptables is installed.
    #[error("found no iptables; install it (iptables-nft or iptables-legacy)")]
    NoIptables,
}

/// The tools of one variant.
#[derive(Debug)]
pub(super) struct Kernel {
    pub variant: Variant,
    pub lock_wait_seconds: u32,
    /// Those that are running.
    restores: BTreeMap<Family, Restore>,
}

impl Kernel {
    /// Starts nothing yet.
    pub(super) fn new(variant: Variant, lock_wait_seconds: u32) -> Self {
        Self { variant, lock_wait_seconds, restores: BTreeMap::new() }
    }

    /// Reads what is applied of ours.
    pub(super) fn read(&self, families: &[Family]) -> Result<Applied, Error> {
        let mut tables = BTreeMap::new();
        for family in families {
            tables.insert(*family, self.read_table(*family)?);
        }
        let names = self.run("ipset", &["list", "-name"], "")?;
        let sets = parse_sets(&self.run("ipset", &["save"], "")?, &names)?;
        Ok(Applied { tables, sets })
    }

    pub(super) fn read_table(&self, family: Family) -> Result<Table, Error> {
        let save = format!("{}-save", self.variant.command(family));
        Ok(Table::parse(&self.run(&save, &["-t", "filter"], "")?)?)
    }

    /// Reads the counters of the chains of denials.
    ///
    /// iptables-nft lists one rule without reading the others (5 ms; all of 1,800 rules take it
    /// 50 ms), iptables-legacy reads all of them for one (10 ms, and as much for all).
    pub(super) fn read_denials(
        &self,
        families: &[Family],
        applied: Option<&Applied>,
    ) -> Result<Reading, Error> {
        let mut reading = Reading::new();
        for family in families {
            let command = self.variant.command(*family);
            let table = applied.and_then(|applied| applied.tables.get(family));
            let counts = match (self.variant, table) {
                (Variant::Nft, Some(table)) => {
                    let is_there = |kind: &Denial| table.chains.contains_key(&kind.chain());
                    let list = |kind: Denial| {
                        let rule = self.run(command, &["-nvxL", &kind.chain(), "1"], "")?;
                        Ok((kind, parse_list(&rule)?))
                    };
                    Denial::all().filter(is_there).map(list).collect::<Result<_, Error>>()?
                }
                (Variant::Legacy, _) | (_, None) => {
                    let save = format!("{command}-save");
                    parse_save(&self.run(&save, &["-c", "-t", "filter"], "")?)?
                }
            };
            reading.extend(counts.into_iter().map(|(kind, counts)| ((*family, kind), counts)));
        }
        Ok(reading)
    }

    /// Does one step. Gives the sets that could not go because they are in use.
    pub(super) fn step(&mut self, step: &Step) -> Result<BTreeSet<String>, Error> {
        match step {
            Step::Sets(script) => {
                self.run("ipset", &["-exist", "restore"], script)?;
            }
            Step::Members { set, change, addresses } => members::change(set, *change, addresses)?,
            Step::Table(family, script) => self.restore(*family, script)?,
            Step::Destroy(sets) => {
                let stays = |set: &&String| !members::destroy(set);
                return Ok(sets.iter().filter(stays).cloned().collect());
            }
            Step::Clear(set) => {
                self.run("ipset", &["destroy", set], "")?;
            }
        }
        Ok(BTreeSet::new())
    }

    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        // Taken out: one that failed is not used again.
        let running = self.restores.remove(&family).filter(|running| !running.is_worn_out());
        let start = || {
            let program = format!("{}-restore", self.variant.command(family));
            Restore::start(&program, &["--noflush", "-w", &self.lock_wait_seconds.to_string()])
        };
        let mut restore = running.map_or_else(start, Ok)?;
        restore.run(script, self.limit())?;
        self.restores.insert(family, restore);
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
        process::run(program, arguments, input, self.limit())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.lock_wait_seconds.into()) + TOOL_LIMIT
    }
}
