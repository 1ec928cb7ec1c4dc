//! Excerpts of manifests with the place that matters marked, as rustc shows code.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use portcullis_crds::diagnostic::Origin;

/// A place in a file with a message about it.
pub(super) struct Mark<'a> {
    /// The place.
    pub(super) origin: &'a Origin,
    /// The message.
    pub(super) label: String,
}

/// `title` over an excerpt of `text` with all marks; the title refers to the first mark. `None`
/// when there is no mark, or none of them lies in the text.
pub(super) fn excerpt(title: &str, text: &str, marks: &[Mark<'_>]) -> Option<String> {
    let file = marks.first()?.origin.file.to_string();
    let mut snippet = Snippet::source(text).path(file).line_start(1);
    let mut found = false;
    for (number, mark) in marks.iter().enumerate() {
        let Some(span) = span(text, mark.origin) else { continue };
        let kind = if number == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        snippet = snippet.annotation(kind.span(span).label(mark.label.as_str()));
        found = true;
    }
    let group = Level::NOTE.primary_title(title).element(snippet);
    let renderer = Renderer::plain().decor_style(DecorStyle::Ascii);
    found.then(|| renderer.render(&[group]))
}

/// The range from the place to the end of the text on its line, without comments.
fn span(text: &str, origin: &Origin) -> Option<std::ops::Range<usize>> {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(origin.line.checked_sub(1)?).map(str::len).sum();
    let line = lines.next()?;
    let (start, _) = line.char_indices().nth(origin.column.checked_sub(1)?)?;
    let rest = line.get(start..)?;
    let written = rest.split(" #").next().unwrap_or(rest).trim_end();
    (!written.is_empty()).then(|| before + start..before + start + written.len())
}
