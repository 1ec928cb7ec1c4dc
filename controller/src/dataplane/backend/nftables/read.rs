//! Reads what nftables holds of ours from the attributes that the kernel lists. Pure.

use std::collections::{BTreeMap, HashMap};

use policy_engine::cidr::Family;

use super::attributes::{find, long, number, read, text};
use super::encode::{Line, lines};
use super::message::{TABLE, base_chain, comment, hook_place, is_own_set};
use super::sets::shape;
use super::transaction::{denial_of, hook_rules};
use crate::dataplane::applied::{HookPlaces, Table};
use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::name::{ChainName, SetName};
use crate::dataplane::rule::{Chains, Hook, Rule, Verdict};
use crate::dataplane::set::Kind;

/// Reads our table of `family`. Rules that have the comment of a rule of `desired` are these.
pub(super) fn table(
    family: Family,
    chains: &[Vec<u8>],
    rules: &[Vec<u8>],
    desired: &Chains,
) -> Table {
    let mut table = Table::default();
    let mut comments: BTreeMap<&str, Vec<Comment<'_>>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| is_ours(rule)) {
        if let Some(chain) = find(rule, 2).and_then(text) {
            comments.entry(chain).or_default().push(Comment::of(rule));
        }
    }
    for chain in chains.iter().filter(|chain| is_ours(chain)) {
        let Some(name) = find(chain, 3).and_then(text) else { continue };
        let of_chain = comments.get(name).map(Vec::as_slice).unwrap_or_default();
        if let Some(own) = ChainName::parse(name) {
            let desired = desired.get(&own).map(|rules| lines(family, own, rules));
            let rules = recognise(of_chain, &desired.unwrap_or_default());
            table.chains.insert(own, rules.into());
        } else if let Some(hook) = Hook::ALL.into_iter().find(|hook| base_chain(*hook) == name) {
            table.hooks.insert(hook, hook_places(family, hook, chain, of_chain));
        }
    }
    table
}

/// Where the hook is whose chain has these attributes and rules.
fn hook_places(family: Family, hook: Hook, chain: &[u8], rules: &[Comment<'_>]) -> HookPlaces {
    let place = find(chain, 4).and_then(|place| {
        let priority = find(place, 2)?.try_into().ok().map(i32::from_be_bytes)?;
        Some((number(find(place, 1)?)?, priority))
    });
    let expected = hook_rules(family, hook);
    let expected = expected.iter().map(|rule| Some(rule.comment.as_str()));
    let is_right = place == Some(hook_place(hook)) && expected.eq(rules.iter().map(|it| it.text));
    if is_right { HookPlaces::first() } else { HookPlaces::default() }
}

/// What a rule in the kernel is recognised by.
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
        let is_line = |others: &[super::encode::KernelRule]| {
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

fn is_ours(attributes: &[u8]) -> bool {
    find(attributes, 1).and_then(text) == Some(TABLE)
}

/// The name of a set of members, and its kind and family; none for a set that we would not make so.
pub(super) fn set(family: Family, set: &[u8]) -> Option<(SetName, Option<(Kind, Family)>)> {
    let name = find(set, 2).and_then(text).and_then(SetName::parse).filter(|_| is_ours(set))?;
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

/// What a counter of a kind of denial has counted.
pub(super) fn counts(counter: &[u8]) -> Option<(Denial, Counts)> {
    let kind = find(counter, 2).and_then(text).and_then(denial_of)?;
    let data = find(counter, 4)?;
    let get = |kind| find(data, kind).and_then(long);
    is_ours(counter).then_some((kind, Counts { packets: get(2)?, bytes: get(1)? }))
}
