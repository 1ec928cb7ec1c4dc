//! Reads the statements of a rule, one after another.

use std::fmt::Write as _;

use super::comparison::{self, Comparison, address_of, address_text};
use super::listing::{Chain, Limit, Log, Reject, Statement, Update, VerdictMap};
use super::unknown;
use crate::error::Problem;
use crate::matches::{Condition, Question};
use crate::packet::TCP;
use crate::rule::{Rule, Target};

/// A rule, its text, and the name of its counter.
pub(super) struct Read {
    pub(super) rule: Rule,
    pub(super) text: String,
    pub(super) counter: Option<String>,
}

/// A rule of which some statements are read.
#[derive(Debug, Clone, Default)]
struct Draft {
    conditions: Vec<Condition>,
    texts: Vec<String>,
    target: Option<Target>,
    counter: Option<String>,
}

/// The rules that these statements are: one, or one for each element of a map of verdicts.
pub(super) fn rules(statements: Vec<Statement>) -> Result<Vec<Read>, Problem> {
    let mut draft = Draft::default();
    let mut statements = statements.into_iter().peekable();
    while let Some(statement) = statements.next() {
        if draft.target.is_some() {
            return Err(unknown("statement behind a verdict or log", &format!("{statement:?}")));
        }
        match statement {
            Statement::Vmap(map) if statements.peek().is_none() => return draft.elements(map),
            statement => draft.add(statement)?,
        }
    }
    Ok(vec![draft.read()])
}

impl Draft {
    fn read(self) -> Read {
        let Self { conditions, texts, target, counter } = self;
        let family = conditions.iter().find_map(|condition| match &condition.question {
            Question::Address { block, .. } => Some(block.family),
            _ => None,
        });
        let rule = Rule { conditions, target: target.unwrap_or(Target::Nothing), family };
        Read { rule, text: texts.join(" "), counter }
    }

    /// Elements are printed in the order of the kernel's hash: they are sorted.
    fn elements(self, map: VerdictMap) -> Result<Vec<Read>, Problem> {
        let mut elements = Vec::new();
        for (value, verdict) in map.data.set {
            elements.push((comparison::element(&map.key, &value)?, verdict));
        }
        elements.sort_by(|(a, _), (b, _)| (a.network, &a.text).cmp(&(b.network, &b.text)));
        let read = |(comparison, verdict)| {
            let mut draft = self.clone();
            draft.compare(comparison);
            draft.add(verdict)?;
            match draft.target {
                Some(_) => Ok(draft.read()),
                None => Err(Problem::Missing("a verdict")),
            }
        };
        elements.into_iter().map(read).collect()
    }

    /// Some versions of `nft` print the protocol that a field implies, others do not.
    fn compare(&mut self, comparison: Comparison) {
        let implied = comparison.implied_protocol();
        if implied.is_some() && self.texts.last() == implied.as_ref() {
            self.texts.pop();
        }
        self.conditions.extend(comparison.conditions);
        self.texts.push(comparison.text);
    }

    fn end(&mut self, target: Target, text: impl Into<String>) {
        self.target = Some(target);
        self.texts.push(text.into());
    }

    fn add(&mut self, statement: Statement) -> Result<(), Problem> {
        match statement {
            Statement::Match(comparison) => self.compare(comparison::read(&comparison)?),
            Statement::Counter(counter) => match counter.as_str() {
                Some(name) => {
                    self.texts.push(format!("counter name \"{name}\""));
                    self.counter = Some(name.to_owned());
                }
                None => self.texts.push("counter".to_owned()),
            },
            Statement::Set(update) => self.update(&update)?,
            Statement::Limit(limit) => {
                self.conditions.push(rate());
                self.texts.push(limit.text());
            }
            Statement::Log(log) => {
                let text = log.text();
                self.end(Target::Log { prefix: log.prefix }, text);
            }
            Statement::Reject(reject) => self.reject(reject)?,
            Statement::Accept => self.end(Target::Accept, "accept"),
            Statement::Drop => self.end(Target::Drop, "drop"),
            Statement::Return => self.end(Target::Return, "return"),
            Statement::Jump(Chain { target }) => {
                let text = format!("jump {target}");
                self.end(Target::Jump(target), text);
            }
            Statement::Goto(Chain { target }) => {
                let text = format!("goto {target}");
                self.end(Target::Goto(target), text);
            }
            Statement::Vmap(map) => {
                return Err(unknown("statement before others", &format!("{map:?}")));
            }
        }
        Ok(())
    }

    /// A rate for each key of its own.
    fn update(&mut self, update: &Update) -> Result<(), Problem> {
        let unknown = || unknown("update", &format!("{update:?}"));
        let (family, side) = address_of(&update.elem).ok_or_else(unknown)?;
        let [Statement::Limit(limit)] = update.stmt.as_slice() else { return Err(unknown()) };
        let (op, set) = (&update.op, &update.set);
        self.conditions.push(rate());
        let address = address_text(family, side);
        self.texts.push(format!("{op} {set} {{ {address} {} }}", limit.text()));
        Ok(())
    }

    fn reject(&mut self, reject: Option<Reject>) -> Result<(), Problem> {
        let Reject { kind, expr } = reject.unwrap_or(Reject { kind: None, expr: None });
        let answer = expr.as_ref().and_then(|expr| expr.as_str());
        match (kind.as_deref(), answer) {
            // `nft` does not print that it is for TCP only.
            (Some("tcp reset"), None) => {
                let question = Question::Protocol(TCP);
                self.conditions.push(Condition { negated: false, question });
                self.end(Target::Reject, "reject with tcp reset");
            }
            (None, None) | (Some("icmp" | "icmpv6"), Some("port-unreachable")) => {
                self.end(Target::Reject, "reject");
            }
            (Some(kind @ ("icmp" | "icmpv6" | "icmpx")), Some(answer)) => {
                self.end(Target::Reject, format!("reject with {kind} {answer}"));
            }
            (kind, _) => return Err(unknown("answer", &format!("{kind:?} {expr:?}"))),
        }
        Ok(())
    }
}

fn rate() -> Condition {
    Condition { negated: false, question: Question::RateLimit }
}

impl Limit {
    fn text(&self) -> String {
        let Self { rate, per, burst } = self;
        format!("limit rate {rate}/{per} burst {burst} packets")
    }
}

impl Log {
    fn text(&self) -> String {
        let Self { prefix, group, snaplen, queue_threshold } = self;
        let mut text = format!("log prefix \"{prefix}\" group {group}");
        let options = [("snaplen", snaplen), ("queue-threshold", queue_threshold)];
        for (name, value) in options {
            if let Some(value) = value {
                // Writing to memory cannot fail.
                let _ = write!(text, " {name} {value}");
            }
        }
        text
    }
}
