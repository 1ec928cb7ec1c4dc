//! `exposure [PODS]`: what is allowed to and from pods that do not exist yet.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail};
use policy_engine::model::PodKey;

use super::Question;
use crate::YES;
use crate::args::{CheckFormat, Exposure};
use crate::exposure::exposed;
use crate::output::{self, exposure};

pub(super) fn run(args: &Exposure, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let (pods, notes) = pods(&question, args.pods.as_deref())?;
    let all = exposed(&question.cluster, &pods);
    let answer = || exposure::Exposure::new(&all, question.diagnostics(&notes));
    match args.output {
        CheckFormat::Text => {
            question.write_notes(&notes)?;
            exposure::text(&all, out)?;
        }
        CheckFormat::Json => output::write_json(&answer(), out)?,
        CheckFormat::Yaml => output::write_yaml(&answer(), out)?,
    }
    Ok(question.code(YES))
}

/// The pods that the question names, or all pods; and the notes about names that are left out.
fn pods(question: &Question, asked: Option<&str>) -> Result<(BTreeSet<PodKey>, Vec<String>)> {
    let Some(asked) = asked else {
        let all = question.cluster.world.pods().iter().filter(|(_, pod)| pod.takes_part());
        return Ok((all.map(|(key, _)| key.clone()).collect(), Vec::new()));
    };
    let resolved = question.resolve(asked)?;
    if resolved.parties.iter().any(|party| !party.ports.is_empty()) {
        bail!("{asked}: write it without a port; every allowed port is told");
    }
    question.pods_with_policies(&resolved)
}
