//! Findings as SARIF 2.1.0, which code hosts and editors read.

use std::fmt::Write as _;

use portcullis_crds::diagnostic::Origin;
use serde_json::{Value, json};

use super::{explain, sentence};
use portcullis_lint::{Code, Finding};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// One run with all rules and a result for each finding.
#[must_use]
pub fn sarif(findings: &[Finding]) -> Value {
    let results: Vec<Value> = findings.iter().map(result).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "kubectl-whatif",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": Code::ALL.map(rule),
            }},
            // Columns count characters, not the UTF-16 units that SARIF assumes.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.as_str(),
        "name": code.name(),
        "shortDescription": {"text": code.summary()},
        "help": {"text": format!("See {}.", code.docs()), "markdown": explain(code)},
        "defaultConfiguration": {"level": code.severity().as_str()},
    })
}

fn result(finding: &Finding) -> Value {
    let index = Code::ALL.iter().position(|code| *code == finding.code);
    let mut result = json!({
        "ruleId": finding.code.as_str(),
        "ruleIndex": index,
        "level": finding.severity.as_str(),
        "message": {"text": sentence(finding)},
    });
    if let Some(origin) = &finding.origin {
        result["locations"] = json!([{"physicalLocation": place(origin)}]);
    }
    if !finding.related.is_empty() {
        let related = finding.related.iter().map(
            |(origin, what)| json!({"physicalLocation": place(origin), "message": {"text": what}}),
        );
        result["relatedLocations"] = related.collect();
    }
    result
}

fn place(origin: &Origin) -> Value {
    json!({
        "artifactLocation": {"uri": uri(&origin.file)},
        "region": {"startLine": origin.line, "startColumn": origin.column},
    })
}

/// A path as a URI reference: relative to where the tool ran, or absolute.
fn uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.trim_start_matches("./").bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(byte.into());
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}
