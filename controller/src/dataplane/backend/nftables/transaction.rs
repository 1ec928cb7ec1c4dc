//! The changes of a plan for one family, as one transaction. Pure.
//!
//! The kernel makes all changes at once. They are ordered only so that each is valid: sets and
//! chains are created before the rules that name them, and deleted after these rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;

use super::encode::{KernelRule, ether_type, lines, rate_sets};
use super::message::{Base, Writer};
use super::sets::{element_parts, shape};
use crate::dataplane::applied::HookPlaces;
use crate::dataplane::denial::Denial;
use crate::dataplane::name::{self, ChainName, SetName};
use crate::dataplane::netlink::attributes::Attributes;
use crate::dataplane::netlink::nftables::Message;
use crate::dataplane::plan::{HookChange, NewSet, Plan, Swap, TableChange};
use crate::dataplane::rule::{Chains, Hook, Rule, Verdict};
use crate::dataplane::set::Element;

/// The purpose of a message of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum About {
    /// The whole table.
    Table,
    /// A set, and its elements.
    Set(SetName),
    /// The deletion of a set.
    EndOfSet(SetName),
    /// A chain, and its rules.
    Chain(ChainName),
    /// The deletion of a chain.
    EndOfChain(ChainName),
    /// A chain that the kernel sends packets to.
    Hook(Hook),
}

impl fmt::Display for About {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => formatter.write_str("the table"),
            Self::Set(set) => write!(formatter, "set {set}"),
            Self::EndOfSet(set) => write!(formatter, "to delete set {set}"),
            Self::Chain(chain) => write!(formatter, "chain {chain}"),
            Self::EndOfChain(chain) => write!(formatter, "to delete chain {chain}"),
            Self::Hook(hook) => write!(formatter, "base chain {}", Base::of(*hook).name),
        }
    }
}

/// Messages with their purposes.
#[derive(Default)]
pub(super) struct Transaction {
    pub messages: Vec<Message>,
    pub about: Vec<About>,
    /// The number of the next set that is created.
    next_set: u32,
}

/// Sets and chains that other rules use: they cannot be deleted.
pub(super) type Kept = BTreeSet<About>;

impl Transaction {
    /// The changes of `plan` for `family`; empty if there are none.
    pub(super) fn of(plan: &Plan, family: Family, kept: &Kept) -> Self {
        let mut transaction = Self { next_set: 1, ..Self::default() };
        let writer = Writer::of(family);
        transaction.plan(writer, plan, kept);
        if transaction.messages.len() > 1 { transaction } else { Self::default() }
    }

    /// A test of whether the kernel accepts `plan`: in a table of another name, which it deletes.
    pub(super) fn of_probe(plan: &Plan, family: Family) -> Self {
        let mut transaction = Self { next_set: 1, ..Self::default() };
        let writer = Writer::of_probe(family);
        transaction.plan(writer, plan, &Kept::new());
        transaction.add(About::Table, [writer.delete_table()]);
        if has_bridge_chains(plan, family) {
            transaction.add(About::Table, [writer.of_bridge().delete_table()]);
        }
        transaction
    }

    fn plan(&mut self, writer: Writer, plan: &Plan, kept: &Kept) {
        let (transaction, family) = (self, writer.family);
        let nothing = TableChange::default();
        let change = plan.tables.get(&family).unwrap_or(&nothing);
        let is_of = |set: &&SetName| name::family(**set) == family;
        transaction.add(About::Table, [writer.new_table()]);
        if has_bridge_chains(plan, family) {
            transaction.add(About::Table, [writer.of_bridge().new_table()]);
        }
        transaction.make_chains(writer, change);
        for eviction in plan.evict.iter().filter(|eviction| is_of(&&eviction.set)) {
            let chains = eviction.chains.get(&family).into_iter().flat_map(BTreeMap::keys);
            for chain in chains {
                let flush = writer.of_chain(*chain).flush_chain(&chain.to_string());
                transaction.add(About::Chain(*chain), [flush]);
            }
            let set = eviction.set;
            transaction.add(About::Set(set), [writer.delete_set(&set.to_string())]);
        }
        plan.create.iter().filter(|set| set.family == family).for_each(|set| {
            transaction.create(writer, set);
        });
        for (set, elements) in plan.remove.iter().filter(|(set, _)| is_of(set)) {
            transaction.elements(writer, *set, elements, Writer::delete_elements);
        }
        transaction.rules(writer, change);
        for (set, elements) in plan.add.iter().filter(|(set, _)| is_of(set)) {
            transaction.elements(writer, *set, elements, Writer::new_elements);
        }
        transaction.remove(writer, change, plan.destroy.iter().filter(is_of), kept);
    }

