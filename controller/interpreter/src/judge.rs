//! Evaluates the chains that a packet passes.

use std::fmt;

use crate::error::JudgeError;
use crate::matches::Surroundings;
use crate::packet::Packet;
use crate::rule::Target;
use crate::sets::Sets;
use crate::tables::{Chain, Chains, Line, Policy, Table, Tables};

/// The verdict on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet passes to the next table or hook.
    Accept,
    /// The packet is dropped without an answer.
    Drop,
    /// The packet is dropped, and the sender gets an error.
    Reject,
    /// The judgement began in a user-defined chain, from which the packet returned.
    Return,
}

/// Whether rules with a rate limit match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RateLimit {
    /// The rule matches: no packet came before this one.
    #[default]
    Fresh,
    /// The rule does not match: too many packets came before this one.
    Spent,
}

/// A rule that matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The table.
    pub table: Table,
    /// The chain.
    pub chain: String,
    /// The number of the rule in the chain, from 1, as `iptables -L --line-numbers` prints it.
    pub rule: usize,
}

/// A verdict, the rules that led to it, and its cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict on the packet.
    pub verdict: Verdict,
    /// The rules that matched, in their order; the last one decided unless a policy did.
    pub path: Vec<Hit>,
    /// The prefixes of the NFLOG and LOG rules that matched.
    pub logged: Vec<String>,
    /// The mark that the packet carries afterwards.
    pub mark: u32,
    /// How many rules were compared with the packet.
    pub rules_evaluated: usize,
    /// How many sets were looked up.
    pub set_lookups: usize,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after", self.verdict)?;
        for hit in &self.path {
            let table = match hit.table {
                Table::Mangle => "mangle ",
                Table::Bridge => "bridge ",
                Table::Filter | Table::Nftables => "",
            };
            write!(f, " {table}{}:{}", hit.chain, hit.rule)?;
        }
        write!(f, " ({} rules, {} sets)", self.rules_evaluated, self.set_lookups)
    }
}

impl Tables {
    /// Judges a packet by a chain, with fresh rate limits: by a built-in chain in mangle and then
    /// in filter, by a user-defined chain in the table that has it. With nftables, `FORWARD` and
    /// `INPUT` are the hooks of these names.
    ///
    /// # Errors
    ///
    /// The chain does not exist, the packet mixes families, or a rule that the packet meets cannot
    /// be evaluated: it has an address of the wrong family, or a set that does not exist, is of the
    /// wrong family, or has more dimensions than the rule has directions.
    pub fn judge(
        &self,
        sets: &Sets,
        chain: &str,
        packet: &Packet,
    ) -> Result<Judgement, JudgeError> {
        self.judge_limited(sets, chain, packet, RateLimit::Fresh)
    }

    /// Judges a packet by a chain, with rate limits in this state.
    ///
    /// # Errors
    ///
    /// As [`Tables::judge`].
    pub fn judge_limited(
        &self,
        sets: &Sets,
        chain: &str,
        packet: &Packet,
        rate_limit: RateLimit,
    ) -> Result<Judgement, JudgeError> {
        if !packet.is_consistent() || self.family().is_some_and(|own| own != packet.family()) {
            return Err(JudgeError::MixedPacket);
        }
        let mut around = Surroundings { sets, rate_limit, mark: packet.mark, set_lookups: 0 };
        let (mut seen, mut verdict) = (Seen::default(), None);
        for (table, name) in self.entries(chain, packet) {
            let Some(chains) = self.chains.get(&table) else { continue };
            let (position, callers) = (enter(chains, name)?, Vec::new());
            let walk = Walk { table, chains, packet, around: &mut around, callers, position };
            let found = walk.run(&mut seen)?;
            verdict = Some(found);
            if found != Verdict::Accept {
                break;
            }
        }
        let verdict = verdict.ok_or_else(|| JudgeError::NoChain(chain.to_owned()))?;
        let Surroundings { mark, set_lookups, .. } = around;
        let Seen { path, logged, rules: rules_evaluated } = seen;
        Ok(Judgement { verdict, path, logged, mark, rules_evaluated, set_lookups })
    }
}

