//! The tables mangle and filter of `iptables-save` or `ip6tables-save`: chains, policies, rules.
//!
//! Rules of other tables are skipped. Text that the kernel would refuse is refused here: a target
//! that is not a chain, chains in a loop, chains that are too deep.

use std::collections::BTreeMap;

use crate::error::{ParseError, Problem};
use crate::packet::Family;
use crate::rule::{CHAIN_LENGTH_MAX, Rule, Target};
use crate::words::{Words, parse};

/// The kernel's `NFT_JUMP_STACK_SIZE` less the built-in chain: how many user-defined chains can
/// follow one another. `nf_tables` counts `-g` like `-j` when it validates; the legacy variant has
/// no such limit, but rules must load in both.
pub const CHAIN_DEPTH_MAX: usize = 15;

/// The tables that judge a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub(crate) chains: BTreeMap<Table, Chains>,
    pub(crate) family: Option<Family>,
}

/// The chains of one table.
pub(crate) type Chains = BTreeMap<String, Chain>;

/// A table, in the order in which packets pass them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `mangle`.
    Mangle,
    /// `filter`.
    Filter,
    /// A table of nftables for frames of bridges. A packet that a bridge handles passes it first.
    Bridge,
    /// A table of nftables for packets of one IP family.
    Nftables,
}

impl Table {
    /// The chains that the kernel has in it.
    fn built_in(self) -> &'static [&'static str] {
        match self {
            Self::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            Self::Filter => &["INPUT", "FORWARD", "OUTPUT"],
            Self::Bridge | Self::Nftables => &[],
        }
    }
}

/// A chain's policy, if it is a built-in one, and its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) policy: Option<Policy>,
    pub(crate) rules: Vec<Line>,
    /// The hook from which packets enter the chain: only for chains of nftables.
    pub(crate) base: Option<Base>,
}

/// A hook of the kernel by its name, and the place among the chains there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Base {
    pub(crate) hook: String,
    pub(crate) priority: i32,
}

/// The policy of a built-in chain: the verdict on a packet that no rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// A rule and its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) rule: Rule,
    pub(crate) text: String,
    /// How many packets the rule has matched; `None` if they are not counted.
    pub(crate) packets: Option<u64>,
    /// The line of the text; for nftables, the handle of the rule.
    pub(crate) number: usize,
}

/// The number of chains and rules, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainSizes {
    /// How many chains.
    pub chains: usize,
    /// How many rules they hold together.
    pub rules: usize,
}

/// The place of a line in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Within(Table),
    OtherTable,
}

impl Tables {
    /// Reads the text of `iptables-save` or `ip6tables-save`, with or without `-c`, of one table
    /// or of all; of either variant.
    ///
    /// # Errors
    ///
    /// Text in these tables that the interpreter does not understand or the kernel would refuse, by
    /// its line. A text without these tables has no chains and is no error.
    pub fn parse(iptables_save: &str) -> Result<Self, ParseError> {
        let mut tables = Self::default();
        let mut place = Place::Outside;
        for (index, text) in iptables_save.lines().enumerate() {
            let at = |problem| error(index + 1, text, problem);
            place = tables.read(index + 1, text.trim(), place).map_err(at)?;
        }
        if place != Place::Outside {
            let last = iptables_save.lines().count();
            return Err(error(last, "", Problem::Missing("COMMIT")));
        }
        tables.chains.values().try_for_each(check_targets)?;
        Ok(tables)
    }

    /// The family of the text, if its addresses or its heading show it.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// The sizes of the chains whose names begin with `prefix`, of both tables.
    #[must_use]
    pub fn sizes(&self, prefix: &str) -> ChainSizes {
        let all = self.chains.values().flatten();
        let named = all.filter(|(name, _)| name.starts_with(prefix));
        named.fold(ChainSizes::default(), |sum, (_, chain)| ChainSizes {
            chains: sum.chains + 1,
            rules: sum.rules + chain.rules.len(),
        })
    }

