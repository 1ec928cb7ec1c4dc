//! `test FILE…`: compares the statements of test files with the cluster.

use std::io::Write;

use anyhow::Result;
use policy_engine::world::Options;

use super::Question;
use crate::args::{Test, TestFormat};
use crate::model::Cluster;
use crate::output::{self, test as written};
use crate::policytest::{self, Outcome, Suite};
use crate::source::files;
use crate::{NO, YES};

pub(super) fn run(args: &Test, out: &mut dyn Write) -> Result<u8> {
    let mut suites = Vec::new();
    for path in &args.files {
        let (name, text) = files::text(path)?;
        suites.extend(Suite::read(&name, &text)?);
    }
    let question = Question::read(&args.from)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for suite in &suites {
        let exempt = suite.allow_egress_to_own_node();
        let own = (exempt && !args.from.allow_egress_to_own_node).then(|| {
            Cluster::new(
                &question.sources.after,
                Options { allow_egress_to_own_node: true, ..args.from.options() },
            )
        });
        let cluster = own.as_ref().unwrap_or(&question.cluster);
        outcomes.extend(policytest::run(suite, &question.sources.after, cluster)?);
        let failed = outcomes.iter().position(|outcome| !outcome.passed());
        if let (true, Some(failed)) = (args.fail_fast, failed) {
            outcomes.truncate(failed + 1);
            break;
        }
    }
    let only_steps = suites.iter().all(Suite::has_steps);
    match args.output {
        TestFormat::Text => {
            if !only_steps {
                question.write_notes(&[])?;
            }
            written::text(&outcomes, out)?;
        }
        TestFormat::Json | TestFormat::Yaml => {
            let report = written::TestReport::new(&outcomes, question.diagnostics(&[]));
            match args.output {
                TestFormat::Yaml => output::write_yaml(&report, out)?,
                _ => output::write_json(&report, out)?,
            }
        }
        TestFormat::Tap => written::tap(&outcomes, out)?,
        TestFormat::Junit => written::junit(&outcomes, out)?,
    }
    Ok(question.code(if outcomes.iter().all(Outcome::passed) { YES } else { NO }))
}
