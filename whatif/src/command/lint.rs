//! `lint`: what is probably a mistake.

use std::env;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use portcullis_lint::{Finding, Severity};

use super::Question;
use crate::args::{FailOn, Lint, LintFormat};
use crate::lint::{annotated, known, lint};
use crate::output::{self, lint as written};
use crate::{MIXED, NO, YES};

pub(super) fn run(args: &Lint, out: &mut dyn Write) -> Result<u8> {
    if let Some(code) = args.explain {
        writeln!(out, "{}", written::explain(code))?;
        return Ok(YES);
    }
    let question = Question::read(&args.from)?;
    let mut findings = lint(&question.sources, &question.cluster);
    findings.retain(|finding| !args.disable.contains(&finding.code));
    // Problems of the source are findings. Assumptions are not.
    let mut notes = question.cluster.notes.clone();
    let ignored = annotated(&mut findings, &question.sources.after);
    notes.extend(accepted(ignored, "ignored by annotations"));
    if let Some(baseline) = &args.baseline {
        notes.extend(accepted(known(&mut findings, baseline)?, "in the baseline"));
    }
    if question.cluster.world.pods().is_empty() {
        notes.push(
            "the source has no pods and no workloads, so whom selectors and ports mean is not \
             looked at"
                .to_owned(),
        );
    }
    if matches!(args.output, LintFormat::Sarif | LintFormat::Github) {
        relative(&mut findings);
    }
    match args.output {
        LintFormat::Text | LintFormat::Wide => {
            output::write_notes(&[], &notes, &mut std::io::stderr().lock())?;
            let is_wide = args.output == LintFormat::Wide;
            written::text(&findings, &question.sources.texts, is_wide, out)?;
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
    // A document that cannot be read is a finding.
    Ok(if fails {
        NO
    } else if question.has_gaps() {
        MIXED
    } else {
        YES
    })
}

/// Makes the paths of files below the working directory relative: code hosts know files by their path in
/// the repository.
fn relative(findings: &mut [Finding]) {
    let Ok(here) = env::current_dir() else { return };
    for finding in findings {
        let related = finding.related.iter_mut().map(|(origin, _)| origin);
        for origin in finding.origin.iter_mut().chain(related) {
            let below = Path::new(&*origin.file).strip_prefix(&here).ok();
            if let Some(below) = below.and_then(Path::to_str) {
                origin.file = below.into();
            }
        }
    }
}

/// A note about findings that are left out.
fn accepted(count: usize, why: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 finding is {why}, and left out")),
        _ => Some(format!("{count} findings are {why}, and left out")),
    }
}
