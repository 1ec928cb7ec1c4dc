//! The tokens that the scanner finds in the text.

use std::borrow::Cow;

use super::source::Spot;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    StreamEnd,
    Directive,
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias,
    Anchor,
    Tag,
    PlainScalar,
    /// With quotes, or a block scalar.
    OtherScalar,
}

#[derive(Debug)]
pub(super) struct Token<'text> {
    pub(super) kind: Kind,
    pub(super) start: Spot,
    pub(super) end: Spot,
    /// The text of a scalar, the name of an anchor or alias, or a tag without its handle.
    pub(super) text: Cow<'text, str>,
    /// The beginning of a tag: empty, `!`, `!!` or `!name!`.
    pub(super) handle: &'text str,
}

impl<'text> Token<'text> {
    pub(super) fn new(kind: Kind, start: Spot, end: Spot) -> Self {
        Self { kind, start, end, text: Cow::Borrowed(""), handle: "" }
    }

    pub(super) fn with_text(
        kind: Kind,
        start: Spot,
        end: Spot,
        text: impl Into<Cow<'text, str>>,
    ) -> Self {
        Self { kind, start, end, text: text.into(), handle: "" }
    }
}
