//! Runs the tools of one variant of iptables, and ipset.

use std::collections::BTreeMap;
use std::time::Duration;

use policy_engine::cidr::Family;

use super::read::{parse_count, parse_counts, parse_hooks, parse_table};
use super::restore::Restore;
use super::script::{self, Step, render};
use super::sets::{own_names, parse_sets};
use super::variant::{Place, Variant};
use super::{isolate, members, process};
use crate::dataplane::applied::{Applied, AppliedSet, HookPlaces, Table};
use crate::dataplane::backend::Executed;
use crate::dataplane::backend::error::{Error, ParseError};
use crate::dataplane::denial::{Denial, Reading};
use crate::dataplane::name::SetName;
use crate::dataplane::plan::{HookChange, Plan, TableChange};
use crate::dataplane::rule::{Chains, Hook};

/// How long a tool may take beyond its wait for the lock.
const TOOL_LIMIT: Duration = Duration::from_mins(1);

/// The tools of one variant, for one of its tables.
#[derive(Debug)]
pub(in crate::dataplane) struct Kernel {
    pub place: Place,
    pub lock_wait_seconds: u32,
    /// The restore tools that are running.
    restores: BTreeMap<Family, Restore>,
    /// Whether the last `ipset` that changed sets did not end.
    ipset_has_hung: bool,
}

impl Kernel {
    /// The tools of `place`. No tool is started yet.
    pub(in crate::dataplane) fn new(place: Place, lock_wait_seconds: u32) -> Self {
        Self { place, lock_wait_seconds, restores: BTreeMap::new(), ipset_has_hung: false }
    }

    /// Reads our sets and no others: those of other software can have millions of members. `save`
    /// takes one name, so one `ipset` reads a line for each set.
    pub(in crate::dataplane) fn read_sets(&self) -> Result<BTreeMap<SetName, AppliedSet>, Error> {
        let names = own_names(&self.run("ipset", &["list", "-name"], "")?);
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let lines = names.iter().map(|name| ["save ", &name.to_string(), "\n"].concat());
        let script: String = lines.collect();
        Ok(parse_sets(&self.run("ipset", &["restore"], &script)?, &names)?)
    }

    pub(in crate::dataplane) fn read_table(
        &self,
        family: Family,
        desired: &Chains,
    ) -> Result<Table, Error> {
        let save = format!("{}-save", self.place.variant.command(family));
        let table = self.place.table;
        Ok(parse_table(&self.run(&save, &["-t", table.name()], "")?, table, desired)?)
    }

    /// The positions of those of `hooks` that are not only in the first place.
    pub(in crate::dataplane) fn displaced_hooks(
        &self,
        family: Family,
        hooks: &[Hook],
    ) -> Result<BTreeMap<Hook, HookPlaces>, Error> {
        let (command, table) = (self.place.variant.command(family), self.place.table.name());
        let mut found = match self.place.variant {
            // It always reads all rules, and unlike `-S` it needs no lock.
            Variant::Legacy => {
                let dump = self.run(&format!("{command}-save"), &["-t", table], "")?;
                if !dump.lines().any(|line| line == "COMMIT") {
                    return Err(ParseError::TableCutOff { lines: dump.lines().count() }.into());
                }
                parse_hooks(&dump)
            }
            Variant::Nft => {
                let list = |hook: &Hook| self.run(command, &["-t", table, "-S", hook.chain()], "");
                parse_hooks(&hooks.iter().map(list).collect::<Result<String, Error>>()?)
            }
        };
        let places = hooks.iter().map(|hook| (*hook, found.remove(hook).unwrap_or_default()));
        Ok(places.filter(|(_, places)| *places != HookPlaces::first()).collect())
    }

    /// Moves hooks from these positions to the first place.
    pub(in crate::dataplane) fn restore_hooks(
        &mut self,
        family: Family,
        hooks: &BTreeMap<Hook, HookPlaces>,
    ) -> Result<(), Error> {
        let change = |places: &HookPlaces| HookChange { remove: places.count, insert: true };
        let hooks = hooks.iter().map(|(hook, places)| (*hook, change(places))).collect();
        let change = TableChange { hooks, ..TableChange::default() };
        self.restore(family, &script::table(&change, self.place.table))
    }

