//! From a [`Compiled`] to the kernel: desired → diff → render → apply → read back.
//!
//! | file | what lives there |
//! |---|---|
//! | [`options`], [`name`], [`variant`] | what a user chooses; what is ours; which iptables |
//! | [`desired`], `tree`, `ruleset`, `rule`, [`set`] | chains and sets as they ought to be |
//! | [`applied`] | chains and sets as they are, parsed |
//! | [`plan`], [`render`], [`drift`] | the difference: as values, for the tools, for people |
//! | [`preflight`] | what a node needs |
//! | [`apply`] | the only place that touches the kernel |
//!
//! Invariants: nothing of other software is read as ours, rewritten or reordered; a set is
//! complete before a chain refers to it; elements leave before chains change and join after.

pub mod applied;
pub mod apply;
pub mod desired;
pub mod drift;
pub mod name;
pub mod options;
pub mod plan;
pub mod preflight;
pub mod render;
mod rule;
mod ruleset;
pub mod set;
mod tree;
pub mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};

use self::applied::Applied;
use self::apply::{Error, Kernel, probe};
use self::desired::{Chains, Desired};
use self::drift::Drift;
pub use self::options::{AcceptAction, DenyAction, IptablesVariant, Options};
use self::plan::{MovedHooks, Plan, Terms};
use self::preflight::Finding;
use self::render::render;
use self::variant::Variant;

/// After so many verifications in a row that found others in front of our hooks, it stays so.
const HOOK_REPAIRS_MAX: u32 = 3;

/// Keeps the kernel as the engine wants it.
pub struct Dataplane {
    options: Options,
    kernel: Kernel,
    families: Vec<Family>,
    /// What the last apply left in the kernel; none when that is not known.
    applied: Option<Applied>,
    /// Whether the other variant is known to hold nothing of ours.
    other_variant_clean: bool,
    hook_repairs: u32,
}

/// What an apply did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ApplyReport {
    /// Chains written or deleted, both families.
    pub chains_changed: usize,
    /// Hooks inserted or removed, both families.
    pub hooks_changed: usize,
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

impl ApplyReport {
    /// Whether the kernel was as it ought to be already.
    #[must_use]
    pub fn wrote_nothing(&self) -> bool {
        let Self { chains_changed, hooks_changed, sets_created, members_changed, .. } = self;
        [chains_changed, hooks_changed, sets_created, members_changed].into_iter().all(|n| *n == 0)
    }
}

/// What a cleanup did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CleanupReport {
    /// Chains deleted, both variants and families.
    pub chains_deleted: usize,
    /// Sets destroyed.
    pub sets_destroyed: usize,
    /// Chains and sets of ours that rules of others use. The chains are empty.
    pub kept: Vec<String>,
}

impl Dataplane {
    /// Finds the tools. Changes nothing.
    ///
    /// Without IPv6 in the kernel, or without ip6tables, only IPv4 is enforced: see
    /// [`Dataplane::families`].
    ///
    /// # Errors
    /// When no iptables is installed, or what it holds cannot be read.
    pub fn open(options: Options) -> Result<Self, Error> {
        let lock_wait_seconds = options.lock_wait_seconds;
        let kernel = Kernel { variant: variant(&options)?, lock_wait_seconds };
        let mut families = vec![Family::V4];
        if probe::has_ipv6() && kernel.installed(Family::V6) {
            families.push(Family::V6);
        }
        tracing::info!(variant = ?kernel.variant, ?families, "opened the dataplane");
        let (applied, other_variant_clean, hook_repairs) = (None, false, 0);
        Ok(Self { options, kernel, families, applied, other_variant_clean, hook_repairs })
    }

    /// The variant that holds our rules.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.kernel.variant
    }

    /// The families that are enforced.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Makes the kernel enforce `compiled`; `update` is what changed since the last call.
    ///
    /// The first call, and each one after a failure, reads back what is applied and changes only
    /// what differs; `update` is of no matter then.
    ///
    /// # Errors
    /// When any step fails. Nothing is taken as done then. Also when pods have IPv6 addresses
    /// and only IPv4 can be enforced, which is done first.
    pub fn apply(&mut self, compiled: &Compiled, update: &Update) -> Result<ApplyReport, Error> {
        let start = Instant::now();
        // Taken: whatever fails from here on, the next call reads back.
        let (applied, read_back) = match self.applied.take() {
            Some(applied) => (applied, Duration::ZERO),
            None => (self.kernel.read(&self.families)?, start.elapsed()),
        };
        let (plan, mut after) = self.diff(&applied, compiled, update);
        let sets_in_use = execute(self.kernel, &plan, &mut after)?;
        if !self.other_variant_clean {
            let other = Kernel { variant: self.kernel.variant.other(), ..self.kernel };
            clean_tables(other)?;
            self.other_variant_clean = true;
        }
        self.applied = Some(after);
        self.check_families(compiled)?;
        let total = start.elapsed();
        Ok(ApplyReport { sets_in_use, read_back, total, ..count(&plan) })
    }

    /// Reads back what is applied, repairs what differs from `compiled`, and says what did.
    ///
    /// A hook that others move behind their rules time and again is left there after a few
    /// repairs, and said to be.
    ///
    /// # Errors
    /// When the read-back or a repair fails.
    pub fn verify(&mut self, compiled: &Compiled) -> Result<Vec<Drift>, Error> {
        self.applied = None;
        let applied = self.kernel.read(&self.families)?;
        let (plan, mut after) = self.diff(&applied, compiled, &Update::default());
        let drifts = drift::list(&applied, &plan);
        let behind = |drift: &Drift| matches!(drift, Drift::Hook { count: 1.., in_front, .. } if !in_front.is_empty());
        self.hook_repairs = if drifts.iter().any(behind) { self.hook_repairs + 1 } else { 0 };
        execute(self.kernel, &plan, &mut after)?;
        for drift in &drifts {
            tracing::warn!(%drift, "the kernel was not as it ought to be");
        }
        self.applied = Some(after);
        Ok(drifts)
    }

    fn diff(&self, applied: &Applied, compiled: &Compiled, update: &Update) -> (Plan, Applied) {
        let moved_hooks = if self.hook_repairs < HOOK_REPAIRS_MAX {
            MovedHooks::Repair
        } else {
            MovedHooks::Leave
        };
        let desired = Desired::new(compiled, &self.options, &self.families);
        let initial_maxelem = self.options.initial_maxelem;
        plan::diff(applied, desired, &Terms { update, initial_maxelem, moved_hooks })
    }

    /// What cannot be enforced must not look as if it were.
    fn check_families(&self, compiled: &Compiled) -> Result<(), Error> {
        let missing = |address: &&std::net::IpAddr| !self.families.contains(&Family::of(**address));
        let count = compiled.endpoints.keys().filter(missing).count();
        // Without IPv6 in the kernel there are no packets to be enforced either.
        if count == 0 || !probe::has_ipv6() {
            return Ok(());
        }
        Err(Error::Unenforced { count, command: self.kernel.variant.command(Family::V6) })
    }
}