    /// Creates hooks again.
    pub(super) fn of_hooks(family: Family, hooks: &BTreeMap<Hook, HookPlaces>) -> Self {
        let mut transaction = Self { next_set: 1, ..Self::default() };
        for (hook, places) in hooks {
            let change = HookChange { remove: places.count, insert: true };
            transaction.hook(Writer::of(family), *hook, &change);
        }
        transaction
    }

    /// A transaction that concerns a whole table.
    pub(super) fn of_table(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    fn add(&mut self, about: About, messages: impl IntoIterator<Item = Message>) {
        self.messages.extend(messages);
        self.about.resize(self.messages.len(), about);
    }

    /// Creates the chains that get rules, and the objects that these rules refer to beside sets of
    /// members.
    fn make_chains(&mut self, writer: Writer, change: &TableChange) {
        let written = || change.write.iter().chain(&change.prepend);
        for (chain, rules) in written() {
            let (name, writer) = (chain.to_string(), writer.of_chain(*chain));
            self.add(About::Chain(*chain), [writer.new_chain(&name)]);
            if rules.iter().any(|rule| rule.verdict == Verdict::Continue) {
                self.add(About::Chain(*chain), [writer.new_counter(&name)]);
            }
        }
        for (chain, rules) in written() {
            for (set, addresses_max) in rate_sets(rules.iter()) {
                let id = self.number();
                let made = writer.of_chain(*chain).new_rate_set(&set, addresses_max, id);
                self.add(About::Chain(*chain), [made]);
            }
        }
        for chain in change.write.keys().chain(&change.delete) {
            let flush = writer.of_chain(*chain).flush_chain(&chain.to_string());
            self.add(About::Chain(*chain), [flush]);
        }
    }

    fn number(&mut self) -> u32 {
        self.next_set += 1;
        self.next_set - 1
    }

    fn create(&mut self, writer: Writer, set: &NewSet) {
        let name = set.name.to_string();
        if set.swap == Swap::Never {
            let ((key, flags), id) = (shape(set.kind, set.family), self.number());
            self.add(About::Set(set.name), [writer.new_set(&name, key, flags, id)]);
        } else {
            self.add(About::Set(set.name), [writer.flush_set(&name)]);
        }
        self.elements(writer, set.name, &set.elements, Writer::new_elements);
    }

    fn elements(
        &mut self,
        writer: Writer,
        set: SetName,
        elements: &BTreeSet<Element>,
        message: impl Fn(Writer, &str, Attributes) -> Message,
    ) {
        let name = set.to_string();
        let parts = element_parts(elements.iter()).into_iter();
        self.add(About::Set(set), parts.map(|part| message(writer, &name, part)));
    }

    fn rules(&mut self, writer: Writer, change: &TableChange) {
        self.append(writer, &change.write);
        for (chain, rules) in &change.prepend {
            let lines = lines(writer.family, *chain, rules);
            let kernel = lines.iter().flat_map(|line| &line.kernel);
            for rule in kernel.rev() {
                self.rule(writer, *chain, rule, true);
            }
        }
        for (hook, change) in &change.hooks {
            self.hook(writer, *hook, change);
        }
        for direction in Direction::BOTH {
            if change.write.contains_key(&name::bridge(direction)) {
                self.bridge_hook(writer, direction);
            }
        }
    }

    fn append(&mut self, writer: Writer, chains: &Chains) {
        for (chain, rules) in chains {
            for line in lines(writer.family, *chain, rules) {
                for rule in &line.kernel {
                    self.rule(writer, *chain, rule, false);
                }
            }
        }
    }

    fn rule(&mut self, writer: Writer, chain: ChainName, rule: &KernelRule, in_front: bool) {
        let (name, writer) = (chain.to_string(), writer.of_chain(chain));
        let messages = writer.new_rule(&name, rule, in_front, &mut self.next_set);
        self.add(About::Chain(chain), messages);
    }

    /// Creates the chain that the kernel sends frames to for `direction`.
    fn bridge_hook(&mut self, writer: Writer, direction: Direction) {
        let (chain, base) = (name::bridge(direction), Base::of_bridge(direction));
        let writer = writer.of_bridge();
        let about = About::Chain(chain);
        self.add(about, [writer.new_base_chain(base), writer.flush_chain(base.name)]);
        let rule = bridge_hook_rule(writer.family, chain);
        let messages = writer.new_rule(base.name, &rule, false, &mut self.next_set);
        self.add(about, messages);
    }

    fn hook(&mut self, writer: Writer, hook: Hook, change: &HookChange) {
        let base = Base::of(hook);
        let name = base.name;
        if change.remove > 1 || !change.insert {
            let messages = [writer.flush_chain(name), writer.delete_chain(name)];
            self.add(About::Hook(hook), messages);
        }
        if !change.insert {
            return;
        }
        let messages = [writer.new_base_chain(base), writer.flush_chain(name)];
        self.add(About::Hook(hook), messages);
        for rule in hook_rules(writer.family, hook) {
            let messages = writer.new_rule(name, &rule, false, &mut self.next_set);
            self.add(About::Hook(hook), messages);
        }
    }

    fn remove<'a>(
        &mut self,
        writer: Writer,
        change: &TableChange,
        sets: impl Iterator<Item = &'a SetName>,
        kept: &Kept,
    ) {
        for direction in Direction::BOTH {
            let chain = name::bridge(direction);
            if change.delete.contains(&chain) {
                let (base, writer) = (Base::of_bridge(direction).name, writer.of_bridge());
                let messages = [writer.flush_chain(base), writer.delete_chain(base)];
                self.add(About::Chain(chain), messages);
            }
        }
        for chain in &change.delete {
            let about = About::EndOfChain(*chain);
            if !kept.contains(&about) {
                let end = writer.of_chain(*chain).delete_chain(&chain.to_string());
                self.add(about, [end]);
            }
        }
        for set in sets.filter(|set| !name::is_temporary(**set)) {
            let about = About::EndOfSet(*set);
            if !kept.contains(&about) {
                self.add(about, [writer.delete_set(&set.to_string())]);
            }
        }
    }
}

