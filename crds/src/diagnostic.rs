//! Errors and warnings about an object: data for people, and not a log line.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use policy_engine::object::ObjectRef;

use crate::path::FieldPath;

/// The severity of a diagnostic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The object is not enforced as written.
    Error,
    /// The object is enforced as written, but an API server would report an error.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in a file. Lines and columns count from 1; a column is a character, not a byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The name of the file, as its reader was given it.
    pub file: Arc<str>,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", Shown(&self.file), self.line, self.column)
    }
}

/// The subject of a diagnostic. Objects are sorted by the text of their kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum About {
    /// An object of a kind that the engine or the command line tool knows.
    Object(ObjectRef),
    /// A kind or an object that cannot be read, so that it may not be enforced. An agent with such
    /// a diagnostic is not ready.
    Unread(String),
    /// Another subject: an object of another kind or without a name, a node; empty for a file.
    Other(String),
}

impl About {
    /// The subject without a name.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Other(String::new())
    }

    /// The object, when it has a name.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectRef> {
        match self {
            Self::Object(object) => Some(object),
            Self::Unread(_) | Self::Other(_) => None,
        }
    }

    fn order(&self) -> (&str, &str, &str, bool) {
        match self {
            Self::Object(object) => (object.kind.as_str(), &object.namespace, &object.name, false),
            Self::Unread(text) => (text, "", "", true),
            Self::Other(text) => (text, "", "", false),
        }
    }
}

/// Kind and name, as `NetworkPolicy shop/db`; empty when both are unknown.
impl fmt::Display for About {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => formatter.write_str(&object.titled()),
            Self::Unread(text) | Self::Other(text) => formatter.write_str(text),
        }
    }
}

impl Ord for About {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for About {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An error or a warning about one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The place in a file; `None` for an object from an API server.
    pub source: Option<Origin>,
    /// The subject.
    pub about: About,
    /// The field; empty for the object as a whole.
    pub field: FieldPath,
    /// The problem, what is enforced instead and, unless it is obvious, the fix.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: error: NetworkPolicy shop/db: spec.ingress: message`.
    ///
    /// Control characters of names and values are escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(formatter, "{source}: ")?;
        }
        write!(formatter, "{}: ", self.severity)?;
        for part in [self.about.to_string(), self.field.to_string()] {
            if !part.is_empty() {
                write!(formatter, "{}: ", Shown(&part))?;
            }
        }
        write!(formatter, "{}", Shown(&self.message))
    }
}

/// Text from an untrusted source, on one line of a terminal.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                write!(formatter, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::object::Kind;

    use super::*;

    #[test]
    fn a_diagnostic_is_one_line_whatever_the_names_hold() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            source: Some(Origin { file: "a\n.yaml".into(), line: 3, column: 7 }),
            about: About::Object(ObjectRef::new(Kind::Pod, "shop", "\u{1b}[31mdb")),
            field: FieldPath::default(),
            message: "no\nname".to_owned(),
        };
        let shown = diagnostic.to_string();
        assert_eq!(shown, r"a\n.yaml:3:7: error: Pod shop/\u{1b}[31mdb: no\nname");
    }
}
