//! `snapshot -o FILE`: the objects of the source, cut down to what answers depend on.
//!
//! The output is JSON and so also YAML, whatever the name of the file is. It has one object a line,
//! for `diff` and `grep`. JSON quotes every text, so no YAML reader takes it for another type.

use std::io::Write;

use anyhow::Result;
use portcullis_crds::convert::custom::{is_first, is_to_come};
use portcullis_crds::lean;
use serde_json::Value;

use super::Question;
use crate::YES;
use crate::args::Snapshot;
use crate::source::files;

/// A new List begins after so many bytes: readers limit the size of a document.
const LIST_BYTES: usize = 8 << 20;

pub(super) fn run(args: &Snapshot, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.from)?;
    question.write_notes(&[])?;
    let mut text = String::new();
    let (mut written, mut left_out, mut in_list) = (0, 0, 0);
    for (name, object) in question.sources.after.objects() {
        // The object that creates these pods is written once.
        if is_to_come(&name.name) && !is_first(&name.name) {
            continue;
        }
        let Some(mut value) = object.value().and_then(lean::snapshot) else {
            left_out += 1;
            continue;
        };
        complete(&mut value, &name.namespace);
        if in_list > LIST_BYTES {
            text += "\n]}\n---\n";
            in_list = 0;
        }
        text += if in_list == 0 {
            "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[\n"
        } else {
            ",\n"
        };
        let line = serde_json::to_string(&value)?;
        in_list += line.len();
        text += &line;
        written += 1;
    }
    if written == 0 {
        anyhow::bail!("the source holds no object that answers depend on");
    }
    text += "\n]}\n";
    if args.output == std::path::Path::new("-") {
        out.write_all(text.as_bytes())?;
        return Ok(YES);
    }
    files::write(&args.output, &text)?;
    let left = if left_out > 0 { format!(", {left_out} left out") } else { String::new() };
    writeln!(out, "{written} objects written to {}{left}", args.output.display())?;
    Ok(YES)
}

/// Sets the namespace of an object that is written without one.
fn complete(value: &mut Value, namespace: &str) {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata.filter(|_| !namespace.is_empty()) {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
}
