//! Reads tables and sets of nftables as `nft -j list` prints them.
//!
//! A map of verdicts becomes one rule for each of its elements, so that each can be named. The texts of
//! rules are those of `nft`, in one spelling: elements are sorted, and bits of headers have their names.

mod comparison;
mod listing;
mod statement;
mod value;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::listing::{ChainObject, CounterObject, Listing, RuleObject, SetObject, TableObject};
use crate::error::{ParseError, Problem};
use crate::matches::{Condition, Question};
use crate::packet::Family;
use crate::sets::Sets;
use crate::tables::{Base, Chain, Chains, Line, Policy, Table, Tables, check_targets};

/// A rule of nftables, or one element of its map of verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftRule {
    /// The handle of the rule.
    pub handle: usize,
    /// The text of the rule.
    pub text: String,
    /// How many packets its named counter has counted; `None` without such a counter.
    pub packets: Option<u64>,
}

impl Tables {
    /// Reads the JSON of `nft -j list table`, one text for each table: one table of the family `ip` or
    /// `ip6`, and at most one of the family `bridge` for the same packets. Sets are left out.
    ///
    /// # Errors
    ///
    /// Text that the interpreter does not understand or the kernel would refuse, by the number of
    /// the object in its text.
    pub fn parse_nftables(listings: &[impl AsRef<str>]) -> Result<Self, ParseError> {
        let mut tables = Self::default();
        for listing in listings {
            tables.add_listing(listing.as_ref())?;
        }
        tables.chains.values().try_for_each(check_targets)?;
        Ok(tables)
    }

    /// The rules of each chain of nftables, in their order.
    #[must_use]
    pub fn nft_rules(&self) -> BTreeMap<(Table, &str), Vec<NftRule>> {
        let rule = |line: &Line| NftRule {
            handle: line.number,
            text: line.text.clone(),
            packets: line.packets,
        };
        let chains = self.chains.iter().flat_map(|(table, chains)| {
            chains.iter().map(move |(name, chain)| ((*table, name.as_str()), chain))
        });
        chains.map(|(name, chain)| (name, chain.rules.iter().map(rule).collect())).collect()
    }

    fn add_listing(&mut self, listing: &str) -> Result<(), ParseError> {
        let objects = objects(listing)?;
        let mut table = None;
        let mut counters = BTreeMap::new();
        for (number, kind, value) in &objects {
            let at = |problem| error(*number, value, problem);
            match (kind.as_str(), table) {
                ("table", None) => {
                    let object: TableObject = read(value).map_err(at)?;
                    table = Some(self.enter(&object.family).map_err(at)?);
                }
                ("chain", Some(table)) => {
                    let object: ChainObject = read(value).map_err(at)?;
                    self.add_chain(table, object).map_err(at)?;
                }
                ("counter", Some(_)) => {
                    let object: CounterObject = read(value).map_err(at)?;
                    counters.insert(object.name, object.packets);
                }
                ("rule", Some(table)) => {
                    let object: RuleObject = read(value).map_err(at)?;
                    self.add_rule(table, object, &counters).map_err(at)?;
                }
                ("metainfo", _) | ("set", Some(_)) => {}
                _ => return Err(at(unknown("object", kind))),
            }
        }
        Ok(())
    }

    fn enter(&mut self, family: &str) -> Result<Table, Problem> {
        let table = match family {
            "bridge" => Table::Bridge,
            "ip" | "ip6" => Table::Nftables,
            _ => return Err(unknown("family", family)),
        };
        if table == Table::Nftables {
            self.set_family(named_family(family)?, family)?;
        }
        match self.chains.insert(table, Chains::new()) {
            None => Ok(table),
            Some(_) => Err(Problem::Duplicate { what: "table", name: family.to_owned() }),
        }
    }

