//! The documentation of a code.

use portcullis_lint::Code;

const DOCS: &str = include_str!("../../../../docs/lint.md");

/// The section of `docs/lint.md` about a code, as Markdown.
#[must_use]
pub fn explain(code: Code) -> &'static str {
    let title = format!("## {code} {}\n", code.name());
    let Some(start) = DOCS.find(&title) else { return code.summary() };
    let section = DOCS.get(start..).unwrap_or_default();
    let end = section.get(2..).and_then(|rest| rest.find("\n## ")).map(|at| at + 2);
    section.get(..end.unwrap_or(section.len())).unwrap_or(section).trim_end()
}
