//! Findings for people, each above the lines that contain the mistake.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use portcullis_crds::diagnostic::Origin;
use portcullis_crds::path::FieldPath;

use super::{fold, sentence};
use portcullis_lint::{Finding, Severity};

/// How many lines are shown above and below the line that is marked.
const AROUND: usize = 1;

/// The findings with their lines, and how many there are; without `is_wide`, those that differ only in
/// the object are one.
///
/// # Errors
/// When the output cannot be written.
pub fn text(
    findings: &[Finding],
    texts: &BTreeMap<Arc<str>, String>,
    is_wide: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let groups = if is_wide {
        findings.iter().map(|finding| vec![finding]).collect()
    } else {
        fold::groups(findings)
    };
    let starts = texts.iter().map(|(file, text)| (file, starts(text))).collect();
    for group in groups {
        let Some(finding) = group.first() else { continue };
        // The title is the mistake; the consequence and the fix are below it.
        let (what, rest) = split(&finding.message);
        let shown = excerpt(finding, what, texts, &starts);
        let shown = shown.unwrap_or_else(|| {
            let (severity, code) = (finding.severity.as_str(), finding.code);
            let whole = Finding { message: what.to_owned(), ..Finding::clone(finding) };
            format!("{severity}[{code}]: {}", escaped(&sentence(&whole)))
        });
        writeln!(out, "{shown}")?;
        for clause in rest.split("; ").filter(|clause| !clause.is_empty()) {
            writeln!(out, "  = {}", escaped(clause))?;
        }
        if let Some(others) = fold::others(&group) {
            writeln!(out, "  = {}", escaped(&others))?;
        }
        writeln!(out, "  = {}\n", finding.code.docs())?;
    }
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let counts = [Severity::Error, Severity::Warning, Severity::Note]
        .map(|severity| (count(severity), severity.as_str()));
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if counts.is_empty() {
        writeln!(out, "Nothing found.")
    } else {
        writeln!(out, "{} found.", counts.join(", "))
    }
}

/// The first clause of a message, and the others.
fn split(message: &str) -> (&str, &str) {
    message.split_once("; ").unwrap_or((message, ""))
}

type Starts<'t> = BTreeMap<&'t Arc<str>, Vec<usize>>;

fn excerpt(
    finding: &Finding,
    what: &str,
    texts: &BTreeMap<Arc<str>, String>,
    starts: &Starts<'_>,
) -> Option<String> {
    // The excerpt shows the field.
    let whole =
        Finding { message: what.to_owned(), field: FieldPath::default(), ..finding.clone() };
    let title = escaped(&sentence(&whole));
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(title.as_str()).id(finding.code.as_str());
    let snippet = snippet(finding.origin.as_ref()?, "", texts, starts)?;
    let mut group = title.element(snippet);
    for (origin, what) in finding.related.iter().take(3) {
        if let Some(snippet) = self::snippet(origin, what, texts, starts) {
            group = group.element(snippet);
        }
    }
    Some(Renderer::plain().decor_style(DecorStyle::Ascii).render(&[group]))
}

fn snippet<'t>(
    origin: &Origin,
    label: &'t str,
    texts: &'t BTreeMap<Arc<str>, String>,
    starts: &Starts<'_>,
) -> Option<Snippet<'t, annotate_snippets::Annotation<'t>>> {
    let (file, text) = texts.get_key_value(&origin.file)?;
    let starts = starts.get(file)?;
    let at = origin.line.checked_sub(1)?;
    let line = text.get(lines(starts, text, at, at)?)?;
    let (column, _) = line.char_indices().nth(origin.column.checked_sub(1)?)?;
    // To the end of the text on the line, without comments.
    let rest = line.get(column..)?;
    let written = rest.split(" #").next().unwrap_or(rest).trim_end();
    if written.is_empty() {
        return None;
    }
    // The file may be a dump of a cluster, so the renderer gets only the lines that it shows.
    let first = at.saturating_sub(AROUND);
    let window = lines(starts, text, first, at + AROUND)?;
    let before = starts.get(at)?.checked_sub(window.start)? + column;
    let annotation = AnnotationKind::Primary.span(before..before + written.len());
    let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
    let snippet = Snippet::source(text.get(window)?).path(file.as_ref()).line_start(first + 1);
    Some(snippet.fold(false).annotation(annotation))
}

/// The offset at which each line begins.
fn starts(text: &str) -> Vec<usize> {
    let ends = text.match_indices('\n').map(|(at, _)| at + 1);
    [0].into_iter().chain(ends).collect()
}

/// The range from the beginning of one line to the end of another, without its line break.
fn lines(starts: &[usize], text: &str, first: usize, last: usize) -> Option<Range<usize>> {
    let start = *starts.get(first)?;
    let end = starts.get(last + 1).map_or(text.len(), |next| next - 1);
    Some(start..end)
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
