//! Collects the errors and warnings about one object during its conversion.

use crate::diagnostic::{About, Diagnostic, Severity};
use crate::manifest::{Document, Mark};
use crate::path::{FieldPath, Path, Step};

/// Collects the diagnostics of one object.
pub(crate) struct Report<'a> {
    /// The object that is being converted.
    pub(crate) about: About,
    document: Option<&'a Document>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    /// An empty report about an object in `document`; without it, of an API server.
    pub(crate) fn new(document: Option<&'a Document>) -> Self {
        Self { about: About::nothing(), document, diagnostics: Vec::new() }
    }

    /// The part at `path` is not enforced as written.
    pub(crate) fn error(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.error_at(path.into(), message.into());
    }

    /// The part at `path` is enforced as written, but it is not correct.
    pub(crate) fn warning(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.push(Severity::Warning, path.into(), message.into());
    }

    /// As [`Report::error`], for a path that was computed.
    pub(crate) fn error_at(&mut self, path: FieldPath, message: String) {
        self.push(Severity::Error, path, message);
    }

    /// Whether the key at `path` is given more than once.
    pub(crate) fn is_repeated(&self, path: &Path<'_>) -> bool {
        let path = FieldPath::from(path);
        let Some((Step::Key(key), parent)) = path.steps().split_last() else { return false };
        let mark = self.document.and_then(|document| document.repeating()?.get(parent));
        mark.is_some_and(|mark| mark.repetition(key).is_some())
    }

    /// The first key that is given more than once below `path`.
    pub(crate) fn repeated_below(&self, path: &Path<'_>) -> Option<FieldPath> {
        let path = FieldPath::from(path);
        let mark = self.document?.repeating()?.get(path.steps())?;
        let (below, _) = mark.repetitions().into_iter().next()?;
        Some(path.join(below))
    }

    /// Reports every repeated key that `skip` does not exclude.
    pub(crate) fn repeated_keys(&mut self, skip: impl Fn(&[Step]) -> bool) {
        let Some(document) = self.document else { return };
        let repeated = document.repeating().map(Mark::repetitions);
        for (steps, place) in repeated.into_iter().flatten() {
            if !skip(&steps) {
                self.diagnostics.push(Diagnostic {
                    severity: Severity::Error,
                    source: Some(document.at(place)),
                    about: self.about.clone(),
                    field: steps.into_iter().collect(),
                    message: "is given more than once; the last one is used; delete the others"
                        .to_owned(),
                });
            }
        }
    }

    /// The diagnostics, in the order in which they were found.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    fn push(&mut self, severity: Severity, field: FieldPath, message: String) {
        self.diagnostics.push(Diagnostic {
            severity,
            source: self.document.map(|document| document.origin_at(&field)),
            about: self.about.clone(),
            field,
            message,
        });
    }
}
