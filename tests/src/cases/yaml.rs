//! YAML text as JSON values, read as the product reads manifests.

use anyhow::{Result, bail};
use portcullis_crds::manifest::Manifest;
use serde_json::Value;

/// The documents of a text.
pub(super) fn documents(file: &str, text: &str) -> Result<Vec<Value>> {
    let manifest = Manifest::parse(file, text);
    if let Some(diagnostic) = manifest.diagnostics.first() {
        bail!("{diagnostic}");
    }
    Ok(manifest.documents.iter().map(|document| document.value().clone()).collect())
}
