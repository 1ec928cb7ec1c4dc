//! The subcommands: each reads its sources, asks, and writes one answer.
//!
//! A new one gets a file here, a variant in [`crate::args::Command`], and its output in
//! [`crate::output`]. `plan` compares two [`Cluster`]s, of [`Sources::before`] and
//! [`Sources::after`]; `test` and `lint` ask one.

mod agents;
mod check;
mod completion;
mod denials;
mod exposure;
mod lint;
mod list;
mod plan;
mod policies;
mod schema;
mod snapshot;
mod status;
mod suggest;
mod test;
mod ui;

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::{Result, bail};
use policy_engine::model::PodKey;

use crate::args::{Args, Command, SourceArgs};
use crate::endpoint::{Endpoint, EndpointError, Resolved, Side, Unread, resolve};
use crate::gap::Gap;
use crate::model::Cluster;
use crate::output::{self, json};
use crate::source::{self, Sources};
use crate::{MIXED, YES};

/// Answers one command line; the value is the exit code.
///
/// # Errors
/// When the question cannot be answered.
pub fn run(args: Args, out: &mut dyn Write) -> Result<u8> {
    match args.command {
        Command::Check(args) => check::run(&args, out),
        Command::Who(args) => list::who(&args, out),
        Command::Reach(args) => list::reach(&args, out),
        Command::Map(args) => list::map(&args, out),
        Command::Lint(args) => lint::run(&args, out),
        Command::Snapshot(args) => snapshot::run(&args, out),
        Command::Test(args) => test::run(&args, out),
        Command::Policies(args) => policies::run(&args, out),
        Command::Exposure(args) => exposure::run(&args, out),
        Command::Plan(args) => plan::run(&args, out),
        Command::Denials(args) => denials::run(&args, out),
        Command::Status(args) => status::run(&args, out),
        Command::Ui(args) => ui::run(args, out),
        Command::Inspect(args) => agents::inspect(&args, out),
        Command::Trace(args) => agents::trace(&args, out),
        Command::Verify(args) => agents::verify(&args, out),
        Command::Suggest(args) => suggest::run(&args, out),
        Command::Schema { kind } => schema::run(kind, out),
        Command::Completion { shell } => completion::script(shell, out),
        Command::CompleteForKubectl { words } => completion::words(&words, out),
    }
}

/// How many parts of files that could not be read an error lists.
const UNREAD_SHOWN: usize = 3;

/// The sources of a question, and the cluster of their objects.
struct Question {
    sources: Sources,
    cluster: Cluster,
}

impl Question {
    /// Reads the sources, with the hypothesis.
    fn read(args: &SourceArgs) -> Result<Self> {
        Ok(Self::of(source::read(args)?, args))
    }

    /// The question about sources that were read.
    fn of(sources: Sources, args: &SourceArgs) -> Self {
        let mut cluster = Cluster::new(&sources.after, args.options());
        cluster.notes.extend(sources.notes.iter().cloned());
        Self { sources, cluster }
    }

    /// Finds what a user named.
    fn resolve(&self, text: &str) -> Result<Resolved> {
        self.find(&text.parse()?)
    }

    /// Finds an endpoint.
    fn find(&self, endpoint: &Endpoint) -> Result<Resolved> {
        let found = resolve(&self.cluster, endpoint, &self.sources.namespace);
        let unread = self.sources.unread.iter().take(UNREAD_SHOWN).map(ToString::to_string);
        let gaps: Vec<String> =
            self.sources.after.hidden.iter().map(Gap::to_string).chain(unread).collect();
        found.map_err(|missing| match &missing {
            EndpointError::Missing { .. } if !gaps.is_empty() => {
                Unread { missing, gaps: gaps.join("; ") }.into()
            }
            _ => missing.into(),
        })
    }

    /// The pods that were named and to which policies apply, with notes: the last one counts those
    /// to which none apply.
    fn pods_with_policies(&self, resolved: &Resolved) -> Result<(BTreeSet<PodKey>, Vec<String>)> {
        let (mut pods, mut others) = (BTreeSet::new(), 0);
        for party in &resolved.parties {
            let Side::Pod(key, _) = &party.side else {
                bail!("{} is no pod: policies apply to pods only", party.name);
            };
            if self.cluster.world.pods().get(key).is_some_and(|pod| pod.takes_part()) {
                pods.insert(key.clone());
            } else {
                others += 1;
            }
        }
        let mut notes = resolved.notes.clone();
        if others > 0 {
            notes.push(format!(
                "policies do not apply to {others} pods of {}: they use the network of their node, or \
                 have finished",
                resolved.name
            ));
        }
        Ok((pods, notes))
    }

    /// The exit code of an answer about the whole cluster, which may have been read only in part.
    fn code(&self, code: u8) -> u8 {
        if code == YES && (self.has_gaps() || !self.sources.unread.is_empty()) {
            MIXED
        } else {
            code
        }
    }

    /// Whether objects that could not be listed or understood may change answers.
    fn has_gaps(&self) -> bool {
        self.cluster.gaps.iter().any(Gap::decides)
    }

    /// All notes and warnings, for outputs that programs read.
    fn diagnostics(&self, notes: &[String]) -> Vec<String> {
        let mut all = json::diagnostics(&self.sources.diagnostics, &self.cluster.notes);
        all.extend(json::diagnostics(&[], notes));
        all
    }

    /// Writes notes and warnings to standard error.
    fn write_notes(&self, notes: &[String]) -> Result<()> {
        let mut error = io::stderr().lock();
        let all: Vec<String> = self.cluster.notes.iter().chain(notes).cloned().collect();
        Ok(output::write_notes(&self.sources.diagnostics, &all, &mut error)?)
    }
}
