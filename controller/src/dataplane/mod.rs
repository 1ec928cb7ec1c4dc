//! From a [`Compiled`] to the kernel: desired → diff → backend → read back.
//!
//! | file | what lives there |
//! |---|---|
//! | [`options`], [`feature`], [`name`] | the user's options; features that a kernel may lack; names of our chains and sets |
//! | [`rule`], [`set`] | rules, chains, hooks and sets as values |
//! | [`attachment`] | the interfaces of the node's pods |
//! | [`desired`], `entry`, `tree`, `interface_chains`, `bridge_chains`, `rulesets`, `ruleset` | chains and sets as they should be, and which of them changed |
//! | [`denial`] | kinds of denial: their chains, prefixes in the log, and counters |
//! | [`applied`] | chains and sets as they are |
//! | [`diff`](mod@diff), [`plan`] | the difference, and what changes because of it |
//! | [`refusals`], `apply` | refused sets and chains; one apply, in passes, without these |
//! | `urgent`, `waiting` | which part of a plan is urgent, and which can wait; members that wait |
//! | `comparison` | a comparison with the kernel that delays no change |
//! | [`drift`] | the difference as sentences |
//! | [`inspection`], [`words`], [`kernel_text`] | for people: the desired state as texts and in words; the kernel's state |
//! | `two_tags` | frames with two VLAN tags, which no chain of an IP family sees |
//! | `hooks`, [`hook_watch`] | hooks that other programs moved or removed: repaired; detected |
//! | [`backend`] | the tools and the kernel: text, writes, read-back, probes, cleanup |
//! | `open`, `clean` | which backend a node uses; removal of rules from the places that are not used |
//! | [`preflight`](mod@preflight) | what a node needs |
//! | [`conflict`], `survey`, [`examine`] | other software that voids enforcement: judged; searched; both |
//!
//! Invariants: no rule of other software is read as ours, rewritten or reordered; a set is
//! complete before a chain refers to it; elements leave before chains change and join after.

pub mod applied;
mod apply;
mod apply_report;
pub mod attachment;
pub mod backend;
mod bridge_chains;
mod clean;
mod comparison;
pub mod conflict;
pub mod denial;
pub mod desired;
pub mod diff;
pub mod drift;
mod entry;
pub mod examine;
mod extra_ranges;
pub mod feature;
pub mod hook_watch;
mod hooks;
pub mod inspection;
mod interface_chains;
pub mod interfaces;
pub mod kernel_text;
pub mod name;
pub mod netlink;
pub mod nft_text;
mod open;
pub mod options;
pub mod plan;
pub mod preflight;
pub mod refusals;
pub mod rule;
mod ruleset;
mod rulesets;
pub mod set;
mod survey;
mod tree;
mod two_tags;
mod urgent;
mod waiting;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Update};
use policy_engine::id::{RulesetId, SetId};

use self::applied::Applied;
pub use self::apply_report::ApplyReport;
use self::attachment::{Attachments, InterfaceName};
pub use self::backend::Error;
use self::backend::iptables::{Variant, probe};
use self::backend::{Kernel, Place};
pub use self::clean::{CleanupReport, cleanup};
pub use self::comparison::{Reader, Reading};
use self::conflict::Conflict;
use self::denial::{Counts, Denial, Totals};
use self::desired::{Desired, Touched, Wanted};
use self::diff::Terms;
use self::drift::Drift;
use self::examine::Examiner;
pub use self::open::{examiner, preflight};
pub use self::options::{
    AcceptAction, Backend, DenyAction, IptablesVariant, LogGroup, Options, TableName, UnknownPods,
};
use self::plan::Plan;
use self::refusals::{Refusals, Retries};
use self::rule::Chains;
pub use self::waiting::MEMBERS_AT_ONCE;
use self::waiting::Waiting;

/// Keeps chains, hooks and sets of the kernel as the engine's policies require.
pub struct Dataplane {
    options: Options,
    kernel: Kernel,
    /// Why this backend is used.
    reason: String,
    families: Vec<Family>,
    attachments: Attachments,
    /// Whether the attachments have changed since the last apply.
    attachments_changed: bool,
    /// The state of the kernel after the last apply; `None` when that is not known.
    applied: Option<Applied>,
    /// The desired state at the last apply.
    desired: Desired,
    /// The chains and sets in which these two may differ; `None` when that is not known.
    touched: Option<Touched>,
    /// The changes since the last [`Dataplane::reader`] call; `None` without a comparison.
    changed_since_read: Option<Touched>,
    /// Members that join sets in later applies.
    waiting: Waiting,
    /// Whether the tables and the variant that are not used are known to have no rule of ours.
    elsewhere_clean: bool,
    /// Whether the last call left changes to [`Dataplane::remove_unreferenced`].
    postponed: bool,
    denials: Totals,
    /// The sets and chains that the tools or the kernel refused.
    refusals: Refusals,
    /// The refused sets and chains that are tried again next.
    retries: Retries,
    /// A change that a tool reported but did not make. Each apply is compared with the kernel until
    /// the change is made.
    unchanged: Option<String>,
    /// The ports of bridges whose frames with two VLAN tags are dropped; `None` when that is not known.
    two_tags: Option<BTreeSet<InterfaceName>>,
}

