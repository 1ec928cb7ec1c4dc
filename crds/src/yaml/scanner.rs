//! Characters → tokens: indentation, keys and flow collections (`scannerc.go`).
//!
//! A key without `?` is recognized only at its `:`. So the scanner records where a simple key may
//! have begun, and inserts the tokens for the key before the tokens that follow it.

use std::collections::VecDeque;

use super::YamlError;
use super::source::{Source, Spot};
use super::token::{Kind, Token};

/// How many characters may be between the beginning of a simple key and its `:`.
const SIMPLE_KEY_CHARACTERS: usize = 1024;

pub(super) struct Scanner<'text> {
    pub(super) source: Source<'text>,
    tokens: VecDeque<Token<'text>>,
    /// How many tokens were taken.
    taken: usize,
    /// Whether the first token is known to be final.
    available: bool,
    /// The column of the block that is open; -1 outside of blocks.
    pub(super) indent: isize,
    indents: Vec<isize>,
    pub(super) simple_key_allowed: bool,
    /// Where a simple key may have begun: outside of flow collections, then one for each that is
    /// open. Their token numbers never decrease.
    simple_keys: Vec<SimpleKey>,
}

struct SimpleKey {
    possible: bool,
    /// Whether there must be a key here, because no other token is possible.
    required: bool,
    /// Whether its token waits until it is known whether it is a key.
    waits: bool,
    token: usize,
    spot: Spot,
}

impl SimpleKey {
    fn none(token: usize, spot: Spot) -> Self {
        Self { possible: false, required: false, waits: false, token, spot }
    }
}

impl<'text> Scanner<'text> {
    pub(super) fn new(source: Source<'text>) -> Self {
        Self {
            source,
            tokens: VecDeque::new(),
            taken: 0,
            available: false,
            indent: -1,
            indents: Vec::new(),
            simple_key_allowed: true,
            simple_keys: vec![SimpleKey::none(0, Spot::default())],
        }
    }

    /// Kind, beginning and end of the next token.
    pub(super) fn peek(&mut self) -> Result<(Kind, Spot, Spot), YamlError> {
        while !self.available {
            self.available = !self.tokens.is_empty() && !self.first_may_follow_key()?;
            if !self.available {
                self.fetch()?;
            }
        }
        let end = self.source.spot();
        let first = self.tokens.front();
        Ok(first.map_or((Kind::StreamEnd, end, end), |token| (token.kind, token.start, token.end)))
    }