/// The rules of the chain that the kernel sends packets to.
pub(super) fn hook_rules(family: Family, hook: Hook) -> Vec<KernelRule> {
    let jump = [Rule::all(Verdict::Jump(hook.target()))];
    lines(family, hook.target(), &jump).into_iter().flat_map(|line| line.kernel).collect()
}

/// The rule of the chain that the kernel sends frames to: frames of `family` enter `chain`.
pub(super) fn bridge_hook_rule(family: Family, chain: ChainName) -> KernelRule {
    KernelRule::jump_of_type(ether_type(family), &chain.to_string())
}

/// Whether `plan` changes chains for frames of bridges.
fn has_bridge_chains(plan: &Plan, family: Family) -> bool {
    let change = plan.tables.get(&family);
    let written = change.into_iter().flat_map(|it| it.write.keys().chain(it.prepend.keys()));
    let deleted = change.into_iter().flat_map(|it| &it.delete);
    written.chain(deleted).any(|chain| name::is_of_bridge(*chain))
}

/// The counter of a kind of denial has the name of its chain.
pub(super) fn denial_of(counter: &str) -> Option<Denial> {
    let is_named = |kind: &Denial| {
        let of_bridge =
            Direction::BOTH.into_iter().find(|direction| *kind == Denial::by_address(*direction));
        let names = [Some(kind.chain()), of_bridge.map(name::bridge_denial)];
        names.into_iter().flatten().any(|name| name.to_string() == counter)
    };
    Denial::all().find(is_named)
}