    /// How many packets each rule had matched, by table and chain and in the order of its rules;
    /// zero where the text has no counters.
    #[must_use]
    pub fn packet_counts(&self) -> BTreeMap<(Table, &str), Vec<u64>> {
        let counts =
            |chain: &Chain| chain.rules.iter().map(|line| line.packets.unwrap_or(0)).collect();
        let chains = self.chains.iter().flat_map(|(table, chains)| {
            chains.iter().map(move |(name, chain)| ((*table, name.as_str()), chain))
        });
        chains.map(|(name, chain)| (name, counts(chain))).collect()
    }

    fn read(&mut self, number: usize, text: &str, place: Place) -> Result<Place, Problem> {
        if text.is_empty() {
            return Ok(place);
        }
        if let Some(heading) = text.strip_prefix('#') {
            return self.read_heading(heading).map(|()| place);
        }
        match (place, text.strip_prefix('*')) {
            (Place::Outside, Some("mangle")) => return self.enter_table(Table::Mangle),
            (Place::Outside, Some("filter")) => return self.enter_table(Table::Filter),
            (Place::Outside, Some(_)) => return Ok(Place::OtherTable),
            (Place::Outside, None) => return Err(unknown_line(text)),
            (Place::Within(_) | Place::OtherTable, Some(_)) => {
                return Err(Problem::Missing("COMMIT"));
            }
            (Place::Within(_) | Place::OtherTable, None) if text == "COMMIT" => {
                return Ok(Place::Outside);
            }
            (Place::OtherTable, None) => return Ok(place),
            (Place::Within(table), None) => match text.strip_prefix(':') {
                Some(chain) => self.read_chain(table, &mut Words::of_iptables(chain)?)?,
                None => self.read_rule(table, number, text)?,
            },
        }
        Ok(place)
    }

    fn enter_table(&mut self, table: Table) -> Result<Place, Problem> {
        match self.chains.insert(table, Chains::new()) {
            None => Ok(Place::Within(table)),
            Some(_) => Err(Problem::Duplicate { what: "table", name: format!("{table:?}") }),
        }
    }

    /// `Generated by ip6tables-save v1.8.9 on …`
    fn read_heading(&mut self, heading: &str) -> Result<(), Problem> {
        match heading.trim().strip_prefix("Generated by ") {
            Some(by) if by.starts_with("ip6tables") => self.set_family(Family::V6, heading),
            Some(by) if by.starts_with("iptables") => self.set_family(Family::V4, heading),
            _ => Ok(()),
        }
    }

    pub(crate) fn set_family(&mut self, family: Family, text: &str) -> Result<(), Problem> {
        if *self.family.get_or_insert(family) == family {
            Ok(())
        } else {
            Err(Problem::OtherFamily(text.to_owned()))
        }
    }

    /// `FORWARD DROP [0:0]`, `MINE - [0:0]`
    fn read_chain(&mut self, table: Table, words: &mut Words) -> Result<(), Problem> {
        let name = words.take("the chain's name")?;
        if name.len() > CHAIN_LENGTH_MAX {
            let what = format!("the length of `{name}`");
            return Err(Problem::Exceeds { what, limit: CHAIN_LENGTH_MAX });
        }
        let built_in = table.built_in().contains(&name.as_str());
        let policy = words.take("the chain's policy")?;
        let policy = match policy.as_str() {
            "ACCEPT" if built_in => Some(Policy::Accept),
            "DROP" if built_in => Some(Policy::Drop),
            "-" if !built_in => None,
            _ => return Err(Problem::Bad { what: "a policy of this chain", word: policy }),
        };
        if let Some(counters) = words.next() {
            packets(&counters)?;
        }
        no_more(words)?;
        let chain = Chain { policy, rules: Vec::new(), base: None };
        match self.chains.entry(table).or_default().insert(name.clone(), chain) {
            None => Ok(()),
            Some(_) => Err(Problem::Duplicate { what: "chain", name }),
        }
    }