impl Tables {
    /// The chains that a packet enters one after another: `chain` in each table that has it. With
    /// nftables, the base chains at the hook of this name, after those of bridges.
    fn entries<'a>(&'a self, chain: &'a str, packet: &Packet) -> Vec<(Table, &'a str)> {
        let mut entries = Vec::new();
        for (table, chains) in &self.chains {
            let hooks = match table {
                Table::Mangle | Table::Filter => Vec::new(),
                Table::Nftables => vec![chain.to_lowercase()],
                Table::Bridge => {
                    let enters = packet.in_port.iter().map(|_| "prerouting".to_owned());
                    enters.chain(packet.out_port.iter().map(|_| "forward".to_owned())).collect()
                }
            };
            for hook in hooks {
                let bases = chains.iter().filter_map(|(name, chain)| {
                    let base = chain.base.as_ref().filter(|base| base.hook == hook)?;
                    Some((base.priority, name.as_str()))
                });
                let mut bases: Vec<_> = bases.collect();
                bases.sort_unstable();
                entries.extend(bases.into_iter().map(|(_, name)| (*table, name)));
            }
            if chains.get(chain).is_some_and(|chain| chain.base.is_none()) {
                entries.push((*table, chain));
            }
        }
        entries
    }
}

fn enter<'a>(chains: &'a Chains, name: &'a str) -> Result<Position<'a>, JudgeError> {
    match chains.get(name) {
        Some(chain) => Ok(Position { name, chain, next: 0 }),
        None => Err(JudgeError::NoChain(name.to_owned())),
    }
}

/// A chain, and its next rule.
#[derive(Debug, Clone, Copy)]
struct Position<'a> {
    name: &'a str,
    chain: &'a Chain,
    next: usize,
}

#[derive(Debug)]
struct Walk<'a, 'b> {
    table: Table,
    chains: &'a Chains,
    packet: &'a Packet,
    around: &'b mut Surroundings<'a>,
    /// The callers of the chain. A chain that was left by `-g` is not a caller, so the depth that
    /// `Tables::parse` checked limits the stack.
    callers: Vec<Position<'a>>,
    position: Position<'a>,
}

#[derive(Debug, Default)]
struct Seen {
    path: Vec<Hit>,
    logged: Vec<String>,
    rules: usize,
}

impl<'a> Walk<'a, '_> {
    fn run(mut self, seen: &mut Seen) -> Result<Verdict, JudgeError> {
        let policy = self.position.chain.policy;
        loop {
            let Some(line) = self.position.chain.rules.get(self.position.next) else {
                match self.callers.pop() {
                    Some(caller) => self.position = caller,
                    None => return Ok(policy_verdict(policy)),
                }
                continue;
            };
            self.position.next += 1;
            seen.rules += 1;
            if !self.holds(line)? {
                continue;
            }
            let (table, chain) = (self.table, self.position.name.to_owned());
            seen.path.push(Hit { table, chain, rule: self.position.next });
            match &line.rule.target {
                Target::Nothing => {}
                Target::Log { prefix } => seen.logged.push(prefix.clone()),
                Target::Mark { value, mask } => {
                    self.around.mark = (self.around.mark & !mask) ^ value;
                }
                Target::Accept => return Ok(Verdict::Accept),
                Target::Drop => return Ok(Verdict::Drop),
                Target::Reject => return Ok(Verdict::Reject),
                Target::Return => self.position.next = usize::MAX,
                Target::Jump(chain) => {
                    self.callers.push(self.position);
                    self.position = enter(self.chains, chain)?;
                }
                Target::Goto(chain) => self.position = enter(self.chains, chain)?,
            }
        }
    }

    fn holds(&mut self, line: &'a Line) -> Result<bool, JudgeError> {
        for condition in &line.rule.conditions {
            let holds = condition.holds(self.packet, self.around);
            if !holds.map_err(|reason| JudgeError::Rule {
                chain: self.position.name.to_owned(),
                rule: self.position.next,
                text: line.text.clone(),
                reason,
            })? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn policy_verdict(policy: Option<Policy>) -> Verdict {
    match policy {
        Some(Policy::Accept) => Verdict::Accept,
        Some(Policy::Drop) => Verdict::Drop,
        None => Verdict::Return,
    }
}

#[cfg(test)]
mod tests;
