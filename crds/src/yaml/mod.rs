//! YAML text → the events of its first document, exactly as Go's `go.yaml.in/yaml/v2` yields them.
//!
//! ```text
//! text ──source──► characters ──scanner──► tokens ──parser──► events
//! ```
//!
//! kubectl and the API machinery read manifests with that package, which is a port of libyaml that
//! has gone its own way since. Other parsers follow YAML 1.2 and differ from it in both
//! directions, and a document that kubectl reads and we refuse is a Pod or a policy that is
//! missing here. So this is a port of its scanner and parser (v2.4.3: `readerc.go`, `scannerc.go`,
//! `parserc.go`), function by function; a test compares it with the original. What an event means
//! is the business of `manifest/`.
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

/// Why the text is not YAML, and where that shows.
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

/// What begins or ends at the place of an [`Event`].
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
        /// Whether the text alone decides the type: a scalar without quotes and without a tag.
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
