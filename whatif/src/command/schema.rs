//! `schema KIND`: the JSON Schema of an output.

use std::io::Write;

use anyhow::Result;
use schemars::generate::SchemaSettings;

use crate::YES;
use crate::args::SchemaKind;
use crate::denials::Record;
use crate::output::{
    check, exposure, lint, map, plan, policies, status, suggest, test, verify, write_json,
};

pub(super) fn run(kind: SchemaKind, out: &mut dyn Write) -> Result<u8> {
    // The schema is for the output as it is written: fields that may be left out are optional.
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = match kind {
        SchemaKind::Verdict => generator.into_root_schema_for::<check::json::Verdict>(),
        SchemaKind::Map => generator.into_root_schema_for::<map::json::Map>(),
        SchemaKind::Lint => generator.into_root_schema_for::<lint::Lint>(),
        SchemaKind::TestReport => generator.into_root_schema_for::<test::TestReport>(),
        SchemaKind::Policies => generator.into_root_schema_for::<policies::Policies>(),
        SchemaKind::Exposure => generator.into_root_schema_for::<exposure::Exposure>(),
        SchemaKind::Status => generator.into_root_schema_for::<status::Status>(),
        SchemaKind::Verification => generator.into_root_schema_for::<verify::Verification>(),
        SchemaKind::Suggestion => generator.into_root_schema_for::<suggest::Json>(),
        SchemaKind::Denial => generator.into_root_schema_for::<Record>(),
        SchemaKind::Plan => generator.into_root_schema_for::<plan::json::Plan>(),
    };
    write_json(&schema, out)?;
    Ok(YES)
}
