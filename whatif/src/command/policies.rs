//! `policies POD`: which policies apply to a pod, in which order, and what their rules are.

use std::io::Write;

use anyhow::{Result, bail};

use super::Question;
use crate::YES;
use crate::args::{CheckFormat, PoliciesOf};
use crate::output::{self, policies};

pub(super) fn run(args: &PoliciesOf, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let resolved = question.resolve(&args.pod)?;
    if resolved.parties.iter().any(|party| !party.ports.is_empty()) {
        bail!("{}: policies apply to a pod, whatever its port", args.pod);
    }
    let (pods, notes) = question.pods_with_policies(&resolved)?;
    let diagnostics = question.diagnostics(&notes);
    let answer = policies::Policies::new(&question.cluster, &pods, diagnostics);
    match args.output {
        CheckFormat::Text => {
            question.write_notes(&notes)?;
            policies::text::text(&answer, out)?;
        }
        CheckFormat::Json => output::write_json(&answer, out)?,
        CheckFormat::Yaml => output::write_yaml(&answer, out)?,
    }
    Ok(question.code(YES))
}
