//! How answers are written: the JSON contract, texts, tables, graphs.

pub mod excerpt;
pub mod graph;
pub mod html;
pub mod json;
pub mod lint;
pub mod matrix;
pub mod plan;
pub mod report;
pub mod table;
pub mod text;
mod verdict;
pub mod words;

use std::io::Write;

use anyhow::Result;
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
