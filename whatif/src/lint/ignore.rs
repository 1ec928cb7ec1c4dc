//! Findings that users accepted, in an annotation of the object or in an earlier report.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use portcullis_crds::diagnostic::About;
use portcullis_crds::lean::LINT_IGNORE_ANNOTATION;
use portcullis_crds::path::FieldPath;
use portcullis_lint::{Code, Finding};
use serde_json::Value;

use crate::model::Inventory;
use crate::source::files;

/// Removes the findings that annotations of their objects name; returns how many. An annotation that
/// names no code is a finding.
pub fn annotated(findings: &mut Vec<Finding>, objects: &Inventory) -> usize {
    let before = findings.len();
    let (mut wrong, mut accepted) = (Vec::new(), BTreeMap::new());
    for (name, object) in objects.objects() {
        let annotations = object.value().and_then(|value| value.pointer("/metadata/annotations"));
        let annotation = annotations.and_then(|found| found.get(LINT_IGNORE_ANNOTATION));
        let Some(text) = annotation.and_then(Value::as_str) else { continue };
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let codes: Result<Vec<Code>, String> = words.map(str::parse).collect();
        match codes {
            Ok(codes) => drop(accepted.insert(name, codes)),
            Err(problem) => {
                let field = FieldPath::new(["metadata", "annotations", LINT_IGNORE_ANNOTATION]);
                let document = object.document.as_ref();
                wrong.push(Finding {
                    code: Code::Odd,
                    severity: Code::Odd.severity(),
                    about: About::Object(name.clone()),
                    origin: document.map(|document| document.origin_at(&field)),
                    field,
                    message: format!(
                        "`{text}` is not a list of codes, so nothing is ignored; {problem}"
                    ),
                    related: Vec::new(),
                });
            }
        }
    }
    findings.retain(|finding| {
        let codes = finding.about.object().and_then(|name| accepted.get(name));
        codes.is_none_or(|codes| !codes.contains(&finding.code))
    });
    let ignored = before - findings.len();
    findings.extend(wrong);
    findings.sort_by(|left, right| left.order().cmp(&right.order()));
    ignored
}

/// Removes the findings that a report of `lint -o json` contains, wherever they are written now;
/// returns how many.
///
/// # Errors
/// When the file cannot be read, or is not such a report.
pub fn known(findings: &mut Vec<Finding>, baseline: &Path) -> Result<usize> {
    let (name, text) = files::text(baseline)?;
    let wrong = || format!("{name} is not a report of `kubectl whatif lint -o json`");
    let report: Value = serde_json::from_str(&text).with_context(wrong)?;
    let known = report.get("findings").and_then(Value::as_array);
    let (Some(known), Some("Lint")) = (known, report.get("kind").and_then(Value::as_str)) else {
        bail!(wrong());
    };
    let mut counts: BTreeMap<[String; 4], usize> = BTreeMap::new();
    for finding in known {
        let text = |key| finding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        *counts.entry(["code", "object", "field", "message"].map(text)).or_default() += 1;
    }
    let before = findings.len();
    findings.retain(|finding| {
        let code = finding.code.as_str().to_owned();
        let (object, field) = (finding.about.to_string(), finding.field.to_string());
        match counts.get_mut(&[code, object, field, finding.message.clone()]) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    });
    Ok(before - findings.len())
}
