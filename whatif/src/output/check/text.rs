//! One verdict in words: the answer, both directions, the closest rule, what to do.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::{Explanation, NearMiss};
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::reach::Reach;
use policy_engine::words::few;
use portcullis_crds::diagnostic::Origin;
use portcullis_crds::path::FieldPath;

use super::advice::lines;
use super::excerpt::{Mark, excerpt};
use crate::advice::advise;
use crate::judge::{Answer, Over, Part, Verdict};
use crate::model::Cluster;
use crate::output::names::short;
use crate::output::words;

/// How many parts are written before the rest is counted.
const PARTS_SHOWN: usize = 8;

/// Writes an answer; with `explain` every rule, and excerpts of the manifests in `texts`.
///
/// # Errors
/// When the output cannot be written.
pub fn text(
    cluster: &Cluster,
    answer: &Answer,
    texts: Option<&BTreeMap<Arc<str>, String>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (source, destination) = (short(&answer.source), short(&answer.destination));
    // Only the advice may need the reachability of the whole cluster.
    let whole = OnceCell::new();
    if let [part] = answer.parts.as_slice() {
        writeln!(out, "{}", headline(part))?;
        details(cluster, &whole, part, texts, out)?;
    } else {
        writeln!(
            out,
            "{:?}: {source} to {destination}, in {} parts.",
            answer.verdict,
            answer.parts.len()
        )?;
        // Denied connections come first, because users look for them.
        let mut parts: Vec<&Part> = answer.parts.iter().collect();
        parts.sort_by_key(|part| part.verdict == Verdict::Allowed);
        for part in parts.iter().take(PARTS_SHOWN) {
            writeln!(out, "\n{}", headline(part))?;
            details(cluster, &whole, part, texts, out)?;
        }
        let more = parts.len().saturating_sub(PARTS_SHOWN);
        if more > 0 {
            writeln!(out, "\n… and {more} more parts; -o json tells all.")?;
        }
    }
    let denied = answer.parts.iter().any(|part| part.verdict == Verdict::Denied);
    if denied && texts.is_none() {
        writeln!(out, "\n--explain shows every rule and its lines.")?;
    }
    Ok(())
}

fn headline(part: &Part) -> String {
    let (from, to, over) = (from(part), to(part), over(part));
    let verdict = part.verdict;
    let Some(asked) = &part.asked else {
        return match verdict {
            Verdict::Denied => format!("Denied: {from} may open nothing at {to}{over}."),
            Verdict::Allowed => {
                format!("Allowed: {from} may open {} at {to}{over}.", words::ports(&part.allowed))
            }
            Verdict::Mixed | Verdict::Undetermined if part.allowed.is_empty() => {
                format!("{verdict:?}: {from} may open nothing at {to}{over}.")
            }
            Verdict::Mixed | Verdict::Undetermined => format!(
                "{verdict:?}: {from} may open {} at {to}{over}, and nothing else.",
                words::ports(&part.allowed)
            ),
        };
    };
    let port_words = words::port(asked.protocol, asked.number);
    let via = asked.service_port.filter(|service| *service != asked.number);
    let via = via.map(|number| format!(" (the Service's {number})")).unwrap_or_default();
    match verdict {
        Verdict::Denied => format!("Denied: {from} may not open {port_words}{via} at {to}{over}."),
        Verdict::Undetermined => {
            format!("Undetermined: whether {from} may open {port_words}{via} at {to}{over}.")
        }
        Verdict::Allowed | Verdict::Mixed => {
            format!("Allowed: {from} may open {port_words}{via} at {to}{over}.")
        }
    }
}

/// The addresses that a part holds for, if other addresses are treated differently.
fn over(part: &Part) -> String {
    match part.over {
        None => String::new(),
        Some(Over::Family(family)) => format!(" over {}", family.as_str()),
        Some(Over::Addresses(from, to)) => format!(" from {from} to {to}"),
    }
}

fn from(part: &Part) -> String {
    side(&part.flow.source, &part.sources, part)
}

fn to(part: &Part) -> String {
    side(&part.flow.destination, &part.destinations, part)
}