    /// Removes and returns the token that `peek` returned.
    pub(super) fn take(&mut self) -> Option<Token<'text>> {
        // No token follows the end.
        self.available = self.tokens.front().is_some_and(|token| token.kind == Kind::StreamEnd);
        if self.available {
            return None;
        }
        self.taken += 1;
        self.tokens.pop_front()
    }

    pub(super) fn in_flow(&self) -> bool {
        self.simple_keys.len() > 1
    }

    /// Whether a simple key may turn out to begin at the first token.
    fn first_may_follow_key(&mut self) -> Result<bool, YamlError> {
        let taken = self.taken;
        let at = self.simple_keys.partition_point(|key| key.token < taken);
        match self.simple_keys.get(at) {
            Some(key) if key.token == taken && key.waits => self.is_possible(at),
            _ => Ok(false),
        }
    }

    fn is_possible(&mut self, at: usize) -> Result<bool, YamlError> {
        let here = self.source.spot();
        let Some(key) = self.simple_keys.get_mut(at).filter(|key| key.possible) else {
            return Ok(false);
        };
        let too_far = key.spot.column + SIMPLE_KEY_CHARACTERS < here.column;
        if key.spot.line < here.line || too_far {
            if key.required {
                return Err(YamlError { spot: here, message: "could not find expected ':'" });
            }
            key.possible = false;
        }
        Ok(key.possible)
    }

    fn fetch(&mut self) -> Result<(), YamlError> {
        self.skip_to_token();
        let source = &self.source;
        self.unroll_indent(source.column().cast_signed());
        let source = &self.source;
        let (in_flow, at_line_start) = (self.in_flow(), source.column() == 0);
        match source.byte(0) {
            _ if source.is_end() => self.fetch_end(),
            b'%' if at_line_start => self.fetch_directive(),
            b'-' if at_line_start && source.is_marker(b'-') => {
                self.fetch_marker(Kind::DocumentStart)
            }
            b'.' if at_line_start && source.is_marker(b'.') => self.fetch_marker(Kind::DocumentEnd),
            b'[' => self.fetch_flow_start(Kind::FlowSequenceStart),
            b'{' => self.fetch_flow_start(Kind::FlowMappingStart),
            b']' => self.fetch_flow_end(Kind::FlowSequenceEnd),
            b'}' => self.fetch_flow_end(Kind::FlowMappingEnd),
            b',' => {
                self.remove_simple_key()?;
                self.simple_key_allowed = true;
                self.fetch_indicator(Kind::FlowEntry);
                Ok(())
            }
            b'-' if source.is_blank_or_end(1) => self.fetch_block_entry(),
            b'?' if in_flow || source.is_blank_or_end(1) => self.fetch_key(),
            b':' if in_flow || source.is_blank_or_end(1) => self.fetch_value(),
            b'*' => self.fetch_with_key(|scanner| scanner.scan_anchor(Kind::Alias)),
            b'&' => self.fetch_with_key(|scanner| scanner.scan_anchor(Kind::Anchor)),
            b'!' => self.fetch_with_key(Self::scan_tag),
            b'|' | b'>' if !in_flow => {
                self.remove_simple_key()?;
                self.simple_key_allowed = true;
                let token = self.scan_block_scalar()?;
                self.push(token);
                Ok(())
            }
            b'\'' | b'"' => self.fetch_with_key(Self::scan_quoted_scalar),
            first if self.may_begin_plain(first) => self.fetch_with_key(Self::scan_plain_scalar),
            _ => Err(self.source.error("found character that cannot start any token")),
        }
    }

    fn may_begin_plain(&self, first: u8) -> bool {
        match first {
            b'-' => !self.source.is_blank(1),
            b'?' | b':' => !self.in_flow() && !self.source.is_blank_or_end(1),
            b',' | b'[' | b']' | b'{' | b'}' | b'#' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\''
            | b'"' | b'%' | b'@' | b'`' => false,
            _ => !self.source.is_blank_or_end(0),
        }
    }

    /// Skips blanks, comments and line breaks. A tab is a blank where no key of a block can begin.
    fn skip_to_token(&mut self) {
        loop {
            while self.source.byte(0) == b' '
                || (self.source.byte(0) == b'\t' && (self.in_flow() || !self.simple_key_allowed))
            {
                self.source.skip();
            }
            self.source.skip_comment();
            if !self.source.is_break(0) {
                return;
            }
            self.source.take_break();
            if !self.in_flow() {
                self.simple_key_allowed = true;
            }
        }
    }

    fn push(&mut self, token: Token<'text>) {
        self.tokens.push_back(token);
    }

    /// One character that is a token.
    fn fetch_indicator(&mut self, kind: Kind) {
        let start = self.source.spot();
        self.source.skip();
        let end = self.source.spot();
        self.push(Token::new(kind, start, end));
    }

    /// A token at which a simple key may begin, and which none can follow.
    fn fetch_with_key(
        &mut self,
        scan: impl FnOnce(&mut Self) -> Result<Token<'text>, YamlError>,
    ) -> Result<(), YamlError> {
        self.save_simple_key()?;
        self.simple_key_allowed = false;
        let token = scan(self)?;
        self.push(token);
        Ok(())
    }

    fn save_simple_key(&mut self) -> Result<(), YamlError> {
        if !self.simple_key_allowed {
            return Ok(());
        }
        self.remove_simple_key()?;
        let spot = self.source.spot();
        let required = !self.in_flow() && self.indent == spot.column.cast_signed();
        let token = self.taken + self.tokens.len();
        if let Some(key) = self.simple_keys.last_mut() {
            *key = SimpleKey { possible: true, required, waits: true, token, spot };
        }
        Ok(())
    }

    fn remove_simple_key(&mut self) -> Result<(), YamlError> {
        match self.simple_keys.last_mut() {
            Some(key) if key.possible && key.required => {
                Err(self.source.error("could not find expected ':'"))
            }
            Some(key) => {
                key.possible = false;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Opens a block at `column` unless it is open; its token gets the number `before`, or is the
    /// last.
    fn roll_indent(&mut self, column: usize, before: Option<usize>, kind: Kind, spot: Spot) {
        let column = column.cast_signed();
        if self.in_flow() || self.indent >= column {
            return;
        }
        self.indents.push(self.indent);
        self.indent = column;
        self.insert(before, Token::new(kind, spot, spot));
    }

    fn insert(&mut self, before: Option<usize>, token: Token<'text>) {
        let last = self.tokens.len();
        // A token that would be before a token already taken is added at the end, as in Go.
        let at = before.and_then(|number| number.checked_sub(self.taken)).unwrap_or(last).min(last);
        self.tokens.insert(at, token);
    }

    /// Closes the blocks that are further right than `column`.
    fn unroll_indent(&mut self, column: isize) {
        while !self.in_flow() && self.indent > column {
            let spot = self.source.spot();
            self.push(Token::new(Kind::BlockEnd, spot, spot));
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn fetch_end(&mut self) -> Result<(), YamlError> {
        self.source.end_line();
        self.close_blocks()?;
        let spot = self.source.spot();
        self.push(Token::new(Kind::StreamEnd, spot, spot));
        Ok(())
    }

    fn close_blocks(&mut self) -> Result<(), YamlError> {
        self.unroll_indent(-1);
        self.remove_simple_key()?;
        self.simple_key_allowed = false;
        Ok(())
    }

    fn fetch_directive(&mut self) -> Result<(), YamlError> {
        self.close_blocks()?;
        let token = self.scan_directive()?;
        self.push(token);
        Ok(())
    }

    fn fetch_marker(&mut self, kind: Kind) -> Result<(), YamlError> {
        self.close_blocks()?;
        let start = self.source.spot();
        self.source.skip_many(3);
        let end = self.source.spot();
        self.push(Token::new(kind, start, end));
        Ok(())
    }

    fn fetch_flow_start(&mut self, kind: Kind) -> Result<(), YamlError> {
        self.save_simple_key()?;
        let (token, spot) = (self.taken + self.tokens.len(), self.source.spot());
        self.simple_keys.push(SimpleKey::none(token, spot));
        self.simple_key_allowed = true;
        self.fetch_indicator(kind);
        Ok(())
    }

    fn fetch_flow_end(&mut self, kind: Kind) -> Result<(), YamlError> {
        self.remove_simple_key()?;
        if self.in_flow() {
            let inner = self.simple_keys.pop().map(|key| key.token);
            // In Go, both share an entry until a key begins inside. The entry is removed here: so
            // an empty collection that turns out to be a key is not a key any more.
            if let Some(outer) = self.simple_keys.last_mut().filter(|key| Some(key.token) == inner)
            {
                outer.waits = false;
            }
        }
        self.simple_key_allowed = false;
        self.fetch_indicator(kind);
        Ok(())
    }

    fn fetch_block_entry(&mut self) -> Result<(), YamlError> {
        let refused = "block sequence entries are not allowed in this context";
        self.begin_block(Kind::BlockSequenceStart, refused)?;
        self.remove_simple_key()?;
        self.simple_key_allowed = true;
        self.fetch_indicator(Kind::BlockEntry);
        Ok(())
    }

    /// Begins a collection of the block style here, if none begins at this column and this is not
    /// inside a flow collection. `refused` is the error where no collection can begin.
    fn begin_block(&mut self, kind: Kind, refused: &'static str) -> Result<(), YamlError> {
        if self.in_flow() {
            return Ok(());
        }
        if !self.simple_key_allowed {
            return Err(self.source.error(refused));
        }
        let spot = self.source.spot();
        self.roll_indent(spot.column, None, kind, spot);
        Ok(())
    }

    fn fetch_key(&mut self) -> Result<(), YamlError> {
        let refused = "mapping keys are not allowed in this context";
        self.begin_block(Kind::BlockMappingStart, refused)?;
        self.remove_simple_key()?;
        self.simple_key_allowed = !self.in_flow();
        self.fetch_indicator(Kind::Key);
        Ok(())
    }

    fn fetch_value(&mut self) -> Result<(), YamlError> {
        let at = self.simple_keys.len() - 1;
        let is_simple = self.is_possible(at)?;
        if let Some(key) = self.simple_keys.get_mut(at).filter(|_| is_simple) {
            key.possible = false;
            let (number, spot) = (key.token, key.spot);
            self.insert(Some(number), Token::new(Kind::Key, spot, spot));
            self.roll_indent(spot.column, Some(number), Kind::BlockMappingStart, spot);
            self.simple_key_allowed = false;
        } else {
            let refused = "mapping values are not allowed in this context";
            self.begin_block(Kind::BlockMappingStart, refused)?;
            self.simple_key_allowed = !self.in_flow();
        }
        self.fetch_indicator(Kind::Value);
        Ok(())
    }
}
