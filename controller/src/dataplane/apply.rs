//! One apply: passes, until the kernel holds what is desired, except for what it refuses.
//!
//! ```text
//! desired without refusals ─► diff ─► execute ─► done
//!      ▲                                 └─ a set is refused: what needs it denies ───┐
//!      │                                 └─ chains are refused: those of rulesets     │
//!      └──────────── deny, and are tried again in halves; otherwise the family fails ─┘
//! ```
//!
//! Each pass denies before it allows: members leave sets, chains change, members join. A step that
//! fails in one pass does not stop the next pass from doing the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};

use super::applied::{Applied, AppliedSet, Elements, Table};
use super::backend::iptables::Kernel;
use super::backend::{Error, Executed};
use super::denial::Denial;
use super::drift::{self, Drift};
use super::name::{self, ChainName};
use super::plan::{Plan, Swap, TableChange};
use super::waiting::{MEMBERS_AT_ONCE, Waiting};
use super::{ApplyReport, Dataplane, Extent, diff};

/// How often groups of refused chains are tried in one apply. The rest stays refused.
const TRIALS_MAX: usize = 64;

impl Extent {
    /// How many members join sets in one pass.
    fn members_at_once(self) -> usize {
        match self {
            Self::Urgent => MEMBERS_AT_ONCE,
            Self::All => usize::MAX,
        }
    }
}

/// The state of one apply.
struct Attempt<'a> {
    /// The changes since the last apply; `None` once all members have joined and left, except for
    /// those of refused sets.
    update: Option<&'a Update>,
    extent: Extent,
    /// The state of the kernel; `None` when it has to be read.
    applied: Option<Applied>,
    /// Whether `applied` was read in this apply, with the changes of other programs.
    was_read: bool,
    /// Whether only members of sets can differ.
    members_only: bool,
    /// Families whose chains this apply does not change any more, and why.
    failed: BTreeMap<Family, Error>,
    /// Families whose chains are written without sets, and why.
    without_sets: BTreeMap<Family, Arc<str>>,
    /// Groups of refused chains of rulesets, of which the kernel may accept some.
    untried: Vec<Group>,
    /// The group that this pass tries.
    trial: Option<Group>,
    trials_left: usize,
    /// Whether the first pass lists the changes of other programs.
    is_comparison: bool,
    drifts: Vec<Drift>,
    report: ApplyReport,
}

impl<'a> Attempt<'a> {
    fn new(extent: Extent, applied: Option<Applied>, update: Option<&'a Update>) -> Self {
        Self {
            update,
            extent,
            applied,
            was_read: false,
            members_only: false,
            failed: BTreeMap::new(),
            without_sets: BTreeMap::new(),
            untried: Vec::new(),
            trial: None,
            trials_left: TRIALS_MAX,
            is_comparison: false,
            drifts: Vec::new(),
            report: ApplyReport::default(),
        }
    }
}

/// Chains of rulesets of one family.
type Group = (Family, Vec<ChainName>);

impl Dataplane {
    pub(super) fn apply(
        &mut self,
        compiled: &Compiled,
        update: &Update,
        extent: Extent,
    ) -> Result<ApplyReport, Error> {
        let start = Instant::now();
        // Taken, so that the next call reads back after any failure from here on.
        let mut attempt = Attempt::new(extent, self.applied.take(), Some(update));
        attempt.members_only =
            attempt.applied.is_some() && !update.rules_changed && !self.attachments_changed;
        attempt.report.postponed = self.postponed;
        let report = self.converge(compiled, attempt)?.report;
        if self.unchanged.is_some() {
            self.confirm(compiled)?;
        }
        self.check_families(compiled)?;
        Ok(ApplyReport { total: start.elapsed(), ..report })
    }

    /// Reads back what is applied, and repairs what differs. Returns what differed.
    pub(super) fn compare(&mut self, compiled: &Compiled) -> Result<Vec<Drift>, Error> {
        self.refusals.without_sets.clear();
        self.follow(compiled, &Update::default());
        let (applied, unread) = self.kernel.read(&self.desired.tables)?;
        // Not before the pass: what cannot be read can still be changed.
        self.applied = None;
        self.forget_differences();
        let mut attempt = Attempt::new(Extent::All, Some(applied), None);
        (attempt.was_read, attempt.is_comparison, attempt.failed) = (true, true, unread);
        Ok(self.converge(compiled, attempt)?.drifts)
    }

