//! A plan as the text that the tools read, step by step. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

use policy_engine::cidr::Family;

use super::desired::Chains;
use super::name;
use super::plan::{Eviction, MemberChange, NewSet, Plan, Swap, TableChange};
use super::set::{Element, family_name};

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
        set: String,
        /// Whether they join or leave.
        change: Joins,
        /// Which ones.
        addresses: Vec<IpAddr>,
    },
    /// A script for `iptables-restore --noflush`.
    Table(Family, String),
    /// Sets that go. Those that are in use stay until a later apply.
    Destroy(Vec<String>),
    /// A set that goes because what follows needs its name.
    Clear(String),
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

/// The steps of `plan`, in order. Equal plans give equal bytes.
#[must_use]
pub fn render(plan: &Plan) -> Vec<Step> {
    let mut steps = Vec::new();
    for eviction in &plan.evict {
        steps.extend(evict(eviction));
    }
    steps.extend(plan.clear.iter().cloned().map(Step::Clear));
    sets(&mut steps, plan.create.iter().map(create).collect());
    members(&mut steps, &plan.remove, Joins::Remove, "");
    for (family, change) in &plan.tables {
        steps.push(Step::Table(*family, table(change)));
    }
    let full = plan.create.iter().filter(|set| set.swap == Swap::WithAdditions);
    members(&mut steps, &plan.add, Joins::Add, &full.map(swap).collect::<String>());
    if !plan.destroy.is_empty() {
        steps.push(Step::Destroy(plan.destroy.iter().cloned().collect()));
    }
    steps
}

fn evict(eviction: &Eviction) -> Vec<Step> {
    let let_go = eviction.chains.iter().map(|(family, chains)| {
        let change = TableChange { write: chains.clone(), ..TableChange::default() };
        Step::Table(*family, table(&change))
    });
    let_go.chain([Step::Clear(eviction.set.clone())]).collect()
}

fn sets(steps: &mut Vec<Step>, script: String) {
    if !script.is_empty() {
        steps.push(Step::Sets(script));
    }
}

fn create(set: &NewSet) -> String {
    let NewSet { name, swap: place, kind, family, maxelem, elements } = set;
    let name = if *place == Swap::Never { name.clone() } else { name::temporary(name) };
    let hashsize = elements.len().next_power_of_two().max(HASHSIZE_MIN);
    let mut script = format!(
        "create {name} {} family {} hashsize {hashsize} maxelem {maxelem}\n",
        kind.type_name(),
        family_name(*family),
    );
    for element in elements {
        line(&mut script, Joins::Add, &name, element);
    }
    if *place == Swap::BeforeChains {
        script.push_str(&swap(set));
    }
    script
}

fn swap(set: &NewSet) -> String {
    format!("swap {} {}\n", name::temporary(&set.name), set.name)
}

fn line(script: &mut String, change: Joins, name: &str, element: &Element) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{} {name} {element}", change.command());
}

/// Few addresses over netlink, everything else as one script that ends with `then`.
fn members(
    steps: &mut Vec<Step>,
    changes: &BTreeMap<String, MemberChange>,
    joins: Joins,
    then: &str,
) {
    let few =
        changes.values().map(|change| change.elements.len()).sum::<usize>() <= NETLINK_MEMBERS_MAX;
    let mut script = String::new();
    for (name, change) in changes {
        match only_addresses(change).filter(|_| few) {
            Some(addresses) => {
                let set = name.clone();
                steps.push(Step::Members { set, change: joins, addresses });
            }
            None => {
                for element in &change.elements {
                    line(&mut script, joins, name, element);
                }
            }
        }
    }
    sets(steps, script + then);
}

fn only_addresses(change: &MemberChange) -> Option<Vec<IpAddr>> {
    let address = |element: &Element| match element {
        Element::Address(address) => Some(*address),
        Element::AddressPort(..) | Element::Network(_) | Element::Unknown(_) => None,
    };
    change.elements.iter().map(address).collect()
}

/// One script, so that chains and hooks change at once.
fn table(change: &TableChange) -> String {
    let mut script = String::from("*filter\n");
    for chain in change.write.keys().chain(&change.delete) {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    append(&mut script, &change.write);
    for (chain, rules) in &change.prepend {
        for rule in rules.iter().rev() {
            let _ = writeln!(script, "-I {chain} {rule}");
        }
    }
    for (hook, change) in &change.hooks {
        let (chain, rule) = (hook.chain(), hook.rule());
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
            let _ = writeln!(script, "-A {chain} {rule}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::dataplane::set::Kind;

    fn adding(count: usize) -> Vec<Step> {
        let address = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0001 + number));
        let elements = (0..).map(address).map(Element::Address).take(count).collect();
        let change = MemberChange { kind: Kind::Address, elements };
        let add = BTreeMap::from([("SET".to_owned(), change)]);
        render(&Plan { add, ..Plan::default() })
    }

    #[test]
    fn few_members_go_one_by_one_and_many_as_one_script() {
        let few = adding(NETLINK_MEMBERS_MAX);
        assert!(matches!(few.as_slice(), [Step::Members { .. }]), "{few:?}");
        let many = adding(NETLINK_MEMBERS_MAX + 1);
        let [Step::Sets(script)] = many.as_slice() else { panic!("{many:?}") };
        assert_eq!(script.lines().count(), NETLINK_MEMBERS_MAX + 1);
        assert!(script.starts_with("add SET 10.0.0.1\nadd SET 10.0.0.2\n"), "{script}");
    }

    #[test]
    fn an_old_hook_goes_in_the_transaction_that_brings_the_new_one() {
        use crate::dataplane::desired::Hook;
        use crate::dataplane::plan::HookChange;
        let hooks = BTreeMap::from([(Hook::Forward, HookChange { remove: 2, insert: true })]);
        let delete = std::collections::BTreeSet::from(["PORTCULLIS-Told".to_owned()]);
        let change = TableChange { delete, hooks, ..TableChange::default() };
        assert_eq!(
            table(&change),
            "*filter\n:PORTCULLIS-Told - [0:0]\n-D FORWARD -j PORTCULLIS-FORWARD\n\
             -D FORWARD -j PORTCULLIS-FORWARD\n-I FORWARD 1 -j PORTCULLIS-FORWARD\n\
             -X PORTCULLIS-Told\nCOMMIT\n"
        );
    }
}
