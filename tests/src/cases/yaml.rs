//! YAML text as JSON values.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The documents of a text.
pub(super) fn documents(file: &str, text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).with_context(|| format!("failed to read {file}")))
        .collect()
}