/// Removes all that is ours: hooks, chains and sets, in both variants and both families.
///
/// # Errors
/// When a table or the sets cannot be read or written; what could be removed is gone then.
pub fn cleanup(options: &Options) -> Result<CleanupReport, Error> {
    let mut report = CleanupReport::default();
    let mut failed = None;
    let lock_wait_seconds = options.lock_wait_seconds;
    for variant in Variant::BOTH {
        match clean_tables(Kernel { variant, lock_wait_seconds }) {
            Ok((deleted, kept)) => {
                report.chains_deleted += deleted;
                report.kept.extend(kept);
            }
            Err(error) => failed = Some(error),
        }
    }
    // The sets do not depend on the variant.
    let kernel = Kernel { variant: Variant::Nft, lock_wait_seconds };
    let applied = kernel.read(&[])?;
    let (plan, mut after) = plan_nothing(&applied);
    report.sets_destroyed = plan.destroy.len() - execute(kernel, &plan, &mut after)?;
    report.kept.extend(after.sets.into_keys());
    failed.map_or(Ok(report), Err)
}

/// What this node lacks for enforcement, and what else is good to know.
///
/// Sets `net.bridge.bridge-nf-call-*` to 1 where there is a bridge and it is 0; touches nothing
/// else, but for a chain and a set of ours that last as long as the probe.
#[must_use]
pub fn preflight(options: &Options) -> Vec<Finding> {
    preflight::judge(&probe::facts(variant(options), options.lock_wait_seconds))
}

fn variant(options: &Options) -> Result<Variant, Error> {
    match options.variant {
        IptablesVariant::Legacy => Ok(Variant::Legacy),
        IptablesVariant::Nft => Ok(Variant::Nft),
        IptablesVariant::Auto => probe::choose_variant(options.lock_wait_seconds),
    }
}

/// Removes our hooks and chains of one variant; gives how many chains went, and which stay.
fn clean_tables(kernel: Kernel) -> Result<(usize, Vec<String>), Error> {
    let (mut deleted, mut kept) = (0, Vec::new());
    for family in Family::BOTH {
        if !kernel.may_have_rules(family) || !kernel.installed(family) {
            continue;
        }
        let tables = BTreeMap::from([(family, kernel.read_table(family)?)]);
        let applied = Applied { tables, ..Applied::default() };
        let (plan, mut after) = plan_nothing(&applied);
        execute(kernel, &plan, &mut after)?;
        deleted += plan.tables.values().map(|change| change.delete.len()).sum::<usize>();
        kept.extend(after.tables.into_values().flat_map(|table| table.chains.into_keys()));
    }
    Ok((deleted, kept))
}

/// The way from `applied` to nothing.
fn plan_nothing(applied: &Applied) -> (Plan, Applied) {
    let desired = Desired {
        tables: applied.tables.keys().map(|family| (*family, Chains::new())).collect(),
        hooks: BTreeSet::new(),
        sets: BTreeMap::new(),
    };
    let update = Update::default();
    let moved_hooks = MovedHooks::Repair;
    plan::diff(applied, desired, &Terms { update: &update, initial_maxelem: 0, moved_hooks })
}

/// Does all of `plan`; gives how many sets are still in use.
fn execute(kernel: Kernel, plan: &Plan, after: &mut Applied) -> Result<usize, Error> {
    let mut in_use = BTreeSet::new();
    for step in render(plan) {
        tracing::debug!(%step, "step");
        in_use.append(&mut kernel.step(&step)?);
    }
    after.sets.retain(|set, _| !plan.destroy.contains(set) || in_use.contains(set));
    Ok(in_use.len())
}

fn count(plan: &Plan) -> ApplyReport {
    let tables = || plan.tables.values();
    let members = plan.remove.values().chain(plan.add.values());
    ApplyReport {
        chains_changed: tables().map(|table| table.write.len() + table.delete.len()).sum(),
        hooks_changed: tables().map(|table| table.hooks.len()).sum(),
        sets_created: plan.create.len(),
        members_changed: members.map(|change| change.elements.len()).sum(),
        ..ApplyReport::default()
    }
}
