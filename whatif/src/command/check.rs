//! `check SRC DST`: one verdict, and why.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result, bail};
use policy_engine::model::PodKey;
use policy_engine::reach::Reach;
use policy_engine::tier::View;

use super::Question;
use crate::args::{Check, CheckFormat};
use crate::endpoint::{Endpoint, Side, Target};
use crate::judge::{Verdict, Views, judge};
use crate::output::{self, check as written};
use crate::{MIXED, NO, YES};

/// A Service by its DNS name, or by its name alone in a namespace.
fn of_service(text: &str, namespace: &str) -> Result<Endpoint> {
    let mut endpoint: Endpoint = text.parse()?;
    if let Target::Named { namespace: found, kind, name } = &mut endpoint.target {
        if kind.as_deref() != Some("service") && found.is_none() {
            let (service, of) = name.split_once('.').unwrap_or((name, namespace));
            (*found, *name) = (Some(of.to_owned()), service.to_owned());
        }
        *kind = Some("service".to_owned());
        return Ok(endpoint);
    }
    bail!("--to-service {text}: a Service is NAME.NAMESPACE.svc")
}

pub(super) fn run(args: &Check, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    let source = question.resolve(&args.source)?;
    if source.parties.iter().any(|party| !party.ports.is_empty()) && args.source.contains(':') {
        bail!("{}: a port belongs to the destination", args.source);
    }
    let destination = match (&args.destination, &args.to_service) {
        (_, Some(service)) => question.find(&of_service(service, &question.sources.namespace)?)?,
        (Some(destination), None) => question.resolve(destination)?,
        (None, None) => bail!("name a destination"),
    };
    let sides = source.parties.iter().chain(&destination.parties).map(|party| &party.side);
    let pods: BTreeSet<PodKey> = sides.filter_map(Side::pod).cloned().collect();
    let among = |view| Reach::among(&question.cluster.world, view, &pods);
    let reach = among(View::Enforced);
    let audited = question.cluster.world.has_audit().then(|| among(View::Audited));
    let views = Views { enforced: &reach, audited: audited.as_ref() };
    let answer = judge(&question.cluster, views, &source, &destination);
    match args.output {
        CheckFormat::Text => {
            question.write_notes(&answer.notes)?;
            let texts = args.explain.then_some(&question.sources.texts);
            written::text(&question.cluster, &answer, texts, out)?;
        }
        CheckFormat::Json | CheckFormat::Yaml => {
            let mut notes = answer.notes.clone();
            notes.extend(answer.parts.iter().flat_map(|part| part.notes.iter().cloned()));
            notes.dedup();
            let diagnostics = question.diagnostics(&notes);
            let verdict = written::json::Verdict::new(&question.cluster, &answer, diagnostics)
                .context("nothing was asked")?;
            match args.output {
                CheckFormat::Yaml => output::write_yaml(&verdict, out)?,
                CheckFormat::Json | CheckFormat::Text => output::write_json(&verdict, out)?,
            }
        }
    }
    Ok(match answer.verdict {
        // A policy that could not be read may deny it.
        Verdict::Allowed if !question.sources.unread.is_empty() => MIXED,
        Verdict::Allowed => YES,
        Verdict::Denied => NO,
        Verdict::Mixed | Verdict::Undetermined => MIXED,
    })
}
