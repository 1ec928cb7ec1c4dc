//! A plan as a comment on a pull request.

use std::io::{self, Write};

use super::lines;
use super::{Plan, because, cause, headline, word};
use crate::output::map::table::escaped;
use crate::output::words;

/// How many rows a comment holds: forges cut them at some 65,000 characters.
const ROWS: usize = 150;

/// Writes a plan as Markdown.
///
/// # Errors
/// When the output cannot be written.
pub fn markdown(plan: &Plan<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "### What if: {}", escaped(&headline(plan)))?;
    let risks = lines::risks(plan, false);
    if !risks.is_empty() {
        writeln!(out, "\n**Risks**\n")?;
    }
    for (text, units, causes) in risks {
        let because = escaped(&because(plan, &causes));
        writeln!(out, "- :warning: **{}**: {}<br>{because}", escaped(&units), escaped(&text))?;
    }
    let blocks = lines::by_cause(plan, false);
    let total: usize = blocks.iter().map(|(_, lines)| lines.len()).sum();
    if total > 0 {
        writeln!(out, "\n| change | from | to | before | after | because of |")?;
        writeln!(out, "|---|---|---|---|---|---|")?;
    }
    let each = blocks.iter().flat_map(|(causes, lines)| lines.iter().map(move |l| (causes, l)));
    for (causes, line) in each.take(ROWS) {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            word(line.kind),
            escaped(&line.from),
            escaped(&line.to),
            words::ports(&line.before),
            words::ports(&line.after),
            escaped(&because(plan, causes)),
        )?;
    }
    if total > ROWS {
        writeln!(out, "\n… and {} more rows; `-o text` or `-o html` has them all.", total - ROWS)?;
    }
    if !plan.objects.is_empty() {
        writeln!(out, "\n<details><summary>Objects that differ</summary>\n")?;
        for object in &plan.objects {
            writeln!(out, "- {}", escaped(&cause(object)))?;
        }
        writeln!(out, "\n</details>")?;
    }
    Ok(())
}
