//! A plan as the text that the tools read, step by step. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::IpAddr;

use policy_engine::cidr::Family;

use super::sets::{self, family_name, type_name};
use super::text;
use crate::dataplane::name::{self, SetName};
use crate::dataplane::options::TableName;
use crate::dataplane::plan::{Eviction, NewSet, Plan, Swap, TableChange};
use crate::dataplane::rule::Chains;
use crate::dataplane::set::Element;

/// Above this many changes of members, one `ipset restore` is quicker than netlink one by one.
const NETLINK_MEMBERS_MAX: usize = 128;

/// The smallest number of hash buckets that the kernel accepts; the kernel adds more as a set
/// grows.
const HASHSIZE_MIN: usize = 64;

/// One step of the execution of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Scripts for `ipset -exist restore`, each for one set. A script that was run in part, or
    /// completely, can be run again.
    Sets(Vec<(SetName, String)>),
    /// Few changes to the members of a `hash:ip`, over netlink.
    Members {
        /// The set.
        set: SetName,
        /// Whether the members join or leave.
        change: Joins,
        /// The members.
        addresses: Vec<IpAddr>,
    },
    /// A script for `iptables-restore --noflush`.
    Table(Family, String),
    /// Sets to destroy. Sets that are in use are destroyed by a later apply.
    Destroy(Vec<SetName>),
    /// A set to destroy because a later step needs its name.
    Clear(SetName),
}

/// Whether members join or leave a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joins {
    /// They join the set.
    Add,
    /// They leave the set.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sets(scripts) => {
                formatter.write_str("ipset -exist restore\n")?;
                scripts.iter().try_for_each(|(_, script)| formatter.write_str(script))
            }
            Self::Members { set, change, addresses } => {
                for address in addresses {
                    writeln!(formatter, "{} {set} {address}", change.command())?;
                }
                Ok(())
            }
            Self::Table(Family::V4, script) => write!(formatter, "iptables-restore\n{script}"),
            Self::Table(Family::V6, script) => write!(formatter, "ip6tables-restore\n{script}"),
            Self::Destroy(sets) => {
                sets.iter().try_for_each(|set| writeln!(formatter, "destroy {set}"))
            }
            Self::Clear(set) => writeln!(formatter, "destroy {set}"),
        }
    }
}

impl Joins {
    fn command(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "del",
        }
    }
}

/// The steps of `plan`, in three stages: sets and the members that leave them, chains, members that
/// join. Equal plans give equal bytes.
#[must_use]
pub fn render(plan: &Plan, name: TableName) -> [Vec<Step>; 3] {
    let (mut removals, mut additions) = (Vec::new(), Vec::new());
    for eviction in &plan.evict {
        removals.extend(evict(eviction, name));
    }
    removals.extend(plan.clear.iter().copied().map(Step::Clear));
    let (full, new): (Vec<_>, Vec<_>) =
        plan.create.iter().partition(|set| set.swap == Swap::WithAdditions);
    ipset(&mut removals, new.into_iter().map(create).collect());
    members(&mut removals, &plan.remove, Joins::Remove, Vec::new());
    let chains = plan.tables.iter().map(|(family, change)| {
        let script = table(change, name);
        Step::Table(*family, script)
    });
    members(&mut additions, &plan.add, Joins::Add, full.into_iter().map(create).collect());
    if !plan.destroy.is_empty() {
        additions.push(Step::Destroy(plan.destroy.iter().copied().collect()));
    }
    [removals, chains.collect(), additions]
}

fn evict(eviction: &Eviction, name: TableName) -> Vec<Step> {
    let let_go = eviction.chains.iter().map(|(family, chains)| {
        let change = TableChange { write: chains.clone(), ..TableChange::default() };
        Step::Table(*family, table(&change, name))
    });
    let_go.chain([Step::Clear(eviction.set)]).collect()
}

fn ipset(steps: &mut Vec<Step>, scripts: Vec<(SetName, String)>) {
    if !scripts.is_empty() {
        steps.push(Step::Sets(scripts));
    }
}

fn create(set: &NewSet) -> (SetName, String) {
    let NewSet { name, swap, kind, family, maxelem, elements } = set;
    let is_new = *swap == Swap::Never;
    let built = if is_new { *name } else { name::temporary(*name) };
    let hashsize = elements.len().next_power_of_two().max(HASHSIZE_MIN);
    let mut script = format!(
        "create {built} {} family {} hashsize {hashsize} maxelem {maxelem}\n",
        type_name(*kind),
        family_name(*family),
    );
    if !is_new {
        // If the script is run again, the temporary name has the elements of the replaced set.
        let _ = writeln!(script, "flush {built}");
    }
    for element in elements {
        line(&mut script, Joins::Add, built, element);
    }
    if !is_new {
        let _ = writeln!(script, "swap {built} {name}");
    }
    (*name, script)
}