    /// Ends the tools that are running. The next change starts new ones.
    pub(in crate::dataplane) fn end_tools(&mut self) {
        self.restores.clear();
    }

    /// Whether a netlink port belongs to a running tool of this process.
    pub(in crate::dataplane) fn is_own(&self, port: u32) -> bool {
        self.restores.values().any(|restore| restore.id() == port)
    }

    /// Reads the counters of the chains of denials.
    ///
    /// iptables-nft lists one rule without reading the others (5 ms; all of 1,800 rules take it
    /// 50 ms), iptables-legacy reads all of them for one (10 ms, and as much for all).
    pub(in crate::dataplane) fn read_denials(
        &self,
        families: &[Family],
        applied: Option<&Applied>,
    ) -> Result<Reading, Error> {
        let Place { variant, table: name } = self.place;
        let name = name.name();
        let mut reading = Reading::new();
        for family in families {
            let command = variant.command(*family);
            let table = applied.and_then(|applied| applied.tables.get(family));
            let counts = match (variant, table) {
                (Variant::Nft, Some(table)) => {
                    let is_there = |kind: &Denial| table.has_rules(kind.chain());
                    let list = |kind: Denial| {
                        let chain = kind.chain().to_string();
                        let rule = self.run(command, &["-t", name, "-nvxL", &chain, "1"], "")?;
                        Ok((kind, parse_count(&rule)?))
                    };
                    Denial::all().filter(is_there).map(list).collect::<Result<_, Error>>()?
                }
                (Variant::Legacy, _) | (_, None) => {
                    let save = format!("{command}-save");
                    parse_counts(&self.run(&save, &["-c", "-t", name], "")?)?
                }
            };
            reading.extend(counts.into_iter().map(|(kind, counts)| ((*family, kind), counts)));
        }
        Ok(reading)
    }

    /// Whether the removal of rules delays the next change. iptables-legacy replaces whole tables
    /// in any case.
    pub(in crate::dataplane) fn removes_slowly(&self) -> bool {
        self.place.variant == Variant::Nft
    }

    /// Executes `plan`. If a part of a stage fails, the stages after it are not executed.
    pub(in crate::dataplane) fn execute(&mut self, plan: &Plan) -> Executed {
        let mut done = Executed::default();
        for stage in render(plan, self.place.table) {
            if !done.is_clean() {
                return done;
            }
            done.stages += 1;
            for step in stage {
                tracing::debug!(%step, "step");
                self.step(&step, &mut done);
            }
        }
        done
    }

    fn step(&mut self, step: &Step, done: &mut Executed) {
        match step {
            Step::Sets(scripts) => {
                done.refused.extend(isolate::run(scripts, &mut self.ipset_has_hung));
            }
            Step::Members { set, change, addresses } => {
                if let Err(error) = members::change(*set, *change, addresses) {
                    done.refused.insert(*set, error.to_string().into());
                }
            }
            Step::Table(family, script) => {
                if let Err(error) = self.restore(*family, script) {
                    done.failed.insert(*family, error);
                }
            }
            Step::Destroy(sets) => {
                done.in_use.extend(sets.iter().filter(|set| !members::destroy(**set)));
            }
            // If the set is in use, the new set that needs its name is refused.
            Step::Clear(set) => drop(members::destroy(*set)),
        }
    }

    /// Destroys a set that was refused, if it exists. Returns false if the set is in use.
    pub(in crate::dataplane) fn discard(set: SetName) -> bool {
        members::destroy(set)
    }

    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        // Taken out, so that a tool that failed is not used again.
        let running = self.restores.remove(&family).and_then(Restore::usable);
        let start = || {
            let program = format!("{}-restore", self.place.variant.command(family));
            Restore::start(&program, &["--noflush", "-w", &self.lock_wait_seconds.to_string()])
        };
        let mut restore = running.map_or_else(start, Ok)?;
        restore.run(script, self.limit())?;
        self.restores.insert(family, restore);
        Ok(())
    }

    pub(in crate::dataplane) fn run(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, Error> {
        process::run(program, arguments, input, self.limit())
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.lock_wait_seconds.into()) + TOOL_LIMIT
    }
}
