//! What is wrong with an object: data for people, never a log line.

use std::fmt;
use std::sync::Arc;

/// How much a diagnostic matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// What the author wrote is not what is in force.
    Error,
    /// It is in force as written, but an API server would complain.
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
    /// The file, as its reader named it.
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

/// One thing that is wrong with one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// Where it is written; `None` for an object that came from an API server.
    pub source: Option<Origin>,
    /// Kind and name, as `NetworkPolicy shop/db`; empty when even that is not known.
    pub object: String,
    /// The field, as `spec.ingress[0].ports[1].endPort`; empty for the object as a whole.
    pub field: String,
    /// What is wrong, what is in force instead and, unless it is plain, what to do.
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
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(formatter, "{}: ", Shown(part))?;
            }
        }
        write!(formatter, "{}", Shown(&self.message))
    }
}

/// Text of a stranger on one line of a terminal.
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
    use super::*;

    #[test]
    fn a_diagnostic_is_one_line_whatever_the_names_hold() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            source: Some(Origin { file: "a\n.yaml".into(), line: 3, column: 7 }),
            object: "Pod shop/\u{1b}[31mdb".to_owned(),
            field: String::new(),
            message: "no\nname".to_owned(),
        };
        let shown = diagnostic.to_string();
        assert_eq!(shown, r"a\n.yaml:3:7: error: Pod shop/\u{1b}[31mdb: no\nname");
    }
}
