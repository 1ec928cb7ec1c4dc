//! From a [`Compiled`] to the kernel: desired → diff → render → apply → read back.
//!
//! | file | what lives there |
//! |---|---|
//! | [`options`], [`name`] | what a user chooses; names, and what is ours |
//! | [`desired`], `tree`, `ruleset`, `rule`, [`set`] | chains and sets as they ought to be |
//! | [`applied`] | chains and sets as they are, parsed |
//! | [`plan`], [`render`] | the difference, and its text |
//! | [`apply`] | the only place that touches the kernel |
//!
//! Invariants: nothing of other software is read as ours, rewritten or reordered; a set is
//! complete before a chain refers to it; elements leave before chains change and join after.

pub mod applied;
pub mod apply;
pub mod desired;
pub mod name;
pub mod options;
pub mod plan;
pub mod render;
mod rule;
mod ruleset;
pub mod set;
mod tree;

use std::time::{Duration, Instant};

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};

use self::applied::Applied;
use self::apply::{Error, Kernel, Variant};
use self::desired::Desired;
pub use self::options::{AcceptAction, DenyAction, IptablesVariant, Options};
use self::plan::{MovedHooks, Plan, Terms};
use self::render::{Step, render};

/// Keeps the kernel as the engine wants it.
pub struct Dataplane {
    options: Options,
    kernel: Kernel,
    families: Vec<Family>,
    /// What the last apply left in the kernel; none when that is not known.
    applied: Option<Applied>,
}

/// What an apply did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ApplyReport {
    /// Chains written or deleted, both families.
    pub chains_changed: usize,
    /// Sets created or replaced.
    pub sets_created: usize,
    /// Members that joined or left existing sets.
    pub members_changed: usize,
    /// Sets that nothing of ours uses and that cannot go yet. Each apply tries again.
    pub sets_in_use: usize,
    /// How long it took to read back what is applied; zero when it was known.
    pub read_back: Duration,
    /// How long all of it took.
    pub total: Duration,
}

impl Dataplane {
    /// Finds the tools. Changes nothing.
    ///
    /// # Errors
    /// When no iptables is installed.
    pub fn open(options: Options) -> Result<Self, Error> {
        let variant = match options.variant {
            IptablesVariant::Legacy => Variant::Legacy,
            IptablesVariant::Nft | IptablesVariant::Auto => Variant::Nft,
        };
        let kernel = Kernel { variant, lock_wait_seconds: options.lock_wait_seconds };
        Ok(Self { options, kernel, families: Family::BOTH.to_vec(), applied: None })
    }

    /// Makes the kernel enforce `compiled`; `update` is what changed since the last call.
    ///
    /// The first call, and each one after a failure, reads back what is applied and changes only
    /// what differs; `update` is of no matter then.
    ///
    /// # Errors
    /// When any step fails. Nothing is taken as done then.
    pub fn apply(&mut self, compiled: &Compiled, update: &Update) -> Result<ApplyReport, Error> {
        let start = Instant::now();
        // Taken: whatever fails from here on, the next call reads back.
        let (applied, read_back) = match self.applied.take() {
            Some(applied) => (applied, Duration::ZERO),
            None => (self.kernel.read(&self.families)?, start.elapsed()),
        };
        let terms = Terms {
            update,
            initial_maxelem: self.options.initial_maxelem,
            moved_hooks: MovedHooks::Repair,
        };
        let desired = Desired::new(compiled, &self.options, &self.families);
        let (plan, mut after) = plan::diff(&applied, desired, &terms);
        let sets_in_use = self.execute(&plan, &mut after)?;
        self.applied = Some(after);
        let total = start.elapsed();
        Ok(ApplyReport { sets_in_use, read_back, total, ..count(&plan) })
    }

    /// Does all of `plan`; gives how many sets are still in use.
    fn execute(&self, plan: &Plan, after: &mut Applied) -> Result<usize, Error> {
        let mut in_use = 0;
        for step in render(plan) {
            let done = self.kernel.step(&step)?;
            match &step {
                Step::Destroy { set, now: false } if done => drop(after.sets.remove(set)),
                Step::Destroy { now: false, .. } => in_use += 1,
                _ => {}
            }
        }
        Ok(in_use)
    }
}

fn count(plan: &Plan) -> ApplyReport {
    let tables = plan.tables.values();
    ApplyReport {
        chains_changed: tables.map(|table| table.write.len() + table.delete.len()).sum(),
        sets_created: plan.create.len(),
        members_changed: plan
            .remove
            .values()
            .chain(plan.add.values())
            .map(|change| change.elements.len())
            .sum(),
        ..ApplyReport::default()
    }
}
