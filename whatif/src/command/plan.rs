//! `plan --with … --without …`: what a change of objects changes for connections; with `--audit`,
//! what enforcing the policies in audit would.

use std::io::Write;

use anyhow::{Result, bail};

use super::Question;
use crate::args::{Danger, Plan as Args, PlanFormat};
use crate::model::Cluster;
use crate::output::{self, plan as written};
use crate::plan::{Effect, Plan, RiskKind};
use crate::{NO, YES};

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8> {
    if args.from.with.is_empty() && args.from.without.is_empty() && !args.audit {
        bail!(
            "nothing to compare: say what to apply with --with, what to remove with --without, or \
             --audit for what policies in audit would do"
        );
    }
    let mut question = Question::read(&args.from)?;
    let options = args.from.options();
    if args.audit {
        let in_audit = question.sources.after.enforce_all();
        question.cluster = Cluster::new(&question.sources.after, options.clone());
        if in_audit == 0 {
            question.cluster.notes.push("no policy is in audit".to_owned());
        }
    }
    let before = Cluster::new(&question.sources.before, options.clone());
    let plan = Plan::new(&question.sources, &before, &question.cluster, options);
    match args.output {
        PlanFormat::Text => {
            question.tell_oddities(&[])?;
            written::text(&plan, out)?;
        }
        PlanFormat::Json => {
            output::write_json(&written::json::Plan::new(&plan, question.diagnostics(&[])), out)?;
        }
        PlanFormat::Yaml => {
            output::write_yaml(&written::json::Plan::new(&plan, question.diagnostics(&[])), out)?;
        }
        PlanFormat::Md => {
            question.tell_oddities(&[])?;
            written::markdown(&plan, out)?;
        }
        PlanFormat::Html => {
            question.tell_oddities(&[])?;
            written::html::page(&plan, out)?;
        }
    }
    let fails = if args.fail_on.is_empty() {
        !plan.is_same()
    } else {
        args.fail_on.iter().any(|danger| happens(&plan, *danger))
    };
    Ok(question.code(if fails { NO } else { YES }))
}

fn happens(plan: &Plan<'_>, danger: Danger) -> bool {
    let inside = plan.changes.iter().map(|change| Effect::of(&change.before, &change.after));
    let outside = plan.external.iter().map(|change| Effect::of(&change.before, &change.after));
    let mut risks = plan.risks.iter().map(|risk| &risk.kind);
    match danger {
        Danger::Opened => inside.chain(outside).any(Effect::gains),
        Danger::Closed => inside.chain(outside).any(Effect::loses),
        Danger::Dns => risks.any(|risk| matches!(risk, RiskKind::DnsLost(_))),
        Danger::External => risks.any(|risk| matches!(risk, RiskKind::ExternalOpened(..))),
    }
}