/// How much of a change happens at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    /// The part that enforces it.
    Urgent,
    /// The whole change.
    All,
}

impl Dataplane {
    /// Why this backend is used, in a few words.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The variant of iptables that has our rules; `None` if nftables has them.
    #[must_use]
    pub fn variant(&self) -> Option<Variant> {
        match self.kernel.place() {
            Place::Iptables(place) => Some(place.variant),
            Place::Nftables => None,
        }
    }

    /// The name of the tool or backend that writes rules of `family`.
    #[must_use]
    pub fn command(&self, family: Family) -> &'static str {
        self.variant().map_or("nf_tables", |variant| variant.command(family))
    }

    /// The table that holds our chains.
    #[must_use]
    pub fn table(&self) -> TableName {
        self.kernel.table()
    }

    /// The group to which denials are logged.
    #[must_use]
    pub fn denial_log(&self) -> Option<LogGroup> {
        self.options.denial_log
    }

    /// The families that are enforced.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Sets how the known pods of this node are attached, for the next [`Dataplane::enforce`].
    /// Returns whether that has changed.
    pub fn set_attachments(&mut self, attachments: Attachments) -> bool {
        let is_news = self.options.checks_interfaces() && self.attachments != attachments;
        if is_news {
            self.attachments = attachments;
            self.attachments_changed = true;
        }
        is_news
    }

    /// Whether the kernel is known to have no rule of ours. Rules in another place count: they are
    /// enforced until ours are applied.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        let nothing = |family: &Family| {
            let table = self.kernel.read_table(*family, &Chains::new());
            table.is_ok_and(|table| table.chains.is_empty())
        };
        self.families.iter().all(nothing) && self.holds_nothing_elsewhere()
    }

    /// Makes the kernel drop all packets that open a connection and enter or leave by these
    /// interfaces of pods, which are given without addresses.
    ///
    /// # Errors
    /// When any step fails.
    pub fn close(&mut self, interfaces: Attachments) -> Result<(), Error> {
        self.set_attachments(interfaces);
        let update = Update { rules_changed: true, ..Update::default() };
        let tags = self.drop_two_tags();
        self.apply(&Compiled::default(), &update, Extent::All)?;
        tags?;
        // The first update of the engine is not the only difference: everything is compared.
        self.applied = None;
        Ok(())
    }

    /// Makes the kernel enforce `compiled`, and leaves changes that are not urgent for
    /// [`Dataplane::remove_unreferenced`]; `update` is what changed since the last call.
    ///
    /// If many members are to join sets, some of them wait for the next calls: see
    /// [`ApplyReport::members_waiting`]. Members that leave never wait.
    ///
    /// The first call, and each one after a failure, reads back what is applied and changes only
    /// what differs; `update` is ignored then.
    ///
    /// If the tools or the kernel refuse a set or the chain of a ruleset, everything else is
    /// applied. What needs it denies ([`Dataplane::denied`]), until [`Dataplane::retry_refused`]
    /// succeeds.
    ///
    /// If the sets of a family cannot be read, or one that all its chains need is refused, and no
    /// rule in the kernel needs a set, the chains of the family are written without sets: rules
    /// that need a set deny. The family counts as failed, with [`Error::NoSets`].
    ///
    /// # Errors
    /// When the chains that all pods share cannot be read or changed. The next call reads
    /// everything then. If [`Error::family`] names a family, only this one failed: it cannot be
    /// read or changed, or pods have IPv6 addresses and only IPv4 can be enforced.
    pub fn enforce(&mut self, compiled: &Compiled, update: &Update) -> Result<ApplyReport, Error> {
        let tags = self.drop_two_tags();
        let report = self.apply(compiled, update, Extent::Urgent)?;
        tags.map(|()| report)
    }

    /// Whether no member of this set waits for a later call.
    #[must_use]
    pub fn has_all_members(&self, set: SetId) -> bool {
        self.waiting.has_none_of(set)
    }

    /// Whether a set or chain was refused, and waits for [`Dataplane::retry_refused`].
    #[must_use]
    pub fn has_refusals(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// Why enforced rulesets deny more than the policies do: the tools or the kernel refused a set
    /// or chain that they need.
    #[must_use]
    pub fn denied(&self) -> &BTreeMap<(Family, RulesetId), Arc<str>> {
        &self.desired.denied
    }

    /// Tries some of the refused sets and chains again, as many as take a few runs of a tool. The
    /// next call tries the next ones. [`ApplyReport::retried_all`] marks the end of a round.
    ///
    /// # Errors
    /// As [`Dataplane::enforce`].
    pub fn retry_refused(&mut self, compiled: &Compiled) -> Result<ApplyReport, Error> {
        let taken = self.retries.take(&mut self.refusals);
        let update = Update { rules_changed: true, ..Update::default() };
        let report = self.apply(compiled, &update, Extent::Urgent)?;
        let retried_all = self.retries.tried(&taken, &self.refusals);
        Ok(ApplyReport { retried_all, ..report })
    }

    /// Makes the changes that [`Dataplane::enforce`] postponed.
    ///
    /// # Errors
    /// When any step fails. The next call reads everything then.
    pub fn remove_unreferenced(&mut self, compiled: &Compiled) -> Result<ApplyReport, Error> {
        let update = Update { rules_changed: true, ..Update::default() };
        self.apply(compiled, &update, Extent::All)
    }

    /// Takes out of `plan` what can wait. Returns whether anything does.
    fn postpone(&self, plan: &mut Plan, applied: &Applied, after: &mut Applied) -> bool {
        let kept = urgent::keep_denials(plan, applied, after);
        let postponed = self.kernel.removes_slowly() && urgent::postpone(plan, applied, after);
        kept || postponed
    }

    /// Reads back what is applied, and repairs what differs from `compiled`. Returns what differed.
    ///
    /// # Errors
    /// When the read-back or a repair fails.
    pub fn verify(&mut self, compiled: &Compiled) -> Result<Vec<Drift>, Error> {
        if self.postponed {
            self.remove_unreferenced(compiled)?;
        }
        self.verify_two_tags()?;
        // Sets that could not be destroyed yet are no drift.
        let applied = self.applied.as_ref();
        let known = applied.map(Applied::unreferenced_sets).unwrap_or_default();
        let mut drifts = self.compare(compiled)?;
        if drifts.iter().any(Drift::is_wrong) {
            self.confirm(compiled)?;
        }
        drifts.retain(|drift| !matches!(drift, Drift::Set { set, .. } if known.contains(set)));
        Ok(drifts)
    }

    /// How many packets were denied, or would have been by policies in audit, since their chains
    /// were created first. Kinds that never had a chain are missing.
    ///
    /// Takes 5 ms a kind and family with iptables-nft, and as long as `iptables-save` with legacy.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn denial_counts(&mut self) -> Result<BTreeMap<Denial, Counts>, Error> {
        let reading = self.kernel.read_denials(&self.families, self.applied.as_ref())?;
        Ok(self.denials.add(reading))
    }

    /// An examiner of this node.
    #[must_use]
    pub fn examiner(&self, ignored: &[Conflict]) -> Examiner {
        Examiner::new(self.variant(), self.options.lock_wait_seconds, ignored)
    }

    /// Updates the desired state to `compiled`; `update` is what changed in it.
    fn follow(&mut self, compiled: &Compiled, update: &Update) {
        let (attachments, options) = (&self.attachments, &self.options);
        let wanted = Wanted { compiled, attachments, options, refusals: &self.refusals };
        let touched = self.desired.follow(wanted);
        if self.desired.has_followed(wanted, update) {
            self.touched = self.touched.take().map(|before| before.and(touched));
        } else {
            self.desired = Desired::new(wanted, &self.families);
            self.touched = None;
        }
    }

    fn terms<'a>(&self, compiled: &'a Compiled, update: &'a Update) -> Terms<'a> {
        let initial_maxelem = self.options.initial_maxelem;
        Terms { update, sets: &compiled.sets, initial_maxelem }
    }

    /// An error if pods have addresses that cannot be enforced, so that the agent reports it.
    fn check_families(&self, compiled: &Compiled) -> Result<(), Error> {
        let missing = |address: &&std::net::IpAddr| !self.families.contains(&Family::of(**address));
        let count = compiled.endpoints.keys().filter(missing).count();
        // Without IPv6 in the kernel there are no IPv6 packets either.
        if count == 0 || !probe::has_ipv6() {
            return Ok(());
        }
        Err(Error::Unenforced { count, command: self.command(Family::V6) })
    }
}
