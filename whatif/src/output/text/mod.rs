//! Answers for people: the answer first, then why, then what to do.

mod advice;
mod check;
mod list;
mod names;
mod test;

pub use check::check;
pub use list::{About, list, list_namespaces};
pub(crate) use names::Names;
pub(in crate::output) use test::details;
pub use test::{reasons, test};

use std::io::{self, Write};

use portcullis_crds::diagnostic::Diagnostic;

/// Tells on standard error what was odd about the source, a few of many.
///
/// # Errors
/// When it cannot be written.
pub fn oddities(
    diagnostics: &[Diagnostic],
    notes: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    const SHOWN: usize = 10;
    for diagnostic in diagnostics.iter().take(SHOWN) {
        writeln!(out, "{diagnostic}")?;
    }
    let more = diagnostics.len().saturating_sub(SHOWN);
    if more > 0 {
        writeln!(out, "… and {more} more; -o json lists all")?;
    }
    for note in notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
