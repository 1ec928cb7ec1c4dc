//! Test reports for programs: JSON, TAP and the XML of `JUnit`.

use std::io::Write;

use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use schemars::JsonSchema;
use serde::Serialize;

use super::text::details;
use crate::output::json::{API_VERSION, Ports, ports};
use crate::policytest::file::Verdict;
use crate::policytest::{self, Outcome};

/// The answer to `test`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct TestReport {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `TestReport`.
    pub kind: &'static str,
    /// How many tests passed.
    pub passed: usize,
    /// How many did not.
    pub failed: usize,
    /// Each test, in the order of the files.
    pub tests: Vec<Test>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

/// One line of a test file.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Test {
    /// Its `name`, or what it states.
    pub name: String,
    /// Where it is written: `file:line:column`.
    pub origin: String,
    /// What came of it.
    pub result: TestResult,
    /// How many connections were asked about; those that nothing tells apart count as one.
    pub connections: usize,
    /// Why it tests nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many connections are not as it states.
    pub failed_connections: usize,
    /// The first of them.
    pub failures: Vec<Failure>,
}

/// Passed or failed.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum TestResult {
    Passed,
    Failed,
}

/// A connection that is not as a test states.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Who connects.
    pub source: String,
    /// Who is asked.
    pub destination: String,
    /// What the test states.
    pub expected: Expected,
    /// The ports of which the opposite is true.
    pub ports: Vec<Ports>,
    /// Whether the opposite is true of ICMP and other traffic without ports.
    pub icmp: bool,
    /// Why, in words.
    pub why: Vec<String>,
}

/// What a test states.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Expected {
    Allowed,
    Denied,
}

impl TestReport {
    /// The report on all tests.
    #[must_use]
    pub fn new(outcomes: &[Outcome], diagnostics: Vec<String>) -> Self {
        let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
        Self {
            api_version: API_VERSION,
            kind: "TestReport",
            passed,
            failed: outcomes.len() - passed,
            tests: outcomes.iter().map(test).collect(),
            diagnostics,
        }
    }
}

fn test(outcome: &Outcome) -> Test {
    Test {
        name: outcome.name.clone(),
        origin: outcome.origin.to_string(),
        result: if outcome.passed() { TestResult::Passed } else { TestResult::Failed },
        connections: outcome.connections,
        problem: outcome.problem.clone(),
        failed_connections: outcome.failed,
        failures: outcome.failures.iter().map(failure).collect(),
    }
}

fn failure(failure: &policytest::Failure) -> Failure {
    Failure {
        source: failure.source.clone(),
        destination: failure.destination.clone(),
        expected: match failure.expected {
            Verdict::Allowed => Expected::Allowed,
            Verdict::Denied => Expected::Denied,
        },
        ports: ports(&failure.ports),
        icmp: failure.ports.has_other(),
        why: failure.why.clone(),
    }
}

/// Writes the Test Anything Protocol, version 14.
///
/// # Errors
/// When the output cannot be written.
pub fn tap(outcomes: &[Outcome], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "TAP version 14\n1..{}", outcomes.len())?;
    for (index, outcome) in outcomes.iter().enumerate() {
        let not = if outcome.passed() { "" } else { "not " };
        // `#` begins a directive, and a backslash escapes.
        let name = outcome.name.replace('\\', "\\\\").replace('#', "\\#").replace('\n', " ");
        writeln!(out, "{not}ok {} - {name}", index + 1)?;
        if !outcome.passed() {
            writeln!(out, "  ---")?;
            writeln!(out, "  at: {}", serde_json::to_string(&outcome.origin.to_string())?)?;
            writeln!(out, "  message: |")?;
            for line in details(outcome) {
                writeln!(out, "    {line}")?;
            }
            writeln!(out, "  ...")?;
        }
    }
    Ok(())
}

/// Writes the XML of `JUnit`: one suite per file, no times, so that equal answers are equal texts.
///
/// # Errors
/// When the output cannot be written.
pub fn junit(outcomes: &[Outcome], out: &mut dyn Write) -> Result<()> {
    let mut report = Report::new("kubectl whatif test");
    let mut suites: Vec<TestSuite> = Vec::new();
    for outcome in outcomes {
        let file = outcome.origin.file.as_ref();
        let mut status = TestCaseStatus::success();
        if !outcome.passed() {
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let lines = details(outcome);
            if let Some(first) = lines.first() {
                status.set_message(first.as_str());
            }
            status.set_description(format!("{}\n{}", outcome.origin, lines.join("\n")));
        }
        let mut case = TestCase::new(outcome.name.as_str(), status);
        case.set_classname(file);
        if suites.last().is_none_or(|suite| suite.name.as_str() != file) {
            suites.push(TestSuite::new(file));
        }
        if let Some(suite) = suites.last_mut() {
            suite.add_test_case(case);
        }
    }
    report.add_test_suites(suites);
    writeln!(out, "{}", report.to_string()?)?;
    Ok(())
}
