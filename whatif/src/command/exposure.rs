//! `exposure [PODS]`: what is allowed to and from pods that do not exist yet.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail};
use policy_engine::model::PodKey;

use super::Question;
use crate::YES;
use crate::args::{CheckFormat, Exposure};
use crate::endpoint::Side;
use crate::exposure::exposed;
use crate::output::{self, exposure};

pub(super) fn run(args: &Exposure, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let (pods, notes) = pods(&question, args.pods.as_deref())?;
    let all = exposed(&question.cluster, &pods);
    match args.output {
        CheckFormat::Text => {
            question.tell_oddities(&notes)?;
            exposure::text(&all, out)?;
        }
        CheckFormat::Json | CheckFormat::Yaml => {
            let answer = exposure::Exposure::new(&all, question.diagnostics(&notes));
            match args.output {
                CheckFormat::Json => output::write_json(&answer, out)?,
                CheckFormat::Text | CheckFormat::Yaml => output::write_yaml(&answer, out)?,
            }
        }
    }
    Ok(question.code(YES))
}

/// The pods that are asked about, all if none is named, and what is to be said of others.
fn pods(question: &Question, asked: Option<&str>) -> Result<(BTreeSet<PodKey>, Vec<String>)> {
    let all = question.cluster.world.pods();
    let takes_part = |key: &PodKey| all.get(key).is_some_and(|pod| pod.takes_part());
    let Some(asked) = asked else {
        return Ok((all.keys().filter(|key| takes_part(key)).cloned().collect(), Vec::new()));
    };
    let resolved = question.resolve(asked)?;
    if resolved.parties.iter().any(|party| !party.ports.is_empty()) {
        bail!("{asked}: write it without a port; every allowed port is told");
    }
    let (mut pods, mut others) = (BTreeSet::new(), 0);
    for party in &resolved.parties {
        let Side::Pod(key, _) = &party.side else {
            bail!("{} is no pod: policies apply to pods only", party.name);
        };
        if takes_part(key) {
            pods.insert(key.clone());
        } else {
            others += 1;
        }
    }
    let mut notes = resolved.notes.clone();
    if others > 0 {
        notes.push(super::without_policies(others, &resolved.name));
    }
    Ok((pods, notes))
}
