//! Tokens → events (`parserc.go`).

use std::borrow::Cow;

use super::scanner::Scanner;
use super::source::{Source, Spot};
use super::token::Kind;
use super::{Event, EventKind, YamlError};

/// The part that is expected next.
#[derive(Clone, Copy, Debug)]
enum State {
    ImplicitDocumentStart,
    DocumentStart,
    DocumentContent,
    DocumentEnd,
    BlockNode,
    BlockSequenceEntry,
    IndentlessSequenceEntry,
    BlockMappingKey,
    BlockMappingValue,
    FlowSequenceFirstEntry,
    FlowSequenceEntry,
    FlowPairKey,
    FlowPairValue,
    FlowPairEnd,
    FlowMappingFirstKey,
    FlowMappingKey,
    FlowMappingValue,
    FlowMappingEmptyValue,
    End,
}

/// The position of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Flow,
    Block,
    /// The key or value of a block mapping: a list need not be indented there.
    BlockField,
}

pub(crate) struct Parser<'text> {
    scanner: Scanner<'text>,
    state: State,
    states: Vec<State>,
}

/// The anchor and the tag in front of a node.
#[derive(Default)]
struct Properties<'text> {
    anchor: Option<Cow<'text, str>>,
    tag: Option<String>,
}

impl<'text> Parser<'text> {
    /// # Errors
    /// When the text has a character that YAML does not allow.
    pub(crate) fn new(text: &'text str) -> Result<Self, YamlError> {
        let scanner = Scanner::new(Source::new(text)?);
        Ok(Self { scanner, state: State::ImplicitDocumentStart, states: Vec::new() })
    }

