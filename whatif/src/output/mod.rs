//! How answers are written: a module for each question, with the formats of its answer. What
//! several answers share is in other modules here.

pub mod check;
pub mod denials;
pub mod exposure;
pub mod json;
pub mod lint;
pub mod map;
pub mod page;
pub mod plan;
pub mod policies;
pub mod status;
pub mod suggest;
pub mod terminal;
pub mod test;
pub mod ui;
pub mod verify;
pub mod words;

mod names;

pub(crate) use names::{middle, short};

use std::io::{self, Write};

use anyhow::Result;
use portcullis_crds::diagnostic::Diagnostic;
use serde::Serialize;

/// Writes a value as indented JSON with a line end.
///
/// # Errors
/// When the output cannot be written.
pub fn write_json(value: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Writes a value as YAML.
///
/// # Errors
/// When the output cannot be written.
pub fn write_yaml(value: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    let text = serde_saphyr::to_string(value)?;
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// Writes notes and the first diagnostics about the source to standard error.
///
/// # Errors
/// When it cannot be written.
pub fn write_notes(
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
