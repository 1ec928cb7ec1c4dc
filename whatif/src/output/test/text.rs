//! Test reports in words: the failures and their reasons first.

use std::io::{self, Write};

use crate::output::names::short;
use crate::output::words;
use crate::policytest::file::Verdict;
use crate::policytest::{Failure, Outcome};

/// How many failures of one test are written before the rest is counted.
const FAILURES_SHOWN: usize = 3;

/// Writes the results of all tests.
///
/// # Errors
/// When the output cannot be written.
pub fn text(outcomes: &[Outcome], out: &mut dyn Write) -> io::Result<()> {
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

/// The failures of a test, line by line.
#[must_use]
pub(super) fn details(outcome: &Outcome) -> Vec<String> {
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