fn line(script: &mut String, change: Joins, name: SetName, element: &Element) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{} {name} {}", change.command(), sets::element(element));
}

/// Few addresses over netlink, everything else as scripts, and then the steps of `then`.
fn members(
    steps: &mut Vec<Step>,
    changes: &BTreeMap<SetName, BTreeSet<Element>>,
    change: Joins,
    then: Vec<(SetName, String)>,
) {
    let few = changes.values().map(BTreeSet::len).sum::<usize>() <= NETLINK_MEMBERS_MAX;
    let mut scripts = Vec::new();
    for (set, elements) in changes {
        if let Some(addresses) = only_addresses(elements).filter(|_| few) {
            steps.push(Step::Members { set: *set, change, addresses });
        } else {
            let mut script = String::new();
            elements.iter().for_each(|element| line(&mut script, change, *set, element));
            scripts.push((*set, script));
        }
    }
    scripts.extend(then);
    ipset(steps, scripts);
}

fn only_addresses(elements: &BTreeSet<Element>) -> Option<Vec<IpAddr>> {
    let address = |element: &Element| match element {
        Element::Address(address) => Some(*address),
        _ => None,
    };
    elements.iter().map(address).collect()
}

/// One script, so that chains and hooks change at once.
pub(super) fn table(change: &TableChange, name: TableName) -> String {
    let mut script = format!("*{name}\n");
    for chain in change.write.keys().chain(&change.delete) {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    append(&mut script, &change.write);
    for (chain, rules) in &change.prepend {
        for rule in rules.iter().rev() {
            let _ = writeln!(script, "-I {chain} {}", text::rule(rule));
        }
    }
    for (hook, change) in &change.hooks {
        let (chain, rule) = (hook.chain(), text::hook(*hook));
        for _ in 0..change.remove {
            let _ = writeln!(script, "-D {chain} {rule}");
        }
        if change.insert {
            let _ = writeln!(script, "-I {chain} 1 {rule}");
        }
    }
    for chain in &change.delete {
        let _ = writeln!(script, "-X {chain}");
    }
    script.push_str("COMMIT\n");
    script
}

fn append(script: &mut String, chains: &Chains) {
    for (chain, rules) in chains {
        for rule in rules.iter() {
            let _ = writeln!(script, "-A {chain} {}", text::rule(rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::dataplane::name::ChainName;
    use crate::dataplane::plan::HookChange;
    use crate::dataplane::rule::Hook;

    fn adding(count: usize) -> Vec<Step> {
        let address = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0001 + number));
        let elements = (0..).map(address).map(Element::Address).take(count).collect();
        let add = BTreeMap::from([(SetName::short("SET"), elements)]);
        render(&Plan { add, ..Plan::default() }, TableName::Mangle).concat()
    }

    #[test]
    fn few_members_go_one_by_one_and_many_as_one_script() {
        let few = adding(NETLINK_MEMBERS_MAX);
        assert!(matches!(few.as_slice(), [Step::Members { .. }]), "{few:?}");
        let many = adding(NETLINK_MEMBERS_MAX + 1);
        let [Step::Sets(scripts)] = many.as_slice() else { panic!("{many:?}") };
        let [(_, script)] = scripts.as_slice() else { panic!("{scripts:?}") };
        assert_eq!(script.lines().count(), NETLINK_MEMBERS_MAX + 1);
        assert!(
            script.starts_with("add PORTCULLIS-SET 10.0.0.1\nadd PORTCULLIS-SET 10.0.0.2\n"),
            "{script}"
        );
    }

    #[test]
    fn an_old_hook_is_removed_in_the_transaction_that_inserts_the_new_one() {
        let hooks = BTreeMap::from([(Hook::Forward, HookChange { remove: 2, insert: true })]);
        let delete = BTreeSet::from([ChainName::short("Told")]);
        let change = TableChange { delete, hooks, ..TableChange::default() };
        assert_eq!(
            table(&change, TableName::Mangle),
            "*mangle\n:PORTCULLIS-Told - [0:0]\n-D FORWARD -j PORTCULLIS-FORWARD\n\
             -D FORWARD -j PORTCULLIS-FORWARD\n-I FORWARD 1 -j PORTCULLIS-FORWARD\n\
             -X PORTCULLIS-Told\nCOMMIT\n"
        );
    }
}
