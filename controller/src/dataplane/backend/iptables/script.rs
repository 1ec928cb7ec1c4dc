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

/// The smallest number of hash buckets that the kernel takes; it grows by itself.
const HASHSIZE_MIN: usize = 64;

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A script for `ipset -exist restore`.
    Sets(String),
    /// Few changes to the members of a `hash:ip`, over netlink.
    Members {
        /// The set.
        set: SetName,
        /// Whether they join or leave.
        change: Joins,
        /// Which ones.
        addresses: Vec<IpAddr>,
    },
    /// A script for `iptables-restore --noflush`.
    Table(Family, String),
    /// Sets to destroy. Those that are in use stay until a later apply.
    Destroy(Vec<SetName>),
    /// A set that goes because what follows needs its name.
    Clear(SetName),
}

/// Which way members go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joins {
    /// Into the set.
    Add,
    /// Out of the set.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sets(script) => write!(formatter, "ipset -exist restore\n{script}"),
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

/// The steps of `plan`, in order, with chains in table `name`. Equal plans give equal bytes.
#[must_use]
pub fn render(plan: &Plan, name: TableName) -> Vec<Step> {
    let mut steps = Vec::new();
    for eviction in &plan.evict {
        steps.extend(evict(eviction, name));
    }
    steps.extend(plan.clear.iter().copied().map(Step::Clear));
    ipset(&mut steps, plan.create.iter().map(create).collect());
    members(&mut steps, &plan.remove, Joins::Remove, "");
    for (family, change) in &plan.tables {
        steps.push(Step::Table(*family, table(change, name)));
    }
    let full = plan.create.iter().filter(|set| set.swap == Swap::WithAdditions);
    members(&mut steps, &plan.add, Joins::Add, &full.map(swap).collect::<String>());
    if !plan.destroy.is_empty() {
        steps.push(Step::Destroy(plan.destroy.iter().copied().collect()));
    }
    steps
}

fn evict(eviction: &Eviction, name: TableName) -> Vec<Step> {
    let let_go = eviction.chains.iter().map(|(family, chains)| {
        let change = TableChange { write: chains.clone(), ..TableChange::default() };
        Step::Table(*family, table(&change, name))
    });
    let_go.chain([Step::Clear(eviction.set)]).collect()
}

fn ipset(steps: &mut Vec<Step>, script: String) {
    if !script.is_empty() {
        steps.push(Step::Sets(script));
    }
}

fn create(set: &NewSet) -> String {
    let NewSet { name, swap: place, kind, family, maxelem, elements } = set;
    let name = if *place == Swap::Never { *name } else { name::temporary(*name) };
    let hashsize = elements.len().next_power_of_two().max(HASHSIZE_MIN);
    let mut script = format!(
        "create {name} {} family {} hashsize {hashsize} maxelem {maxelem}\n",
        type_name(*kind),
        family_name(*family),
    );
    for element in elements {
        line(&mut script, Joins::Add, name, element);
    }
    if *place == Swap::BeforeChains {
        script.push_str(&swap(set));
    }
    script
}

fn swap(set: &NewSet) -> String {
    format!("swap {} {}\n", name::temporary(set.name), set.name)
}

fn line(script: &mut String, change: Joins, name: SetName, element: &Element) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{} {name} {}", change.command(), sets::element(element));
}

/// Few addresses over netlink, everything else as one script that ends with `then`.
fn members(
    steps: &mut Vec<Step>,
    changes: &BTreeMap<SetName, BTreeSet<Element>>,
    change: Joins,
    then: &str,
) {
    let few = changes.values().map(BTreeSet::len).sum::<usize>() <= NETLINK_MEMBERS_MAX;
    let mut script = String::new();
    for (set, elements) in changes {
        match only_addresses(elements).filter(|_| few) {
            Some(addresses) => steps.push(Step::Members { set: *set, change, addresses }),
            None => elements.iter().for_each(|element| line(&mut script, change, *set, element)),
        }
    }
    ipset(steps, script + then);
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
        for rule in rules {
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
        render(&Plan { add, ..Plan::default() }, TableName::Mangle)
    }

    #[test]
    fn few_members_go_one_by_one_and_many_as_one_script() {
        let few = adding(NETLINK_MEMBERS_MAX);
        assert!(matches!(few.as_slice(), [Step::Members { .. }]), "{few:?}");
        let many = adding(NETLINK_MEMBERS_MAX + 1);
        let [Step::Sets(script)] = many.as_slice() else { panic!("{many:?}") };
        assert_eq!(script.lines().count(), NETLINK_MEMBERS_MAX + 1);
        assert!(
            script.starts_with("add PORTCULLIS-SET 10.0.0.1\nadd PORTCULLIS-SET 10.0.0.2\n"),
            "{script}"
        );
    }

    #[test]
    fn an_old_hook_goes_in_the_transaction_that_brings_the_new_one() {
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