fn side(side: &Endpoint, names: &[String], part: &Part) -> String {
    match (side, &part.outside) {
        (Endpoint::External(_), Some(set)) if names.len() > 1 => words::addresses(set),
        _ => list(names),
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    few(names.iter().map(|name| short(name)), SHOWN)
}

fn details<'c>(
    cluster: &'c Cluster,
    whole: &OnceCell<Reach<'c>>,
    part: &Part,
    texts: Option<&BTreeMap<Arc<str>, String>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out)?;
    let judged = part.decisions();
    let sides = [
        (
            Direction::Egress,
            &judged.egress,
            &part.explanation.egress,
            from(part),
            &part.flow.source,
        ),
        (
            Direction::Ingress,
            &judged.ingress,
            &part.explanation.ingress,
            to(part),
            &part.flow.destination,
        ),
    ];
    for (direction, decision, misses, names, side) in &sides {
        let direction = *direction;
        let word = direction.as_str().to_lowercase();
        let allowed = if decision.is_allowed() { "allowed" } else { "denied" };
        let at = denied_at(cluster, direction, decision);
        let at = at.map(|origin| format!(" ({origin})")).unwrap_or_default();
        writeln!(out, "  {word:<8} {allowed:<8} {}{at}", why(decision, names, side))?;
        if let Some(closest) = misses.first() {
            near_miss(cluster, direction, closest, part.flow.traffic, "closest is ", out)?;
        }
        if texts.is_some() {
            for miss in misses.iter().skip(1) {
                near_miss(cluster, direction, miss, part.flow.traffic, "", out)?;
            }
        }
    }
    if let Some(would) = &part.would_be {
        for (direction, _, _, names, side) in &sides {
            if would.changed.contains(direction) {
                let decision = would.explanation.verdict.decision(*direction);
                let at = denied_at(cluster, *direction, decision);
                let at = at.map(|origin| format!(" ({origin})")).unwrap_or_default();
                let word = direction.as_str().to_lowercase();
                writeln!(out, "  in audit: {word} {}{at}", would_be(decision, names, side))?;
            }
        }
        if part.asked.is_none() {
            writeln!(out, "  in audit: {} would be allowed", words::ports(&would.allowed))?;
        }
    }
    if part.asked.is_none() && part.verdict == Verdict::Denied {
        writeln!(out, "  (explained for {})", part.flow.traffic)?;
    }
    for note in &part.notes {
        writeln!(out, "  note: {note}")?;
    }
    let passes = judged.is_allowed();
    for (direction, decision, misses, ..) in &sides {
        // For a denied connection, only the directions that deny it.
        let is_relevant = passes || !decision.is_allowed();
        if let Some(texts) = texts.filter(|_| is_relevant) {
            excerpts(cluster, *direction, decision, misses, part.flow.traffic, texts, out)?;
        }
    }
    if !passes {
        writeln!(out)?;
        let advice = advise(cluster, whole, part);
        lines(part, &advice).iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    Ok(())
}

fn why(decision: &Decision, name: &str, side: &Endpoint) -> String {
    let why = match decision.reason {
        Reason::NoSubject => match side {
            Endpoint::Pod(..) => {
                format!("{name} uses the network of its node: NetworkPolicies do not apply to it")
            }
            Endpoint::Node(..) => {
                "NetworkPolicies do not apply to nodes and hostNetwork pods".to_owned()
            }
            Endpoint::External(_) => {
                "NetworkPolicies do not apply to external addresses".to_owned()
            }
        },
        Reason::NotIsolated => format!("no policy isolates {name}"),
        Reason::RuleAllows | Reason::RuleAccepts | Reason::RuleDenies => words::decided(decision),
        Reason::SamePod => "a pod always reaches itself".to_owned(),
        Reason::OwnNode => "a node always reaches its pods".to_owned(),
        Reason::EgressToOwnNode => "egress to the own node is exempt, by choice".to_owned(),
        Reason::NoRuleAllows => format!("{}; no rule allows", words::isolated(decision)),
    };
    format!("{}{why}", words::passed(decision))
}

/// The result if the policies in audit were enforced.
fn would_be(decision: &Decision, name: &str, side: &Endpoint) -> String {
    let why = why(decision, name, side);
    match decision.reason {
        Reason::NotIsolated => format!("would be allowed: {why}"),
        _ => format!("would be {why}"),
    }
}

