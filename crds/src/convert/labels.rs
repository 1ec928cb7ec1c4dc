//! Labels and label selectors, by the rules of `apimachinery/pkg/apis/meta/v1/validation`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use policy_engine::labels::{Labels, Str};
use policy_engine::selector::{Operator, Requirement, Selector};

use crate::decode::{Field, wanted};
use crate::path::Path;
use crate::report::Report;

/// The label that the API server puts on every namespace.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `metadata.labels` of the object at `root`, label by label.
///
/// A label whose value is not text is left out: policies still match the other labels. A label that
/// the API would reject is kept, because selectors can be compared with any text.
pub(super) fn labels(root: &Field<'_>, report: &mut Report<'_>) -> Labels {
    let Some(metadata) = root.get("metadata") else { return Labels::default() };
    let Some(labels) = metadata.get("labels") else { return Labels::default() };
    let Some(fields) = labels.value.as_object() else {
        let found = wanted("a mapping", labels.value);
        report.error(&labels.path, format!("{found}; the object counts as without labels"));
        return Labels::default();
    };
    let mut pairs: Vec<(Str, Str)> = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let path = labels.path.key(key);
        let Some(text) = value.as_str() else {
            let found = wanted("text", value);
            report.error(&path, format!("{found}; the object counts as without it; quote it"));
            continue;
        };
        if let Some(problem) = key_problem(key).or_else(|| value_problem(text)) {
            report.warning(&path, format!("{problem}; an API server would refuse it"));
        }
        pairs.push((key.as_str().into(), text.into()));
    }
    pairs.into_iter().collect()
}

/// The selector at `field`, or `None` after a report when it cannot be understood.
pub(super) fn selector(
    field: &Field<'_>,
    report: &mut Report<'_>,
    effect: &str,
) -> Option<Selector> {
    let selector = field.decode::<LabelSelector>(report, effect)?;
    typed_selector(&selector, &field.path, report, effect)
}

/// `selector`, or `None` after a report when the API would reject it.
pub(super) fn typed_selector(
    selector: &LabelSelector,
    path: &Path<'_>,
    report: &mut Report<'_>,
    effect: &str,
) -> Option<Selector> {
    let mut requirements = Vec::new();
    let mut understood = true;
    let mut refuse = |path: &Path<'_>, problem: String, report: &mut Report<'_>| {
        report.error(path, format!("{problem}; {effect}"));
        understood = false;
    };
    let match_labels = path.key("matchLabels");
    for (key, value) in selector.match_labels.iter().flatten() {
        let path = match_labels.key(key);
        match key_problem(key).or_else(|| value_problem(value)) {
            Some(problem) => refuse(&path, problem, report),
            None => requirements.push(Requirement {
                key: key.as_str().into(),
                operator: Operator::In([Str::from(value.as_str())].into()),
            }),
        }
    }
    let match_expressions = path.key("matchExpressions");
    for (at, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = match_expressions.index(at);
        match requirement(expression) {
            Ok(requirement) => requirements.push(requirement),
            Err((field, problem)) => refuse(&path.key(field), problem, report),
        }
    }
    understood.then(|| requirements.into_iter().collect())
}

fn requirement(
    expression: &LabelSelectorRequirement,
) -> Result<Requirement, (&'static str, String)> {
    let values = expression.values.as_deref().unwrap_or_default();
    let operator = match expression.operator.as_str() {
        name @ ("In" | "NotIn") if values.is_empty() => {
            return Err(("values", format!("must not be empty with the operator `{name}`")));
        }
        name @ ("Exists" | "DoesNotExist") if !values.is_empty() => {
            return Err(("values", format!("must be left out with the operator `{name}`")));
        }
        "In" => Operator::In(values.iter().map(|value| value.as_str().into()).collect()),
        "NotIn" => Operator::NotIn(values.iter().map(|value| value.as_str().into()).collect()),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let known = "write In, NotIn, Exists or DoesNotExist";
            return Err(("operator", format!("`{other}` is no operator ({known})")));
        }
    };
    if let Some(problem) = key_problem(&expression.key) {
        return Err(("key", problem));
    }
    if let Some(problem) = values.iter().find_map(|value| value_problem(value)) {
        return Err(("values", problem));
    }
    Ok(Requirement { key: expression.key.as_str().into(), operator })
}

/// The error in a label key (`IsQualifiedName`); `None` if it is valid.
fn key_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let good = is_label_text(name) && prefix.is_none_or(is_subdomain);
    (!good).then(|| format!("`{key}` is no label key"))
}

/// The error in a label value (`IsValidLabelValue`); `None` if it is valid.
fn value_problem(value: &str) -> Option<String> {
    let good = value.is_empty() || is_label_text(value);
    (!good).then(|| {
        format!("`{value}` is no label value (at most 63 letters, digits and `-_.` between them)")
    })
}

fn is_label_text(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && text.bytes().all(inside)
}

/// Whether `text` is a DNS subdomain, as the names of most objects must be.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// The name of a namespace, which is a DNS label.
///
/// # Errors
/// When the text is not a valid name of a namespace.
pub fn namespace_name(text: &str) -> Result<Str, String> {
    if text.len() <= 63 && is_dns_label(text) {
        return Ok(text.into());
    }
    Err("the name of a namespace is at most 63 lower case letters, digits and `-`, and neither \
         begins nor ends with `-`"
        .to_owned())
}

fn is_dns_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty()
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
