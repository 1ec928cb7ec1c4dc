//! How the findings of `lint` are written.

mod explain;
mod fold;
mod github;
mod sarif;
mod text;

pub use explain::explain;
pub use github::github;
pub use sarif::sarif;
pub use text::text;

use std::collections::BTreeMap;

use portcullis_crds::diagnostic::Origin;
use schemars::JsonSchema;
use serde::Serialize;

use super::json::API_VERSION;
use portcullis_lint::{Finding, Severity};

/// The answer to `lint`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Lint")]
pub struct Lint {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Lint`.
    pub kind: &'static str,
    /// What is probably a mistake, in the order of files and lines.
    pub findings: Vec<FindingJson>,
    /// How many findings there are of each severity.
    pub counts: BTreeMap<SeverityJson, usize>,
    /// What was assumed.
    pub diagnostics: Vec<String>,
}

/// One thing that is probably a mistake.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Finding")]
pub struct FindingJson {
    /// The kind of mistake, as `PCL101`; stable.
    pub code: &'static str,
    /// The same in words, as `selects-nothing`; stable.
    pub name: &'static str,
    /// How much it matters.
    pub severity: SeverityJson,
    /// The object, as `NetworkPolicy shop/db`.
    pub object: String,
    /// The field, as `spec.ingress[0]`; left out for the object as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong, what that means, and what to do.
    pub message: String,
    /// Where it is written; left out for an object of an API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Other places that belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// Where this kind of mistake is explained.
    pub docs: String,
}

/// How much a finding matters.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Severity")]
#[allow(missing_docs)]
pub enum SeverityJson {
    Error,
    Warning,
    Note,
}

/// A place in a file. Lines and characters count from 1.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Location {
    /// As the command line led to it.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The character.
    pub column: usize,
}

/// A place that belongs to a finding, and what it is.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Related {
    /// What it is.
    pub message: String,
    /// Where it is.
    pub location: Location,
}

impl Lint {
    /// The findings as the contract has them.
    #[must_use]
    pub fn new(findings: &[Finding], diagnostics: Vec<String>) -> Self {
        let mut counts = BTreeMap::new();
        for severity in [SeverityJson::Error, SeverityJson::Warning, SeverityJson::Note] {
            counts.insert(severity, 0);
        }
        for finding in findings {
            *counts.entry(finding.severity.into()).or_insert(0) += 1;
        }
        let findings = findings.iter().map(FindingJson::from).collect();
        Self { api_version: API_VERSION, kind: "Lint", findings, counts, diagnostics }
    }
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> Self {
        let related = finding.related.iter();
        Self {
            code: finding.code.as_str(),
            name: finding.code.name(),
            severity: finding.severity.into(),
            object: finding.about.to_string(),
            field: finding.field.to_string(),
            message: finding.message.clone(),
            location: finding.origin.as_ref().map(Location::from),
            related: related
                .map(|(origin, message)| Related {
                    message: message.clone(),
                    location: origin.into(),
                })
                .collect(),
            docs: finding.code.docs(),
        }
    }
}

impl From<Severity> for SeverityJson {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
            Severity::Note => Self::Note,
        }
    }
}

impl From<&Origin> for Location {
    fn from(origin: &Origin) -> Self {
        Self { file: origin.file.to_string(), line: origin.line, column: origin.column }
    }
}

/// A finding in one sentence: `NetworkPolicy shop/db: spec.ingress: message`.
fn sentence(finding: &Finding) -> String {
    let (about, field) = (finding.about.to_string(), finding.field.to_string());
    let parts = [&about, &field, &finding.message];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}
