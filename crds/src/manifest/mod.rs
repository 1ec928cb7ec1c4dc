//! The text of a file → the documents in it, each with the places of its fields.
//!
//! ```text
//! text ──stream──► parts ──tree──► value + places ──flatten Lists──► Documents
//! ```
//!
//! Every step accepts and rejects the same texts as kubectl. A part that cannot be read does not
//! affect the other parts. Size, nesting and aliases are limited, so that no file stops an agent.

mod items;
mod json;
mod large;
mod mark;
mod scalar;
mod stream;
mod timestamp;
mod tree;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::diagnostic::{About, Diagnostic, Origin, Severity};
use crate::path::FieldPath;
use json::Places;
pub(crate) use mark::Mark;
use mark::{Inner, Place};
pub use stream::decode;
use stream::{Content, Part};
use tree::{Read, Tree};

/// The largest part between two `---` lines that is read, in bytes: a List of some 5,000 whole pods.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// The content of a file.
#[derive(Debug)]
pub struct Manifest {
    /// The objects in the order they are written, Lists flattened.
    pub documents: Vec<Document>,
    /// One error for each part that could not be read; empty if the whole file was read.
    pub diagnostics: Vec<Diagnostic>,
}

/// One object as it is written, before anything is known about its kind.
#[derive(Debug)]
pub struct Document {
    file: Arc<str>,
    /// Empty after [`Document::release`], until the value is needed again.
    value: OnceLock<Value>,
    places: Places,
    /// Line of the file that is line 1 of the part the marks count in, minus one.
    first_line: usize,
}

impl Manifest {
    /// Reads YAML or JSON `text`; `file` is its name in diagnostics.
    ///
    /// Documents, scalars, anchors, aliases, tags and merge keys have the same meaning as in
    /// kubectl. Empty documents are left out. `kind: List` and every `…List` with `items` are
    /// replaced by their items. An item without a kind gets the kind from its list, as in responses
    /// of an API server.
    #[must_use]
    pub fn parse(file: &str, text: &str) -> Self {
        let file: Arc<str> = file.into();
        let mut manifest = Self { documents: Vec::new(), diagnostics: Vec::new() };
        for part in stream::parts(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            manifest.read(&file, &part);
        }
        manifest
    }

    /// Whether every part of the file could be read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.diagnostics.is_empty()
    }

    fn read(&mut self, file: &Arc<str>, part: &Part) {
        let first_line = part.first_line;
        let (text, is_json) = match &part.content {
            Content::Json(text) => (*text, true),
            Content::Yaml(text) => (&**text, false),
            Content::Refused { line, message } => {
                self.lose(file, Place { line: *line, column: 1 }, (*message).to_owned());
                return;
            }
        };
        if text.len() > MAX_DOCUMENT_BYTES {
            let message = format!(
                "the document has {} bytes, more than {MAX_DOCUMENT_BYTES}; nothing in it is \
                 read; split it",
                text.len()
            );
            self.lose(file, Place { line: first_line + 1, column: 1 }, message);
            return;
        }
        if is_json && let Some(value) = json::plain_object(text) {
            let places = Places::of_json(text);
            self.push(Document::new(file, value, places, first_line));
            return;
        }
        match if is_json { json::read(text) } else { tree::read(text) } {
            Ok(Read { tree, unread }) => {
                if let Some(Tree { value, mark, .. }) = tree {
                    let places = Places::Known(mark);
                    self.push(Document::new(file, value, places, first_line));
                }
                if let Some(place) = unread {
                    let message = "a second document begins without a line `---` before it; \
                                   nothing of it is read; kubectl ignores it too";
                    let line = first_line + place.line;
                    self.lose(file, Place { line, ..place }, message.to_owned());
                }
            }
            Err(error) => {
                let line = first_line + error.place.line;
                let message = format!("{}; nothing in this document is read", error.message);
                self.lose(file, Place { line, ..error.place }, message);
            }
        }
    }

    fn push(&mut self, document: Document) {
        match document.into_items() {
            Ok(items) => items.into_iter().for_each(|item| self.push(item)),
            Err(document) => self.documents.push(*document),
        }
    }

    fn lose(&mut self, file: &Arc<str>, place: Place, message: String) {
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            source: Some(Origin { file: Arc::clone(file), line: place.line, column: place.column }),
            about: About::nothing(),
            field: FieldPath::default(),
            message,
        });
    }
}

impl Document {
    fn new(file: &Arc<str>, value: Value, places: Places, first_line: usize) -> Self {
        Self { file: Arc::clone(file), value: OnceLock::from(value), places, first_line }
    }

    /// Frees the memory of the value if it can be read again. A cluster has many objects, and few
    /// of them are needed twice.
    pub fn release(&mut self) {
        if self.places.json().is_some() {
            self.value.take();
        }
    }

    /// The object as JSON, as kubectl would send it.
    #[must_use]
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| {
            let value = self.places.json().and_then(json::plain_object);
            // The value is released only if it can be read again.
            value.unwrap_or_default()
        })
    }

    /// `apiVersion`, if it is text.
    #[must_use]
    pub fn api_version(&self) -> Option<&str> {
        self.value().get("apiVersion")?.as_str()
    }

    /// `kind`, if it is text.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.value().get("kind")?.as_str()
    }

    /// The place where the object begins.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.at(self.places.start())
    }

    /// The place of a field, or of the nearest existing field around it.
    #[must_use]
    pub fn origin_at(&self, field: &FieldPath) -> Origin {
        self.at(self.places.mark().locate(field.steps()))
    }

    /// The places of its fields; `None` if no key is given more than once.
    pub(crate) fn repeating(&self) -> Option<&Mark> {
        self.places.repeating()
    }

    pub(crate) fn at(&self, place: Place) -> Origin {
        let line = self.first_line + place.line;
        Origin { file: Arc::clone(&self.file), line, column: place.column }
    }

    /// The items of a List; the document itself if it is not a List.
    fn into_items(self) -> Result<Vec<Self>, Box<Self>> {
        let item_kind = match self.kind().and_then(|kind| kind.strip_suffix("List")) {
            Some(kind) if self.value().get("items").is_some_and(Value::is_array) => kind.to_owned(),
            Some("") if self.value().get("items").is_none_or(Value::is_null) => {
                return Ok(Vec::new());
            }
            _ => return Err(Box::new(self)),
        };
        let api_version = self.api_version().map(str::to_owned);
        let Self { file, value, places, first_line } = self;
        let mut value = value.into_inner();
        let items = match value.as_mut().and_then(|value| value.get_mut("items")).map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let mut marks = items_marks(places.into_mark(), items.len()).into_iter();
        let mut documents = Vec::with_capacity(items.len());
        for mut value in items {
            if let (Value::Object(fields), false) = (&mut value, item_kind.is_empty()) {
                fields.entry("kind").or_insert_with(|| item_kind.as_str().into());
                fields.entry("apiVersion").or_insert_with(|| api_version.as_deref().into());
            }
            let mark = marks.next().unwrap_or(Mark::leaf(Place { line: 1, column: 1 }));
            let places = Places::Known(mark);
            documents.push(Self::new(&file, value, places, first_line));
        }
        Ok(documents)
    }
}

/// The marks of the `count` items of a List.
fn items_marks(mark: Mark, count: usize) -> Vec<Mark> {
    let place = mark.place;
    if let Inner::Fields { mut fields, .. } = mark.inner
        && let Some((_, Mark { inner: Inner::Items(marks), .. })) = fields.remove("items")
    {
        return marks;
    }
    vec![Mark::leaf(place); count]
}
