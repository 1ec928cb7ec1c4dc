//! Test reports in words: what failed first, and why.

use std::io::{self, Write};

use policy_engine::direction::Direction;
use policy_engine::explain::Explanation;
use policy_engine::flow::Flow;

use super::check::{denied_at, near_miss, why};
use super::names::short;
use crate::assertions::{Failure, Outcome};
use crate::cases::Verdict;
use crate::model::Cluster;
use crate::output::words;

/// How many failures of one test are told before the rest is counted.
const FAILURES_SHOWN: usize = 3;

/// Writes what came of all tests.
///
/// # Errors
/// When the output cannot be written.
pub fn test(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
    let (passed, failed): (Vec<&Outcome>, Vec<&Outcome>) =
        outcomes.iter().partition(|outcome| outcome.passed());
    for outcome in &failed {
        writeln!(out, "FAIL  {}  ({})", outcome.name, outcome.origin)?;
        for line in details(outcome) {
            writeln!(out, "      {line}")?;
        }
        writeln!(out)?;
    }
    for outcome in &passed {
        writeln!(out, "ok    {}", outcome.name)?;
    }
    let connections: usize = outcomes.iter().map(|outcome| outcome.connections).sum();
    let all = outcomes.len();
    let verdict = match failed.len() {
        0 => format!("All {all} tests passed"),
        failed => format!("{failed} of {all} tests failed"),
    };
    if !passed.is_empty() {
        writeln!(out)?;
    }
    writeln!(out, "{verdict}; {connections} connections were asked about.")
}

/// What is wrong, line by line.
#[must_use]
pub(in crate::output) fn details(outcome: &Outcome) -> Vec<String> {
    let mut lines: Vec<String> = outcome.problem.iter().cloned().collect();
    for failure in outcome.failures.iter().take(FAILURES_SHOWN) {
        lines.push(headline(failure));
        lines.extend(failure.why.iter().map(|line| format!("  {line}")));
    }
    let more = outcome.failed.saturating_sub(FAILURES_SHOWN);
    if more > 0 {
        lines.push(format!("… and {more} more that are not {}", expected(outcome)));
    }
    lines
}

fn expected(outcome: &Outcome) -> String {
    let mut all: Vec<String> = outcome.failures.iter().map(|f| f.expected.to_string()).collect();
    all.sort();
    all.dedup();
    all.join(" or ")
}

fn headline(failure: &Failure) -> String {
    let (from, to) = (short(&failure.source), short(&failure.destination));
    let ports = words::ports(&failure.ports);
    match failure.expected {
        Verdict::Allowed => format!("{from} may not open {ports} at {to}"),
        Verdict::Denied => format!("{from} may open {ports} at {to}"),
    }
}

/// Why a flow is allowed or denied: both directions, and the closest rule where none admits.
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
