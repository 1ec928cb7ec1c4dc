//! A plan for people: the number of changes, the risks, then each change below its cause.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::lines::{self, Line};
use super::summary;
use super::{Effect, Plan, because, cause, headline, word};
use crate::output::words;
use crate::plan::Causes;

/// More lines than this are summed up.
const LINES: usize = 60;

/// Writes a plan; `wide` with every change and every name.
///
/// # Errors
/// When the output cannot be written.
pub fn text(plan: &Plan<'_>, wide: bool, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", headline(plan))?;
    let risks = lines::risks(plan, wide);
    if !risks.is_empty() {
        writeln!(out, "\nRisks")?;
    }
    for (text, units, causes) in risks {
        writeln!(out, "  {units}")?;
        writeln!(out, "    {text}")?;
        writeln!(out, "    because of {}", because(plan, &causes))?;
    }
    let blocks = lines::by_cause(plan, wide);
    if !wide
        && blocks.iter().map(|(causes, lines)| causes.len() + lines.len()).sum::<usize>() > LINES
    {
        return summary::write(plan, out);
    }
    for (causes, lines) in blocks {
        writeln!(out)?;
        let objects: Vec<_> = causes.iter().filter_map(|n| plan.objects.get(*n)).collect();
        for object in &objects {
            writeln!(out, "{}", cause(object))?;
        }
        if objects.len() > 1 {
            writeln!(out, "  (these together; undoing one of them may not be enough)")?;
        }
        for line in lines {
            write_line(&line, out)?;
        }
    }
    let inside = plan.changes.iter().map(|change| &change.because);
    let causes: BTreeSet<&Causes> =
        inside.chain(plan.external.iter().map(|change| &change.because)).collect();
    let causes: BTreeSet<usize> =
        causes.into_iter().flat_map(|found| found.iter().copied()).collect();
    let mut idle: Vec<_> = plan.objects.iter().enumerate().collect();
    idle.retain(|(number, _)| !causes.contains(number));
    if !idle.is_empty() && !plan.is_same() {
        writeln!(out, "\nNo connection changes because of")?;
        for (_, object) in idle {
            writeln!(out, "  {}", cause(object))?;
        }
    }
    Ok(())
}

fn write_line(line: &Line, out: &mut dyn Write) -> io::Result<()> {
    let Line { kind, from, to, before, after } = line;
    let ports = match kind {
        Effect::Opened => words::ports(after),
        Effect::Closed => words::ports(before),
        Effect::Widened | Effect::Changed | Effect::Narrowed => {
            format!("{} → {}", words::ports(before), words::ports(after))
        }
    };
    writeln!(out, "  {:<8}  {ports}  from {from}  to {to}", word(*kind))
}
