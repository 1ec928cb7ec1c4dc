//! `policies POD`: which policies apply to a pod, in which order, and what their rules are.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail};

use super::Question;
use crate::YES;
use crate::args::{CheckFormat, PoliciesOf};
use crate::endpoint::Side;
use crate::output::{self, policies};

pub(super) fn run(args: &PoliciesOf, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let resolved = question.resolve(&args.pod)?;
    if resolved.parties.iter().any(|party| !party.ports.is_empty()) {
        bail!("{}: policies apply to a pod, whatever its port", args.pod);
    }
    let mut notes = resolved.notes.clone();
    let (mut pods, mut others) = (BTreeSet::new(), 0);
    for party in &resolved.parties {
        let Side::Pod(key, _) = &party.side else {
            bail!("{} is no pod: policies apply to pods only", party.name);
        };
        let pod = question.cluster.world.pods().get(key);
        if pod.is_some_and(|pod| pod.takes_part()) {
            pods.insert(key);
        } else {
            others += 1;
        }
    }
    if others > 0 {
        notes.push(super::without_policies(others, &resolved.name));
    }
    let diagnostics = question.diagnostics(&notes);
    let answer = policies::Policies::new(&question.cluster, pods, diagnostics);
    match args.output {
        CheckFormat::Text => {
            question.tell_oddities(&notes)?;
            policies::text::text(&answer, out)?;
        }
        CheckFormat::Json => output::write_json(&answer, out)?,
        CheckFormat::Yaml => output::write_yaml(&answer, out)?,
    }
    Ok(question.code(YES))
}
