//! `lint`: what is probably a mistake.

use std::io::Write;

use anyhow::Result;
use portcullis_lint::Severity;

use super::Question;
use crate::args::{FailOn, Lint, LintFormat};
use crate::lint::lint;
use crate::output::{self, lint as written};
use crate::{MIXED, NO, YES};

pub(super) fn run(args: &Lint, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let mut findings = lint(&question.sources, &question.cluster);
    findings.retain(|finding| !args.disable.contains(&finding.code));
    // What is wrong with the source is a finding; what was assumed is not.
    let mut notes = question.cluster.notes.clone();
    if question.cluster.world.pods().is_empty() {
        notes.push(
            "the source has no pods and no workloads, so whom selectors and ports mean is not \
             looked at"
                .to_owned(),
        );
    }
    match args.output {
        LintFormat::Text => {
            output::oddities(&[], &notes, &mut std::io::stderr().lock())?;
            written::text(&findings, &question.sources.texts, out)?;
        }
        LintFormat::Json | LintFormat::Yaml => {
            let notes = output::json::diagnostics(&[], &notes);
            let answer = written::Lint::new(&findings, notes);
            match args.output {
                LintFormat::Yaml => output::write_yaml(&answer, out)?,
                _ => output::write_json(&answer, out)?,
            }
        }
        LintFormat::Sarif => output::write_json(&written::sarif(&findings), out)?,
        LintFormat::Github => written::github(&findings, out)?,
    }
    let least = match args.fail_on {
        FailOn::Error => Some(Severity::Error),
        FailOn::Warning => Some(Severity::Warning),
        FailOn::Note => Some(Severity::Note),
        FailOn::Never => None,
    };
    let fails = least.is_some_and(|least| findings.iter().any(|one| one.severity >= least));
    Ok(match fails {
        true => NO,
        // A document that cannot be read is a finding.
        false if question.has_gaps() => MIXED,
        false => YES,
    })
}