    fn add_chain(&mut self, table: Table, object: ChainObject) -> Result<(), Problem> {
        let ChainObject { name, hook, prio, policy } = object;
        let policy = match policy.as_deref() {
            None => None,
            Some("accept") => Some(Policy::Accept),
            Some("drop") => Some(Policy::Drop),
            Some(other) => return Err(unknown("policy", other)),
        };
        let base = hook.map(|hook| Base { hook, priority: prio.unwrap_or(0) });
        if base.is_some() != policy.is_some() {
            return Err(Problem::Missing("hook or policy"));
        }
        let chain = Chain { policy, rules: Vec::new(), base };
        match self.chains.entry(table).or_default().insert(name.clone(), chain) {
            None => Ok(()),
            Some(_) => Err(Problem::Duplicate { what: "chain", name }),
        }
    }

    fn add_rule(
        &mut self,
        table: Table,
        object: RuleObject,
        counters: &BTreeMap<String, u64>,
    ) -> Result<(), Problem> {
        let read = statement::rules(object.expr)?;
        let chains = self.chains.entry(table).or_default();
        let absent = || Problem::Absent { what: "chain", name: object.chain.clone() };
        let chain = chains.get_mut(&object.chain).ok_or_else(absent)?;
        let mut families = Vec::new();
        for statement::Read { mut rule, text, counter } in read {
            families.extend(rule.family);
            if table == Table::Bridge {
                rule.conditions.iter_mut().for_each(to_port);
            }
            let packets = counter.and_then(|name| counters.get(&name).copied());
            chain.rules.push(Line { rule, text, packets, number: object.handle });
        }
        families.into_iter().try_for_each(|family| self.set_family(family, &object.chain))
    }
}

impl Sets {
    /// Adds the sets in the JSON of `nft -j list table` or `nft -j list set`. Sets whose elements
    /// expire are left out: rules only add elements to them.
    ///
    /// # Errors
    ///
    /// A set or element that the interpreter does not understand, by the number of the object.
    pub fn add_nftables(&mut self, listing: &str) -> Result<(), ParseError> {
        for (number, kind, value) in objects(listing)? {
            let at = |problem| error(number, &value, problem);
            if kind != "set" {
                continue;
            }
            let object: SetObject = read(&value).map_err(at)?;
            if object.timeout.is_some() {
                continue;
            }
            let family = named_family(&object.family).map_err(at)?;
            let has_ports = value::has_ports(&object.kind, family).map_err(at)?;
            let elements = object.elem.iter().map(|element| value::element(element, has_ports));
            let elements = elements.collect::<Result<Vec<_>, _>>().map_err(at)?;
            let elements = elements.into_iter().flatten().collect();
            self.insert(object.name, family, has_ports, elements).map_err(at)?;
        }
        Ok(())
    }
}

/// In tables for bridges, interfaces are the ports of the bridge.
fn to_port(condition: &mut Condition) {
    if let Question::Interface { side, name } = &condition.question {
        condition.question = Question::BridgePort { side: *side, name: name.clone() };
    }
}

fn named_family(name: &str) -> Result<Family, Problem> {
    match name {
        "ip" => Ok(Family::V4),
        "ip6" => Ok(Family::V6),
        _ => Err(unknown("family", name)),
    }
}

/// The objects of a listing: their numbers, types and values.
fn objects(listing: &str) -> Result<Vec<(usize, String, Value)>, ParseError> {
    let parsed: Listing = serde_json::from_str(listing)
        .map_err(|problem| error(0, &Value::Null, unknown("text", &problem.to_string())))?;
    let objects = parsed.nftables.into_iter().enumerate();
    let objects = objects.flat_map(|(index, object)| {
        object.into_iter().map(move |(kind, it)| (index + 1, kind, it))
    });
    Ok(objects.collect())
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    T::deserialize(value).map_err(|problem| unknown("part", &problem.to_string()))
}

fn error(line: usize, value: &Value, problem: Problem) -> ParseError {
    ParseError { line, text: value.to_string(), problem }
}

fn unknown(what: &'static str, word: &str) -> Problem {
    Problem::Unknown { what, word: word.to_owned() }
}

#[cfg(test)]
mod tests;
