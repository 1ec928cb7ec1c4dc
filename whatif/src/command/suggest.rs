//! `suggest`: the least NetworkPolicies that allow given connections.

use std::io::Write;

use anyhow::{Result, bail};

use super::Question;
use crate::args::{Suggest, SuggestFormat};
use crate::endpoint::Endpoint;
use crate::output::{self, suggest as written};
use crate::source::files;
use crate::suggest::ask::{self, Found};
use crate::suggest::{Asked, Outcome, suggest};
use crate::{NO, YES};

pub(super) fn run(args: &Suggest, out: &mut dyn Write) -> Result<u8> {
    let is_asked = args.source.is_some();
    if !is_asked && [&args.connections, &args.tests, &args.denials].iter().all(|f| f.is_empty()) {
        bail!(
            "name connections: SRC DST[:PORT], or files with --connections, --tests or --denials"
        );
    }
    let mut question = Question::read(&args.from)?;
    let Found { asked, notes } = found(args, &question)?;
    let suggestion = suggest(&mut question.cluster, &asked);
    match args.output {
        SuggestFormat::Yaml => {
            question.write_notes(&notes)?;
            written::yaml(&asked, &suggestion, out)?;
        }
        SuggestFormat::Json => {
            let diagnostics = question.diagnostics(&notes);
            output::write_json(&written::Json::new(&asked, &suggestion, diagnostics), out)?;
        }
    }
    let is_possible = |outcome: &Outcome| !matches!(outcome, Outcome::Impossible(..));
    let all = suggestion.outcomes.iter().all(is_possible);
    Ok(question.code(if all { YES } else { NO }))
}

/// All connections that the question asks to allow.
fn found(args: &Suggest, question: &Question) -> Result<Found> {
    let mut notes: Vec<String> = Vec::new();
    let mut asked: Vec<Asked> = Vec::new();
    let mut resolve = |endpoint: &Endpoint| {
        let found = question.find(endpoint)?;
        notes.extend(found.notes.iter().cloned());
        Ok(found)
    };
    if let (Some(source), Some(destination)) = (&args.source, &args.destination) {
        asked.extend(ask::words(source, destination, args.port.as_deref(), &mut resolve)?);
    }
    for path in &args.connections {
        let (name, text) = files::text(path)?;
        asked.extend(ask::list(&name, &text, &mut resolve)?);
    }
    for path in &args.tests {
        let (name, text) = files::text(path)?;
        asked.extend(ask::tests(&name, &text, &question.cluster)?);
    }
    for path in &args.denials {
        let (name, text) = files::text(path)?;
        let found = ask::denials(&name, &text, &question.cluster)?;
        asked.extend(found.asked);
        notes.extend(found.notes);
    }
    notes.sort();
    notes.dedup();
    Ok(Found { asked, notes })
}
