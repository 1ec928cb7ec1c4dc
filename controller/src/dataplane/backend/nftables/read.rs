//! Reads our chains, rules and sets of nftables from the attributes that the kernel lists. Pure.

use std::collections::{BTreeMap, HashMap};

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;

use super::encode::{KernelRule, Line, lines};
use super::message::{Base, Writer, comment, is_own_set};
use super::sets::shape;
use super::transaction::{bridge_hook_rule, denial_of, hook_rules};
use crate::dataplane::applied::{HookPlaces, Table};
use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::name::{self, ChainName, SetName};
use crate::dataplane::netlink::attributes::{find, long, number, read, text};
use crate::dataplane::rule::{Chains, Hook, Rule, Verdict};
use crate::dataplane::set::Kind;

/// Adds our chains in the table of `writer` to `table`. A rule with the comment of a rule of
/// `desired` is that rule.
pub(super) fn chains(
    table: &mut Table,
    writer: Writer,
    chains: &[Vec<u8>],
    rules: &[Vec<u8>],
    desired: &Chains,
) {
    let family = writer.family;
    let mut comments: BTreeMap<&str, Vec<Comment<'_>>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| is_of(writer, rule)) {
        if let Some(chain) = find(rule, 2).and_then(text) {
            comments.entry(chain).or_default().push(Comment::of(rule));
        }
    }
    let of_chain = |name| comments.get(name).map(Vec::as_slice).unwrap_or_default();
    let is_in_place = |base: Base, expected: &[KernelRule]| {
        let chains = chains.iter().filter(|chain| is_of(writer, chain));
        let mut places = chains.filter_map(|chain| named(base, chain));
        let expected = expected.iter().map(|rule| Some(rule.comment.as_str()));
        places.next() == Some((base.hook, base.priority))
            && expected.eq(of_chain(base.name).iter().map(|comment| comment.text))
    };
    for chain in chains.iter().filter(|chain| is_of(writer, chain)) {
        let own = find(chain, 3).and_then(text).and_then(ChainName::parse);
        let Some(name) = own.filter(|name| name::is_of_bridge(*name) == writer.is_bridge()) else {
            continue;
        };
        let desired = desired.get(&name).map(|rules| lines(family, name, rules));
        let comments = comments.get(name.to_string().as_str());
        let comments = comments.map(Vec::as_slice).unwrap_or_default();
        let rules = recognise(comments, &desired.unwrap_or_default());
        table.chains.insert(name, rules.into());
    }
    if writer.is_bridge() {
        for direction in Direction::BOTH {
            let (chain, base) = (name::bridge(direction), Base::of_bridge(direction));
            // Without the rule that sends frames to it, the chain counts as missing, so that it is
            // written again.
            if !is_in_place(base, &[bridge_hook_rule(family, chain)]) {
                table.chains.remove(&chain);
            }
        }
        return;
    }
    for hook in Hook::ALL {
        let is_right = is_in_place(Base::of(hook), &hook_rules(family, hook));
        let mut chains = chains.iter().filter(|chain| is_of(writer, chain));
        let found = chains.find_map(|chain| named(Base::of(hook), chain));
        // A base chain without the right rules counts as missing. A chain with this name at another
        // hook has to be deleted before the right one is created.
        match found {
            _ if is_right => drop(table.hooks.insert(hook, HookPlaces::first())),
            Some(found) if found != (Base::of(hook).hook, Base::of(hook).priority) => {
                table.hooks.insert(hook, HookPlaces { count: 2, in_front: Vec::new() });
            }
            _ => {}
        }
    }
}

/// The hook and priority of a chain that has the name of `base`. A chain without a hook has no hook's number.
pub(super) fn named(base: Base, chain: &[u8]) -> Option<(u32, i32)> {
    find(chain, 3).and_then(text).filter(|name| *name == base.name)?;
    let read = |place| {
        let priority = find(place, 2)?.try_into().ok().map(i32::from_be_bytes)?;
        Some((number(find(place, 1)?)?, priority))
    };
    Some(find(chain, 4).and_then(read).unwrap_or((u32::MAX, 0)))
}

/// The comment by which a rule in the kernel is recognised.
struct Comment<'a> {
    text: Option<&'a str>,
    handle: u64,
}

impl<'a> Comment<'a> {
    fn of(rule: &'a [u8]) -> Self {
        let handle = find(rule, 3).and_then(long).unwrap_or(0);
        Self { text: find(rule, 7).and_then(comment), handle }
    }

    fn unknown(&self) -> Rule {
        Rule::all(Verdict::Unknown(format!("rule with handle {}", self.handle).into()))
    }
}

/// The rules that have these comments.
fn recognise(comments: &[Comment<'_>], desired: &[Line<'_>]) -> Vec<Rule> {
    // Ends the new rules of a chain that still has old ones.
    let end = [Rule::all(Verdict::Return)];
    let end = lines(Family::V4, ChainName::short(""), &end);
    let known: HashMap<&str, &Line<'_>> = desired
        .iter()
        .chain(&end)
        .filter_map(|line| Some((line.kernel.first()?.comment.as_str(), line)))
        .collect();
    let mut rules = Vec::new();
    let mut rest = comments;
    while let [first, after @ ..] = rest {
        rest = after;
        let line = first.text.and_then(|text| known.get(text));
        let others = line.map(|line| line.kernel.get(1..).unwrap_or_default());
        let is_line = |others: &[KernelRule]| {
            let expected = others.iter().map(|rule| Some(rule.comment.as_str()));
            expected.eq(after.iter().take(others.len()).map(|it| it.text))
        };
        match (line, others) {
            (Some(line), Some(others)) if is_line(others) => {
                rules.extend_from_slice(line.rules);
                rest = after.get(others.len()..).unwrap_or_default();
            }
            _ => rules.push(first.unknown()),
        }
    }
    rules
}

/// Whether an object is in the table of `writer`, or is this table.
pub(super) fn is_of(writer: Writer, attributes: &[u8]) -> bool {
    find(attributes, 1).and_then(text) == Some(writer.table())
}

/// The name of a set of members, and its kind and family; `None` if we create no sets of this
/// shape.
pub(super) fn set(family: Family, set: &[u8]) -> Option<(SetName, Option<(Kind, Family)>)> {
    let name = find(set, 2).and_then(text).and_then(SetName::parse)?;
    if !is_of(Writer::of(family), set) {
        return None;
    }
    let get = |kind| find(set, kind).and_then(number);
    let flags = get(3).unwrap_or(0);
    let found = (get(4), get(5), flags, find(set, 11).is_some());
    let is = |kind: &Kind| {
        let (key, flags) = shape(*kind, family);
        let (kind, bytes) = key.number();
        found == (Some(kind), Some(bytes), flags, false)
    };
    let kind = Kind::ALL.into_iter().find(is);
    (!is_own_set(flags)).then(|| (name, kind.map(|kind| (kind, family))))
}

/// The elements in a message that lists those of a set.
pub(super) fn elements(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = find(message, 3).unwrap_or_default();
    read(elements).map(|(_, element)| element)
}

/// The value of the counter of a kind of denial.
pub(super) fn counts(writer: Writer, counter: &[u8]) -> Option<(Denial, Counts)> {
    let kind = find(counter, 2).and_then(text).and_then(denial_of)?;
    let data = find(counter, 4)?;
    let get = |kind| find(data, kind).and_then(long);
    is_of(writer, counter).then_some((kind, Counts { packets: get(2)?, bytes: get(1)? }))
}