    /// `[12:720] -A FORWARD -j MINE`, the counters only with `-c`.
    fn read_rule(&mut self, table: Table, number: usize, text: &str) -> Result<(), Problem> {
        let mut words = Words::of_iptables(text)?;
        let mut command = words.take("a command")?;
        let mut counted = None;
        if command.starts_with('[') {
            counted = Some(packets(&command)?);
            command = words.take("a command")?;
        }
        if command != "-A" {
            return Err(Problem::Unknown { what: "command", word: command });
        }
        let name = words.take("the chain's name")?;
        let rule = Rule::read(&mut words)?;
        if let Some(family) = rule.family {
            self.set_family(family, text)?;
        }
        if table == Table::Mangle && rule.target == Target::Reject {
            return Err(Problem::Needs { what: "REJECT".to_owned(), needs: "the filter table" });
        }
        let line = Line { rule, text: text.to_owned(), packets: counted, number };
        match self.chains.entry(table).or_default().get_mut(&name) {
            Some(chain) => chain.rules.push(line),
            None => return Err(Problem::Absent { what: "chain", name }),
        }
        Ok(())
    }
}

/// Checks that each target is a user-defined chain of its table, in no loop and not too deep.
pub(crate) fn check_targets(chains: &Chains) -> Result<(), ParseError> {
    let mut depths = BTreeMap::new();
    for name in chains.keys() {
        depth(chains, name, &mut Vec::new(), &mut depths)?;
    }
    Ok(())
}

/// How many user-defined chains follow one another from here, this one included.
fn depth<'a>(
    chains: &'a Chains,
    name: &'a str,
    above: &mut Vec<&'a str>,
    known: &mut BTreeMap<&'a str, usize>,
) -> Result<usize, ParseError> {
    if let Some(&known) = known.get(name) {
        return Ok(known);
    }
    above.push(name);
    let chain = chains.get(name);
    let own = usize::from(chain.is_some_and(|chain| chain.policy.is_none()));
    let mut deepest = own;
    for line in chain.iter().flat_map(|chain| &chain.rules) {
        let (Target::Jump(next) | Target::Goto(next)) = &line.rule.target else { continue };
        let at = |problem| error(line.number, &line.text, problem);
        if chains.get(next).is_none_or(|next| next.policy.is_some()) {
            return Err(at(Problem::Absent { what: "user-defined chain", name: next.clone() }));
        }
        if above.contains(&next.as_str()) {
            return Err(at(Problem::Loop(next.clone())));
        }
        deepest = deepest.max(own + depth(chains, next, above, known)?);
        if deepest > CHAIN_DEPTH_MAX {
            let what = "the number of chains that follow one another".to_owned();
            return Err(at(Problem::Exceeds { what, limit: CHAIN_DEPTH_MAX }));
        }
    }
    above.pop();
    known.insert(name, deepest);
    Ok(deepest)
}

fn error(line: usize, text: &str, problem: Problem) -> ParseError {
    ParseError { line, text: text.to_owned(), problem }
}

fn unknown_line(text: &str) -> Problem {
    Problem::Unknown { what: "line outside a table", word: text.to_owned() }
}

fn no_more(words: &mut Words) -> Result<(), Problem> {
    match words.next() {
        None => Ok(()),
        Some(word) => Err(Problem::Unknown { what: "word", word }),
    }
}

/// The first of `[packets:bytes]`.
fn packets(word: &str) -> Result<u64, Problem> {
    const WHAT: &str = "a pair of counters";
    let bad = || Problem::Bad { what: WHAT, word: word.to_owned() };
    let inner = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or_else(bad)?;
    let (packets, bytes) = inner.split_once(':').ok_or_else(bad)?;
    parse::<u64>(bytes, WHAT)?;
    parse(packets, WHAT)
}

#[cfg(test)]
mod tests;
