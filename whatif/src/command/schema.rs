//! `schema KIND`: the JSON Schema of an output.

use std::io::Write;

use anyhow::Result;
use schemars::schema_for;

use crate::YES;
use crate::args::SchemaKind;
use crate::output::{json, write_json};

pub(super) fn run(kind: SchemaKind, out: &mut dyn Write) -> Result<u8> {
    let schema = match kind {
        SchemaKind::Verdict => schema_for!(json::Verdict),
        SchemaKind::Map => schema_for!(json::Map),
    };
    write_json(&schema, out)?;
    Ok(YES)
}