    /// The next event; the end is returned again and again.
    pub(crate) fn next_event(&mut self) -> Result<Event<'text>, YamlError> {
        match self.state {
            State::ImplicitDocumentStart => self.document_start(true),
            State::DocumentStart => self.document_start(false),
            State::DocumentContent => self.document_content(),
            State::DocumentEnd => self.document_end(),
            State::BlockNode => self.node(Place::Block),
            State::BlockSequenceEntry => self.block_sequence_entry(),
            State::IndentlessSequenceEntry => self.indentless_sequence_entry(),
            State::BlockMappingKey => self.block_mapping_key(),
            State::BlockMappingValue => self.block_mapping_value(),
            State::FlowSequenceFirstEntry => self.flow_sequence_entry(true),
            State::FlowSequenceEntry => self.flow_sequence_entry(false),
            State::FlowPairKey => self.flow_pair_key(),
            State::FlowPairValue => self.flow_value(State::FlowPairEnd, Kind::FlowSequenceEnd),
            State::FlowPairEnd => {
                let spot = self.peek()?.1;
                self.state = State::FlowSequenceEntry;
                Ok(Event { spot, kind: EventKind::MappingEnd })
            }
            State::FlowMappingFirstKey => self.flow_mapping_key(true),
            State::FlowMappingKey => self.flow_mapping_key(false),
            State::FlowMappingValue => self.flow_value(State::FlowMappingKey, Kind::FlowMappingEnd),
            State::FlowMappingEmptyValue => {
                let spot = self.peek()?.1;
                Ok(self.empty(State::FlowMappingKey, spot))
            }
            State::End => Ok(Event { spot: self.peek()?.1, kind: EventKind::StreamEnd }),
        }
    }

    fn peek(&mut self) -> Result<(Kind, Spot, Spot), YamlError> {
        self.scanner.peek()
    }

    /// The kind and the beginning of the token behind the next one.
    fn advance(&mut self) -> Result<(Kind, Spot), YamlError> {
        self.scanner.take();
        self.peek().map(|(kind, start, _)| (kind, start))
    }

    /// Takes the next token, which ends a collection.
    fn end(&mut self, kind: EventKind<'text>) -> Result<Event<'text>, YamlError> {
        let spot = self.peek()?.1;
        self.scanner.take();
        self.pop();
        Ok(Event { spot, kind })
    }

    fn pop(&mut self) {
        self.state = self.states.pop().unwrap_or(State::End);
    }

    /// A scalar without a text.
    fn empty(&mut self, state: State, spot: Spot) -> Event<'text> {
        self.state = state;
        let text = Cow::Borrowed("");
        Event { spot, kind: EventKind::Scalar { text, anchor: None, tag: None, plain: true } }
    }

    /// Reads a node; `then` is the state after it.
    fn node_then(&mut self, then: State, place: Place) -> Result<Event<'text>, YamlError> {
        self.states.push(then);
        self.node(place)
    }

    fn document_start(&mut self, implicit: bool) -> Result<Event<'text>, YamlError> {
        let (mut kind, mut spot, _) = self.peek()?;
        while !implicit && kind == Kind::DocumentEnd {
            (kind, spot) = self.advance()?;
        }
        self.state = match kind {
            Kind::StreamEnd => {
                self.state = State::End;
                return Ok(Event { spot, kind: EventKind::StreamEnd });
            }
            Kind::DocumentStart => {
                self.scanner.take();
                State::DocumentContent
            }
            Kind::Directive => {
                let message = "did not find expected <document start> after a directive (`%`); \
                               remove the directive";
                return Err(YamlError { spot, message });
            }
            _ if implicit => State::BlockNode,
            _ => return Err(YamlError { spot, message: "did not find expected <document start>" }),
        };
        self.states.push(State::DocumentEnd);
        Ok(Event { spot, kind: EventKind::DocumentStart })
    }

    fn document_content(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, _) = self.peek()?;
        match kind {
            Kind::Directive | Kind::DocumentStart | Kind::DocumentEnd | Kind::StreamEnd => {
                self.pop();
                Ok(self.empty(self.state, spot))
            }
            _ => self.node(Place::Block),
        }
    }

    fn document_end(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, _) = self.peek()?;
        if kind == Kind::DocumentEnd {
            self.scanner.take();
        }
        self.state = State::DocumentStart;
        Ok(Event { spot, kind: EventKind::DocumentEnd })
    }

    fn node(&mut self, place: Place) -> Result<Event<'text>, YamlError> {
        let (kind, spot, _) = self.peek()?;
        if kind == Kind::Alias {
            let name = self.take_text();
            self.pop();
            return Ok(Event { spot, kind: EventKind::Alias(name) });
        }
        let Properties { anchor, tag } = self.properties(kind)?;
        let (kind, start, _) = self.peek()?;
        let in_block = place != Place::Flow;
        let kind = match kind {
            Kind::BlockEntry if place == Place::BlockField => {
                self.state = State::IndentlessSequenceEntry;
                EventKind::SequenceStart { anchor }
            }
            Kind::PlainScalar | Kind::OtherScalar => {
                let plain = match tag.as_deref() {
                    None => kind == Kind::PlainScalar,
                    Some(tag) => tag == "!",
                };
                let text = self.take_text();
                self.pop();
                EventKind::Scalar { text, anchor, tag, plain }
            }
            Kind::FlowSequenceStart => {
                self.scanner.take();
                self.state = State::FlowSequenceFirstEntry;
                EventKind::SequenceStart { anchor }
            }
            Kind::FlowMappingStart => {
                self.scanner.take();
                self.state = State::FlowMappingFirstKey;
                EventKind::MappingStart { anchor }
            }
            Kind::BlockSequenceStart if in_block => {
                self.scanner.take();
                self.state = State::BlockSequenceEntry;
                EventKind::SequenceStart { anchor }
            }
            Kind::BlockMappingStart if in_block => {
                self.scanner.take();
                self.state = State::BlockMappingKey;
                EventKind::MappingStart { anchor }
            }
            _ if anchor.is_some() || tag.is_some() => {
                self.pop();
                let (text, plain) = (Cow::Borrowed(""), tag.is_none());
                EventKind::Scalar { text, anchor, tag, plain }
            }
            _ => {
                let message = "did not find expected node content";
                return Err(YamlError { spot: start, message });
            }
        };
        Ok(Event { spot, kind })
    }

    fn take_text(&mut self) -> Cow<'text, str> {
        self.scanner.take().map(|token| token.text).unwrap_or_default()
    }

    /// An anchor, a tag, or both in any order.
    fn properties(&mut self, mut kind: Kind) -> Result<Properties<'text>, YamlError> {
        let mut found = Properties::default();
        loop {
            match kind {
                Kind::Anchor if found.anchor.is_none() => found.anchor = Some(self.take_text()),
                Kind::Tag if found.tag.is_none() => found.tag = Some(self.take_tag()?),
                _ => return Ok(found),
            }
            kind = self.peek()?.0;
        }
    }

    fn take_tag(&mut self) -> Result<String, YamlError> {
        let spot = self.peek()?.1;
        let Some(token) = self.scanner.take() else { return Ok(String::new()) };
        let prefix = match token.handle {
            "" => "",
            "!" => "!",
            "!!" => "tag:yaml.org,2002:",
            _ => return Err(YamlError { spot, message: "found undefined tag handle" }),
        };
        Ok(format!("{prefix}{}", token.text))
    }

    fn block_sequence_entry(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, end) = self.peek()?;
        match kind {
            Kind::BlockEntry => match self.advance()?.0 {
                Kind::BlockEntry | Kind::BlockEnd => Ok(self.empty(State::BlockSequenceEntry, end)),
                _ => self.node_then(State::BlockSequenceEntry, Place::Block),
            },
            Kind::BlockEnd => self.end(EventKind::SequenceEnd),
            _ => Err(YamlError { spot, message: "did not find expected '-' indicator" }),
        }
    }

    fn indentless_sequence_entry(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, end) = self.peek()?;
        if kind != Kind::BlockEntry {
            self.pop();
            return Ok(Event { spot, kind: EventKind::SequenceEnd });
        }
        match self.advance()?.0 {
            Kind::BlockEntry | Kind::Key | Kind::Value | Kind::BlockEnd => {
                Ok(self.empty(State::IndentlessSequenceEntry, end))
            }
            _ => self.node_then(State::IndentlessSequenceEntry, Place::Block),
        }
    }

    fn block_mapping_key(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, end) = self.peek()?;
        match kind {
            Kind::Key => self.block_field(State::BlockMappingValue, end),
            Kind::BlockEnd => self.end(EventKind::MappingEnd),
            _ => Err(YamlError { spot, message: "did not find expected key" }),
        }
    }

    fn block_mapping_value(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, spot, end) = self.peek()?;
        match kind {
            Kind::Value => self.block_field(State::BlockMappingKey, end),
            _ => Ok(self.empty(State::BlockMappingKey, spot)),
        }
    }

    /// The key or value behind the next token, which ends at `end`.
    fn block_field(&mut self, then: State, end: Spot) -> Result<Event<'text>, YamlError> {
        match self.advance()?.0 {
            Kind::Key | Kind::Value | Kind::BlockEnd => Ok(self.empty(then, end)),
            _ => self.node_then(then, Place::BlockField),
        }
    }

    fn flow_sequence_entry(&mut self, first: bool) -> Result<Event<'text>, YamlError> {
        let (mut kind, mut spot, _) = self.peek()?;
        if kind != Kind::FlowSequenceEnd && !first {
            if kind != Kind::FlowEntry {
                return Err(YamlError { spot, message: "did not find expected ',' or ']'" });
            }
            (kind, spot) = self.advance()?;
        }
        match kind {
            Kind::FlowSequenceEnd => self.end(EventKind::SequenceEnd),
            Kind::Key => {
                self.scanner.take();
                self.state = State::FlowPairKey;
                Ok(Event { spot, kind: EventKind::MappingStart { anchor: None } })
            }
            _ => self.node_then(State::FlowSequenceEntry, Place::Flow),
        }
    }

    /// The key of a pair in a flow sequence.
    fn flow_pair_key(&mut self) -> Result<Event<'text>, YamlError> {
        let (kind, _, end) = self.peek()?;
        match kind {
            Kind::Value | Kind::FlowEntry | Kind::FlowSequenceEnd => {
                self.scanner.take();
                Ok(self.empty(State::FlowPairValue, end))
            }
            _ => self.node_then(State::FlowPairValue, Place::Flow),
        }
    }

    fn flow_mapping_key(&mut self, first: bool) -> Result<Event<'text>, YamlError> {
        let (mut kind, spot, _) = self.peek()?;
        if kind != Kind::FlowMappingEnd && !first {
            if kind != Kind::FlowEntry {
                return Err(YamlError { spot, message: "did not find expected ',' or '}'" });
            }
            kind = self.advance()?.0;
        }
        match kind {
            Kind::FlowMappingEnd => self.end(EventKind::MappingEnd),
            Kind::Key => match self.advance()? {
                (Kind::Value | Kind::FlowEntry | Kind::FlowMappingEnd, spot) => {
                    Ok(self.empty(State::FlowMappingValue, spot))
                }
                _ => self.node_then(State::FlowMappingValue, Place::Flow),
            },
            _ => self.node_then(State::FlowMappingEmptyValue, Place::Flow),
        }
    }

    /// The value of a pair; the collection around it ends with `close`.
    fn flow_value(&mut self, then: State, close: Kind) -> Result<Event<'text>, YamlError> {
        let (mut kind, mut spot, _) = self.peek()?;
        if kind == Kind::Value {
            (kind, spot) = self.advance()?;
            if kind != Kind::FlowEntry && kind != close {
                return self.node_then(then, Place::Flow);
            }
        }
        Ok(self.empty(then, spot))
    }
}
