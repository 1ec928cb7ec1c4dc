//! `plan --with … --without …` and `plan --before … --after …`: how a change of objects changes
//! connections; with `--audit`, how enforcing the policies in audit changes them.

use std::io::Write;

use anyhow::{Result, bail};

use super::Question;
use crate::args::{Danger, Plan as Args, PlanBy, PlanFormat};
use crate::gap::Gap;
use crate::model::Cluster;
use crate::output::{self, page, plan as written};
use crate::plan::{Effect, Plan, RiskKind};
use crate::source::{self, Sides};
use crate::{MIXED, NO, YES};

/// Without pods, an empty plan would not be an answer.
const NO_PODS: &str = "the source has no pods and no workloads, so no connection can change; add them, \
                       for example with -f and a file of `kubectl whatif snapshot`";

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<u8> {
    let hypothesis = !args.from.with.is_empty() || !args.from.without.is_empty();
    if args.before.is_empty() && !hypothesis && !args.audit {
        bail!(
            "nothing to compare: say what to apply with --with, what to remove with --without, two \
             sets of manifests with --before and --after, or --audit for what policies in audit would \
             do"
        );
    }
    let sides = Sides { before: &args.before, after: &args.after };
    let mut question = Question::of(source::compare(&args.from, sides)?, &args.from);
    let options = args.from.options();
    if args.audit {
        let in_audit = question.sources.after.enforce_all();
        question.cluster = Cluster::new(&question.sources.after, options.clone());
        if in_audit == 0 {
            question.cluster.notes.push("no policy is in audit".to_owned());
        }
    }
    let before = Cluster::new(&question.sources.before, options.clone());
    let blind = before.world.pods().is_empty() && question.cluster.world.pods().is_empty();
    if blind {
        question.cluster.notes.push(NO_PODS.to_owned());
    }
    let plan = Plan::new(&question.sources, &before, &question.cluster, options);
    let unsure = before.gaps.iter().any(Gap::decides) || blind && !plan.objects.is_empty();
    match args.output {
        PlanFormat::Text | PlanFormat::Wide => {
            question.write_notes(&[])?;
            written::text(&plan, args.output == PlanFormat::Wide, out)?;
        }
        PlanFormat::Json | PlanFormat::Yaml => {
            let diagnostics = question.diagnostics(&[]);
            let answer = match args.by {
                Some(PlanBy::Workload) => written::json::Plan::of_pairs(&plan, diagnostics),
                None => written::json::Plan::of_groups(&plan, diagnostics),
            };
            match args.output {
                PlanFormat::Yaml => output::write_yaml(&answer, out)?,
                _ => output::write_json(&answer, out)?,
            }
        }
        PlanFormat::Md => {
            question.write_notes(&[])?;
            written::markdown(&plan, out)?;
        }
        PlanFormat::Html => {
            question.write_notes(&[])?;
            let about = page::About::new(false, &args.from, sides, &question.sources);
            page::page(&plan, &about, out)?;
        }
    }
    let fails = if args.fail_on.is_empty() {
        !plan.is_same()
    } else {
        args.fail_on.iter().any(|danger| happens(&plan, *danger))
    };
    Ok(match question.code(if fails { NO } else { YES }) {
        YES if unsure => MIXED,
        code => code,
    })
}

fn happens(plan: &Plan<'_>, danger: Danger) -> bool {
    let inside = plan.changes.iter().map(|change| Effect::of(&change.before, &change.after));
    let outside = plan.external.iter().map(|change| Effect::of(&change.before, &change.after));
    let mut risks = plan.risks.iter().map(|risk| &risk.kind);
    match danger {
        Danger::Opened => inside.chain(outside).any(Effect::gains),
        Danger::Closed => inside.chain(outside).any(Effect::loses),
        Danger::Dns => risks.any(|risk| matches!(risk, RiskKind::DnsLost(_))),
        Danger::Backend => risks.any(|risk| matches!(risk, RiskKind::BackendLost(..))),
        Danger::External => risks.any(|risk| matches!(risk, RiskKind::ExternalOpened(..))),
    }
}