    /// Repairs what differs in `applied`, of which a part was just read. Returns what differed.
    pub(super) fn repair(
        &mut self,
        compiled: &Compiled,
        applied: Option<Applied>,
    ) -> Result<Vec<Drift>, Error> {
        let mut attempt = Attempt::new(Extent::All, applied, None);
        (attempt.was_read, attempt.is_comparison) = (true, true);
        Ok(self.converge(compiled, attempt)?.drifts)
    }

    /// Compares the kernel with what was just applied or repaired: a tool can report a change that
    /// it did not make.
    pub(super) fn confirm(&mut self, compiled: &Compiled) -> Result<(), Error> {
        let drifts = self.compare(compiled)?;
        self.unchanged = drifts.iter().find(|drift| drift.is_wrong()).map(ToString::to_string);
        let Some(found) = self.unchanged.clone() else { return Ok(()) };
        self.applied = None;
        Err(Error::Unchanged { found })
    }

    /// Runs passes until nothing more can be done.
    fn converge<'a>(
        &mut self,
        compiled: &Compiled,
        mut attempt: Attempt<'a>,
    ) -> Result<Attempt<'a>, Error> {
        let members_only = attempt.members_only;
        while !self.pass(compiled, &mut attempt)? {}
        self.attachments_changed = false;
        let without_sets = std::mem::take(&mut attempt.without_sets).into_iter();
        attempt.failed.extend(without_sets.map(|(family, why)| (family, Error::NoSets { why })));
        match attempt.failed.pop_first() {
            None => {}
            Some((_, error)) if attempt.failed.len() + 1 == self.families.len() => {
                return Err(error);
            }
            Some(failed) => return Err(Error::of_family(failed)),
        }
        self.applied = attempt.applied.take();
        attempt.report.elsewhere_unclean = !members_only && self.clean_elsewhere();
        Ok(attempt)
    }

    /// Runs one pass. Returns whether it was the last one.
    fn pass(&mut self, compiled: &Compiled, attempt: &mut Attempt<'_>) -> Result<bool, Error> {
        let nothing = Update::default();
        let update = attempt.update.unwrap_or(&nothing);
        let (mut plan, after, mut applied) = match attempt.applied.take() {
            Some(applied) if attempt.members_only => {
                attempt.members_only = false;
                let terms = self.terms(compiled, update);
                let (plan, sets) = diff::diff_members(&applied, &terms);
                (plan, Applied { sets, ..Applied::default() }, applied)
            }
            applied => self.plan_all(compiled, update, applied, attempt)?,
        };
        self.waiting.retain(|set| self.desired.sets.contains_key(&set));
        self.waiting.take_in(&mut plan, attempt.extent.members_at_once());
        attempt.report.members_waiting = self.waiting.len();
        let report = ApplyReport::of(&plan);
        attempt.report.chains_changed += report.chains_changed;
        attempt.report.hooks_changed += report.hooks_changed;
        attempt.report.sets_created += report.sets_created;
        attempt.report.members_changed += report.members_changed;
        self.note_changes(&plan);
        let rulesets = |(family, change): (&Family, &TableChange)| {
            let chains = change.write.keys().copied();
            (*family, chains.filter(|chain| name::is_ruleset(*chain)).collect())
        };
        let rulesets: BTreeMap<Family, Vec<ChainName>> = plan.tables.iter().map(rulesets).collect();
        let evicts = plan.evict.iter().any(|eviction| !eviction.chains.is_empty());
        let executed = self.execute(&plan, &applied);
        let mut touched = self.touched.take();
        if let Some(touched) = &mut touched {
            touched.sets.extend(after.sets.keys());
        }
        let (is_clean, is_last_stage) = (executed.is_clean(), executed.stages == Executed::STAGES);
        if !executed.is_undone {
            take_over(&mut applied, plan, after, &executed);
        }
        // After a pass that failed in part, everything is compared.
        let touched = touched.filter(|_| is_clean);
        self.touched = touched.map(|touched| self.desired.still_touched(touched, &applied));
        // Checking all rules takes long, so only families without their local sets are checked.
        let refused = executed.refused.keys().filter(|set| name::is_local(**set));
        let refused: BTreeSet<Family> = refused.map(|set| name::family(*set)).collect();
        let refers = |family: &Family| applied.tables.get(family).is_some_and(Table::needs_sets);
        let need_sets: BTreeSet<Family> = refused.into_iter().filter(refers).collect();
        // Chains without the rules of an evicted set are known again once they are read, and so is
        // which members still wait.
        let is_known = is_clean || !(executed.is_undone || evicts || self.waiting.len() > 0);
        attempt.applied = Some(applied).filter(|_| is_known);
        if is_last_stage {
            attempt.update = None;
            attempt.report.sets_in_use = executed.in_use.len();
        }
        for (set, why) in executed.refused {
            tracing::debug!(%set, %why, "a set was refused");
            let family = name::family(set);
            if !name::is_local(set) {
                self.refusals.sets.insert(set, why);
            } else if need_sets.contains(&family) {
                attempt.failed.entry(family).or_insert(Error::Set { set, why });
            } else {
                self.refusals.without_sets.insert(family, why.clone());
                attempt.without_sets.entry(family).or_insert(why);
            }
        }
        for (family, error) in executed.failed {
            let rulesets = rulesets.get(&family).map(Vec::as_slice).unwrap_or_default();
            self.chains_failed(family, error, rulesets, attempt);
        }
        Ok(is_clean && !self.try_next(attempt))
    }

    /// The plan for everything, what is applied after it, and what is applied now.
    fn plan_all(
        &mut self,
        compiled: &Compiled,
        update: &Update,
        applied: Option<Applied>,
        attempt: &mut Attempt<'_>,
    ) -> Result<(Plan, Applied, Applied), Error> {
        let applied = if let Some(applied) = applied {
            self.follow(compiled, update);
            applied
        } else {
            self.read(compiled, update, attempt)?
        };
        let touched = self.touched.take();
        let touched = touched.unwrap_or_else(|| self.desired.all_touched(&applied));
        let terms = self.terms(compiled, update);
        let (mut plan, mut after) = diff::diff(&applied, &self.desired, &touched, &terms);
        self.touched = Some(touched);
        for family in attempt.failed.keys() {
            plan.leave_out(*family);
            after.tables.remove(family);
        }
        if std::mem::take(&mut attempt.is_comparison) {
            attempt.drifts = drift::list(&applied, &plan, self.table());
            if attempt.drifts.iter().any(Drift::is_wrong) {
                // The running tool may have reported a change that it did not make.
                self.kernel.end_tools();
            }
        }
        self.postponed =
            attempt.extent == Extent::Urgent && self.postpone(&mut plan, &applied, &mut after);
        attempt.report.postponed = self.postponed;
        Ok((plan, after, applied))
    }

    /// Forgets known differences and waiting members: everything is compared with what is read.
    fn forget_differences(&mut self) {
        (self.touched, self.changed_since_read) = (None, None);
        self.waiting = Waiting::default();
    }

    /// Reads back what is applied. If the sets cannot be read, and no chain needs one, the chains
    /// are desired without sets from now on.
    fn read(
        &mut self,
        compiled: &Compiled,
        update: &Update,
        attempt: &mut Attempt<'_>,
    ) -> Result<Applied, Error> {
        self.refusals.without_sets = attempt.without_sets.clone();
        self.forget_differences();
        let sets = self.kernel.read_sets();
        if let Err(error) = &sets {
            let why: Arc<str> = error.to_string().into();
            let all = self.families.iter().map(|family| (*family, why.clone()));
            self.refusals.without_sets = all.collect();
        }
        self.follow(compiled, update);
        let (tables, unread) = self.kernel.read_tables(&self.desired.tables)?;
        let sets = match sets {
            Err(error) if tables.values().any(Table::needs_sets) => return Err(error),
            sets => sets.unwrap_or_default(),
        };
        attempt.was_read = true;
        attempt.failed.extend(unread);
        attempt.without_sets = self.refusals.without_sets.clone();
        Ok(Applied { tables, sets })
    }

    /// Executes `plan`. Before that, reads the counters of the chains of denials that change.
    fn execute(&mut self, plan: &Plan, applied: &Applied) -> Executed {
        let kinds = |(family, change): (&Family, &TableChange)| {
            let family = *family;
            change.denials().map(move |kind| (family, kind)).collect::<Vec<_>>()
        };
        let counts_go = self.kernel.counts_with_rules();
        let tables = plan.tables.iter().filter(|_| counts_go);
        let mut rewritten: BTreeSet<(Family, Denial)> = tables.flat_map(kinds).collect();
        if rewritten.iter().any(|(family, kind)| applied.has_rules(*family, kind.chain())) {
            match self.kernel.read_denials(&self.families, Some(applied)) {
                Ok(reading) => drop(self.denials.add(reading)),
                Err(error) => tracing::warn!(%error, "failed to count denials before a change"),
            }
        }
        let executed = self.kernel.execute(plan);
        rewritten.retain(|(family, _)| executed.has_changed_chains(*family));
        self.denials.reset(&rewritten);
        executed
    }

    /// Records that the chains of `family` could not be changed. If the chain of one of `rulesets`
    /// may be the cause, these are refused, and tried again in groups.
    fn chains_failed(
        &mut self,
        family: Family,
        error: Error,
        rulesets: &[ChainName],
        attempt: &mut Attempt<'_>,
    ) {
        tracing::debug!(%error, family = family.as_str(), "the chains of a family were refused");
        if !error.is_refusal() {
            attempt.failed.insert(family, error);
        } else if attempt.extent == Extent::Urgent || !attempt.was_read {
            // Unreferenced chains count for the kernel's limits too, and others may use them now.
            attempt.extent = Extent::All;
            attempt.applied = None;
        } else if let Some((_, chains)) = attempt.trial.take_if(|(of, _)| *of == family) {
            self.refuse(family, &chains, &error, attempt);
        } else if rulesets.iter().any(|chain| !self.is_refused(family, *chain)) {
            self.refuse(family, rulesets, &error, attempt);
        } else {
            // No chain of a ruleset is the cause.
            self.refusals.chains.retain(|(of, _), _| *of != family);
            attempt.untried.retain(|(of, _)| *of != family);
            attempt.failed.insert(family, error);
        }
    }

    fn is_refused(&self, family: Family, chain: ChainName) -> bool {
        self.refusals.chains.contains_key(&(family, chain))
    }

    fn refuse(
        &mut self,
        family: Family,
        chains: &[ChainName],
        error: &Error,
        attempt: &mut Attempt<'_>,
    ) {
        let why: Arc<str> = error.to_string().into();
        for chain in chains {
            self.refusals.chains.insert((family, *chain), why.clone());
        }
        if let (first, second @ [_, ..]) = chains.split_at(chains.len().div_ceil(2)) {
            attempt.untried.extend([second, first].map(|half| (family, half.to_vec())));
        }
    }

    /// Takes the next group to try after a pass without a failure. Returns whether there is one.
    fn try_next(&mut self, attempt: &mut Attempt<'_>) -> bool {
        let next = attempt.untried.pop().filter(|_| attempt.trials_left > 0);
        attempt.trials_left = attempt.trials_left.saturating_sub(1);
        attempt.trial = next;
        let Some((family, chains)) = &attempt.trial else { return false };
        for chain in chains {
            self.refusals.chains.remove(&(*family, *chain));
        }
        true
    }
}

