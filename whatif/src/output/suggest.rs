//! The answer to `suggest`: YAML that kubectl applies, with comments for people; or `kind:
//! Suggestion` of the JSON contract.

use std::collections::BTreeMap;
use std::io::{self, Write};

use policy_engine::reach::PortSet;
use portcullis_crds::manifest::Manifest;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::json::{API_VERSION, Ports, ports};
use super::words;
use crate::advice::Effect;
use crate::suggest::{Asked, Outcome, Suggestion};

/// How many lines of one kind a comment has before the rest is counted.
const SHOWN: usize = 40;

/// The answer to `suggest`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Suggestion")]
pub struct Json {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Suggestion`.
    pub kind: &'static str,
    /// The NetworkPolicies to add, as objects of Kubernetes.
    pub policies: Vec<Value>,
    /// What was asked for.
    pub connections: Vec<Connection>,
    /// What the policies also allow: labels cannot tell pods apart, or an `ipBlock` contains
    /// addresses of pods.
    pub also_allowed: Vec<Side>,
    /// What the policies no longer allow: they isolate pods that were not isolated.
    pub no_longer_allowed: Vec<Side>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

/// A connection that was asked for.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Connection {
    /// What it was called.
    pub name: String,
    /// What became of it.
    pub outcome: Word,
    /// Why no NetworkPolicy can allow it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What became of a connection.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[schemars(rename = "Outcome")]
pub enum Word {
    /// It is allowed without the policies.
    Unchanged,
    /// The policies allow it.
    Added,
    /// No NetworkPolicy can allow it, or a part of it.
    Impossible,
}

/// Connections that change.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Side {
    /// Who connects, as text.
    pub from: String,
    /// Whom it connects to, as text.
    pub to: String,
    /// The ports.
    pub ports: Vec<Ports>,
}

/// The result for each name, in the order of the question, with the ports that cannot be allowed
/// and the reason.
fn outcomes(asked: &[Asked], suggestion: &Suggestion) -> Vec<(Connection, PortSet)> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<(Connection, PortSet)> = Vec::new();
    for (one, outcome) in asked.iter().zip(&suggestion.outcomes) {
        let place = *places.entry(&one.name).or_insert(all.len());
        if place == all.len() {
            let (name, outcome) = (one.name.clone(), Word::Unchanged);
            all.push((Connection { name, outcome, reasons: Vec::new() }, PortSet::default()));
        }
        let Some((connection, ports)) = all.get_mut(place) else { continue };
        let word = match outcome {
            Outcome::Unchanged => Word::Unchanged,
            Outcome::Added => Word::Added,
            Outcome::Impossible(denied, reasons) => {
                ports.add(denied);
                connection.reasons.extend(reasons.iter().cloned());
                Word::Impossible
            }
        };
        connection.outcome = connection.outcome.max(word);
        connection.reasons.sort();
        connection.reasons.dedup();
    }
    all
}

impl Json {
    /// The answer as the contract has it.
    #[must_use]
    pub fn new(asked: &[Asked], suggestion: &Suggestion, diagnostics: Vec<String>) -> Self {
        let side = |effect: &Effect| Side {
            from: effect.from.clone(),
            to: effect.to.clone(),
            ports: ports(&effect.ports),
        };
        let manifest = Manifest::parse("suggestion", &suggestion.policies.join("---\n"));
        let connections = outcomes(asked, suggestion).into_iter().map(|(one, _)| one);
        Self {
            api_version: API_VERSION,
            kind: "Suggestion",
            policies: manifest.documents.iter().map(|one| one.value().clone()).collect(),
            connections: connections.collect(),
            also_allowed: suggestion.effects.allowed.iter().map(side).collect(),
            no_longer_allowed: suggestion.effects.denied.iter().map(side).collect(),
            diagnostics,
        }
    }
}

/// Writes the policies, below comments about what they do.
///
/// # Errors
/// When the output cannot be written.
pub fn yaml(asked: &[Asked], suggestion: &Suggestion, out: &mut dyn Write) -> io::Result<()> {
    let all = outcomes(asked, suggestion);
    let count = |word| all.iter().filter(|(one, _)| one.outcome == word).count();
    let (added, unchanged) = (count(Word::Added), count(Word::Unchanged));
    let head = match suggestion.policies.len() {
        0 => format!("No policy is needed: {}.", allowed(unchanged)),
        1 => format!("This policy allows {}.", connections(added)),
        number => format!("These {number} policies allow {}.", connections(added)),
    };
    let head = match suggestion.policies.len() {
        0 if unchanged == 0 => "No policy can help.".to_owned(),
        1 if unchanged > 0 => format!("{head} Without it, {}.", allowed(unchanged)),
        2.. if unchanged > 0 => format!("{head} Without them, {}.", allowed(unchanged)),
        _ => head,
    };
    writeln!(out, "# {head}")?;
    let impossible: Vec<String> = all
        .iter()
        .filter(|(one, _)| one.outcome == Word::Impossible)
        .map(|(one, ports)| {
            format!("{} ({}): {}", one.name, words::ports(ports), one.reasons.join("; "))
        })
        .collect();
    comment("No NetworkPolicy can allow these:", &impossible, out)?;
    let effects = |all: &[Effect]| -> Vec<String> {
        let line = |one: &Effect| {
            format!("{}  from {}  to {}", words::ports(&one.ports), one.from, one.to)
        };
        all.iter().map(line).collect()
    };
    let also = effects(&suggestion.effects.allowed);
    comment("Also allowed, although it was not asked for:", &also, out)?;
    let lost = effects(&suggestion.effects.denied);
    comment("No longer allowed, because pods are isolated that were not:", &lost, out)?;
    for (number, policy) in suggestion.policies.iter().enumerate() {
        if number > 0 {
            writeln!(out, "---")?;
        }
        out.write_all(policy.as_bytes())?;
    }
    Ok(())
}

fn allowed(count: usize) -> String {
    match count {
        1 => "1 connection is allowed already".to_owned(),
        _ => format!("{count} connections are allowed already"),
    }
}

fn connections(count: usize) -> String {
    match count {
        1 => "1 connection that is denied".to_owned(),
        _ => format!("{count} connections that are denied"),
    }
}

fn comment(title: &str, lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "# {title}")?;
    for line in lines.iter().take(SHOWN) {
        writeln!(out, "#   {line}")?;
    }
    let more = lines.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(out, "#   and {more} more; -o json lists all")?;
    }
    Ok(())
}