/// The reasons why a flow is allowed or denied: both directions, and the closest rule for a denial.
#[must_use]
pub fn reasons(
    cluster: &Cluster,
    flow: &Flow,
    explanation: &Explanation,
    from: &str,
    to: &str,
) -> Vec<String> {
    let judged = &explanation.verdict;
    let sides = [
        (Direction::Egress, &judged.egress, &explanation.egress, from, &flow.source),
        (Direction::Ingress, &judged.ingress, &explanation.ingress, to, &flow.destination),
    ];
    let mut lines = Vec::new();
    for (direction, decision, misses, name, side) in sides {
        let word = direction.as_str().to_lowercase();
        let allowed = if decision.is_allowed() { "allowed" } else { "denied" };
        let at = denied_at(cluster, direction, decision);
        let at = at.map(|origin| format!(" ({origin})")).unwrap_or_default();
        lines.push(format!("{word:<8} {allowed:<8} {}{at}", why(decision, &short(name), side)));
        for decided in decision.decided_by.iter().filter(|_| judged.is_allowed()) {
            if let Some(origin) = cluster.rule_origin(&decided.policy, direction, decided.rule) {
                lines.push(format!("                  {decided} is at {origin}"));
            }
        }
        let Some(closest) = misses.first() else { continue };
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = near_miss(cluster, direction, closest, flow.traffic, "closest is ", &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        lines.extend(text.lines().map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned()));
    }
    lines
}

/// The place of the rule that denies.
fn denied_at(cluster: &Cluster, direction: Direction, decision: &Decision) -> Option<Origin> {
    let denying = decision.decided_by.first().filter(|_| !decision.is_allowed())?;
    cluster.rule_origin(&denying.policy, direction, denying.rule)
}

/// A rule and every part of it that failed, indented below its direction.
fn near_miss(
    cluster: &Cluster,
    direction: Direction,
    miss: &NearMiss,
    traffic: Traffic,
    prefix: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    const INDENT: &str = "                    ";
    let origin = cluster.rule_origin(&miss.rule.policy, direction, miss.rule.rule);
    let origin = origin.map(|origin| format!(" ({origin})")).unwrap_or_default();
    writeln!(out, "{INDENT}{prefix}{}{origin}", miss.rule)?;
    let peers = miss.peers.iter().map(|peer| ("peer", words::peer_miss(peer)));
    let ports = miss.ports.iter().map(|port| ("port", words::port_miss(port, traffic)));
    for (number, (what, words)) in numbered(peers).chain(numbered(ports)) {
        writeln!(out, "{INDENT}  {what} {number} {words}")?;
    }
    Ok(())
}

fn numbered<T>(items: impl Iterator<Item = T>) -> impl Iterator<Item = (usize, T)> {
    items.enumerate().map(|(index, item)| (index + 1, item))
}

/// The lines of the closest rule, or of the rule that allows.
fn excerpts(
    cluster: &Cluster,
    direction: Direction,
    decision: &Decision,
    misses: &[NearMiss],
    traffic: Traffic,
    texts: &BTreeMap<Arc<str>, String>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut marks: Vec<(Origin, String)> = Vec::new();
    let mut mark = |rule: &RuleRef, part: Option<(&str, usize)>, label: String| {
        let field = FieldPath::of_rule(direction, rule.rule);
        let field = match part {
            Some((list, at)) => field.key(list).index(at),
            None => field,
        };
        marks.extend(cluster.field_origin(&rule.policy, &field).map(|origin| (origin, label)));
    };
    let closest = misses.first().filter(|_| decision.reason != Reason::RuleDenies);
    let title = if let Some(closest) = closest {
        for (at, peer) in closest.peers.iter().enumerate() {
            mark(&closest.rule, Some((direction.peers_field(), at)), words::peer_miss(peer));
        }
        for (at, port) in closest.ports.iter().enumerate() {
            mark(&closest.rule, Some(("ports", at)), words::port_miss(port, traffic));
        }
        format!("closest is {} ({direction})", closest.rule)
    } else if let Some(deciding) = decision.decided_by.first() {
        let (verb, does) = match decision.reason {
            Reason::RuleDenies => ("denied", "denies"),
            Reason::RuleAccepts => ("accepted", "accepts"),
            _ => ("allowed", "allows"),
        };
        mark(deciding, None, format!("this rule {does}"));
        format!("{verb} by {deciding} ({direction})")
    } else if let Some(isolating) = decision.isolated_by.first().filter(|_| !decision.is_allowed())
    {
        let origin = cluster.policy_origin(isolating);
        marks.extend(origin.map(|origin| (origin, "isolates, and has no rule".to_owned())));
        format!("isolated by {} ({direction})", isolating.short())
    } else {
        return Ok(());
    };
    let Some(text) = marks.first().and_then(|(origin, _)| texts.get(&origin.file)) else {
        return Ok(());
    };
    let marks: Vec<Mark<'_>> =
        marks.iter().map(|(origin, label)| Mark { origin, label: label.clone() }).collect();
    match excerpt(&title, text, &marks) {
        Some(shown) => writeln!(out, "\n{shown}"),
        None => Ok(()),
    }
}