impl Executed {
    /// Whether the chains of a family are as planned.
    fn has_changed_chains(&self, family: Family) -> bool {
        self.stages >= 2 && !self.failed.contains_key(&family)
    }
}

/// Updates `applied` to what is in the kernel after the executed part of `plan`. The whole plan
/// leads to `after`.
fn take_over(applied: &mut Applied, plan: Plan, after: Applied, executed: &Executed) {
    for (family, table) in after.tables {
        if executed.has_changed_chains(family) {
            let now = applied.tables.entry(family).or_default();
            now.chains.extend(table.chains);
            now.hooks = table.hooks;
            let deleted = plan.tables.get(&family).into_iter().flat_map(|change| &change.delete);
            deleted.for_each(|chain| drop(now.chains.remove(chain)));
        }
    }
    let unknown = |shape, maxelem| AppliedSet { shape, maxelem, elements: Elements::Unknown };
    if executed.stages == Executed::STAGES {
        applied.sets.extend(after.sets);
        for set in plan.destroy.difference(&executed.in_use) {
            applied.sets.remove(set);
        }
    } else {
        let is_done = |swap| swap != Swap::WithAdditions;
        for set in plan.create.into_iter().filter(|set| is_done(set.swap)) {
            let shape = Some((set.kind, set.family));
            if set.swap == Swap::BeforeChains {
                let temporary = name::temporary(set.name);
                applied.sets.insert(temporary, unknown(shape, set.maxelem));
            }
            if !executed.refused.contains_key(&set.name) {
                let elements = Elements::Read(set.elements);
                let maxelem = set.maxelem;
                applied.sets.insert(set.name, AppliedSet { shape, maxelem, elements });
            }
        }
    }
    for refused in executed.refused.keys() {
        // The set may have been created, and has some of its members.
        for set in [*refused, name::temporary(*refused)] {
            if Kernel::discard(set) {
                applied.sets.remove(&set);
            } else {
                let was = applied.sets.get(&set);
                let was = was.map_or((None, 0), |was| (was.shape, was.maxelem));
                applied.sets.insert(set, unknown(was.0, was.1));
            }
        }
    }
}
