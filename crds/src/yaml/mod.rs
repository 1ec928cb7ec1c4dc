//! YAML text → the events of its first document, exactly as Go's `go.yaml.in/yaml/v2` yields them.
//!
//! ```text
//! text ──source──► characters ──scanner──► tokens ──parser──► events
//! ```
//!
//! kubectl and the API machinery read manifests with that package, a port of libyaml that has been
//! changed since. Other parsers follow YAML 1.2 and differ from it in both directions. If we
//! rejected a document that kubectl reads, its Pod or policy would be missing here. So this is a
//! port of the scanner and parser (v2.4.3: `readerc.go`, `scannerc.go`, `parserc.go`), function by
//! function; a test compares it with the original. `manifest/` interprets the events.
//!
//! The original is by Gustavo Niemeyer and Canonical Ltd. (Apache License 2.0), and by Kirill Simonov
//! (MIT License, `LICENSE.libyaml` beside this file).
//!
//! Not ported: comments, styles, the emitter, and limits on nesting that are far above ours.
//! Nothing here recurses, and look-ahead ends after 1,024 characters.

mod directive;
mod parser;
mod scalar;
mod scanner;
mod source;
mod tag;
mod token;

use std::borrow::Cow;

pub(crate) use parser::Parser;
pub(crate) use source::{Spot, lossy};

/// The error in a text that is not YAML, and its place.
#[derive(Debug)]
pub(crate) struct YamlError {
    pub(crate) spot: Spot,
    pub(crate) message: &'static str,
}

/// A part of a document, with the place where it begins.
#[derive(PartialEq, Debug)]
pub(crate) struct Event<'text> {
    pub(crate) spot: Spot,
    pub(crate) kind: EventKind<'text>,
}

/// The part that begins or ends at the place of an [`Event`].
#[derive(PartialEq, Debug)]
pub(crate) enum EventKind<'text> {
    StreamEnd,
    DocumentStart,
    DocumentEnd,
    Alias(Cow<'text, str>),
    Scalar {
        text: Cow<'text, str>,
        anchor: Option<Cow<'text, str>>,
        /// The whole tag, as `tag:yaml.org,2002:str`.
        tag: Option<String>,
        /// Whether only the text decides the type: a scalar without quotes and without a tag.
        plain: bool,
    },
    SequenceStart {
        anchor: Option<Cow<'text, str>>,
    },
    SequenceEnd,
    MappingStart {
        anchor: Option<Cow<'text, str>>,
    },
    MappingEnd,
}
