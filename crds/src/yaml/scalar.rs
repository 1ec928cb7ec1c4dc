//! The scalars: plain, with quotes, and blocks (`scannerc.go`).

use std::borrow::Cow;

use super::YamlError;
use super::scanner::Scanner;
use super::source::Spot;
use super::token::{Kind, Token};

/// The text of a scalar: a slice of the source as long as no character in it is changed.
struct Builder {
    /// The text before the slice.
    done: String,
    /// The start of the slice.
    from: usize,
    is_changed: bool,
}

impl Builder {
    fn new(from: usize) -> Self {
        Self { done: String::new(), from, is_changed: false }
    }

    /// Ends the slice at `to`, and adds `more`, which is not in the source.
    fn change(&mut self, scanner: &Scanner, to: usize, more: &str) {
        self.done.push_str(scanner.source.slice(self.from, to));
        self.done.push_str(more);
        self.is_changed = true;
    }

    fn finish<'text>(mut self, scanner: &Scanner<'text>, to: usize) -> Cow<'text, str> {
        let piece = scanner.source.slice(self.from, to);
        if !self.is_changed {
            return Cow::Borrowed(piece);
        }
        self.done.push_str(piece);
        Cow::Owned(self.done)
    }
}

/// Line breaks and the blanks around them.
#[derive(Default)]
struct Breaks<'text> {
    first: &'text str,
    others: String,
}

impl Breaks<'_> {
    /// The text that they mean: one line break is a space; of several, the first is removed.
    fn folded(&self) -> Cow<'_, str> {
        match self.first {
            "\n" if self.others.is_empty() => Cow::Borrowed(" "),
            "\n" => Cow::Borrowed(&self.others),
            first => Cow::Owned(format!("{first}{}", self.others)),
        }
    }
}

impl<'text> Scanner<'text> {
    pub(super) fn scan_plain_scalar(&mut self) -> Result<Token<'text>, YamlError> {
        let indent = usize::try_from(self.indent + 1).unwrap_or(0);
        let start = self.source.spot();
        let mut builder = Builder::new(self.source.position());
        let (mut end, mut end_spot) = (builder.from, start);
        let mut breaks: Option<Breaks> = None;
        while !self.source.is_document_marker() && self.source.byte(0) != b'#' {
            let from = self.source.position();
            while !self.source.is_blank_or_end(0) && !self.ends_plain() {
                self.source.skip();
            }
            if self.source.position() > from {
                if let Some(breaks) = breaks.take() {
                    builder.change(self, end, &breaks.folded());
                    builder.from = from;
                }
                (end, end_spot) = (self.source.position(), self.source.spot());
            }
            if !self.source.is_blank(0) && !self.source.is_break(0) {
                break;
            }
            loop {
                if self.source.is_blank(0) {
                    let is_indentation = breaks.is_some() && self.source.column() < indent;
                    if is_indentation && self.source.byte(0) == b'\t' {
                        let message = "found a tab character that violates indentation";
                        return Err(self.source.error(message));
                    }
                    self.source.skip();
                } else if self.source.is_break(0) {
                    self.take_break(&mut breaks);
                } else {
                    break;
                }
            }
            if !self.in_flow() && self.source.column() < indent {
                break;
            }
        }
        if breaks.is_some() {
            self.simple_key_allowed = true;
        }
        let text = builder.finish(self, end);
        Ok(Token::with_text(Kind::PlainScalar, start, end_spot, text))
    }

    #[inline]
    fn ends_plain(&self) -> bool {
        match self.source.byte(0) {
            b':' => self.source.is_blank_or_end(1),
            b',' | b'?' | b'[' | b']' | b'{' | b'}' => self.in_flow(),
            _ => false,
        }
    }

    fn take_break(&mut self, breaks: &mut Option<Breaks<'text>>) {
        let text = self.source.take_break();
        match breaks {
            None => *breaks = Some(Breaks { first: text, others: String::new() }),
            Some(breaks) => breaks.others.push_str(text),
        }
    }

    pub(super) fn scan_quoted_scalar(&mut self) -> Result<Token<'text>, YamlError> {
        let (start, quote) = (self.source.spot(), self.source.byte(0));
        self.source.skip();
        let mut builder = Builder::new(self.source.position());
        loop {
            if self.source.is_document_marker() {
                return Err(self.source.error("found unexpected document indicator"));
            }
            if self.source.is_end() {
                let message = "found unexpected end of stream in a quoted scalar";
                return Err(YamlError { spot: start, message });
            }
            // After an escaped line break there is one without text.
            let mut breaks = self.scan_quoted_words(quote, &mut builder)?.then(Breaks::default);
            if breaks.is_none() && self.source.byte(0) == quote {
                break;
            }
            let end = self.source.position();
            let is_flushed = breaks.is_some();
            if is_flushed && self.source.byte(0) == quote {
                builder.from = end;
                break;
            }
            loop {
                if self.source.is_blank(0) {
                    self.source.skip();
                } else if self.source.is_break(0) {
                    self.take_break(&mut breaks);
                } else {
                    break;
                }
            }
            if let Some(breaks) = breaks {
                let to = if is_flushed { builder.from } else { end };
                builder.change(self, to, &breaks.folded());
                builder.from = self.source.position();
            }
        }
        let text = builder.finish(self, self.source.position());
        self.source.skip();
        Ok(Token::with_text(Kind::OtherScalar, start, self.source.spot(), text))
    }

    /// Moves to a blank, a line break or the end of the scalar. Returns whether it moved over an
    /// escaped line break.
    fn scan_quoted_words(&mut self, quote: u8, builder: &mut Builder) -> Result<bool, YamlError> {
        while !self.source.is_blank_or_end(0) {
            let at = self.source.position();
            match self.source.byte(0) {
                b'\'' if quote == b'\'' && self.source.byte(1) == b'\'' => {
                    builder.change(self, at, "'");
                    self.source.skip_many(2);
                    builder.from = self.source.position();
                }
                byte if byte == quote => break,
                b'\\' if quote == b'"' && self.source.is_break(1) => {
                    builder.change(self, at, "");
                    self.source.skip();
                    self.source.take_break();
                    builder.from = self.source.position();
                    return Ok(true);
                }
                b'\\' if quote == b'"' => {
                    let char = self.scan_escape()?;
                    builder.change(self, at, char.encode_utf8(&mut [0; 4]));
                    builder.from = self.source.position();
                }
                _ => self.source.skip(),
            }
        }
        Ok(false)
    }

    fn scan_escape(&mut self) -> Result<char, YamlError> {
        let (char, digits) = match self.source.byte(1) {
            b'0' => ('\0', 0),
            b'a' => ('\x07', 0),
            b'b' => ('\x08', 0),
            b't' | b'\t' => ('\t', 0),
            b'n' => ('\n', 0),
            b'v' => ('\x0B', 0),
            b'f' => ('\x0C', 0),
            b'r' => ('\r', 0),
            b'e' => ('\x1B', 0),
            byte @ (b' ' | b'"' | b'\'' | b'\\') => (char::from(byte), 0),
            b'N' => ('\u{85}', 0),
            b'_' => ('\u{A0}', 0),
            b'L' => ('\u{2028}', 0),
            b'P' => ('\u{2029}', 0),
            b'x' => ('x', 2),
            b'u' => ('u', 4),
            b'U' => ('U', 8),
            _ => return Err(self.source.error("found unknown escape character")),
        };
        let start = self.source.spot();
        self.source.skip_many(2);
        if digits == 0 {
            return Ok(char);
        }
        let mut value = 0;
        for _ in 0..digits {
            let Some(digit) = char::from(self.source.byte(0)).to_digit(16) else {
                return Err(self.source.error("did not find expected hexadecimal number"));
            };
            value = (value << 4) + digit;
            self.source.skip();
        }
        let message = "found invalid Unicode character escape code";
        char::from_u32(value).ok_or(YamlError { spot: start, message })
    }

    pub(super) fn scan_block_scalar(&mut self) -> Result<Token<'text>, YamlError> {
        let (start, is_literal) = (self.source.spot(), self.source.byte(0) == b'|');
        self.source.skip();
        let (chomping, increment) = self.scan_block_header()?;
        let outer = self.indent.max(0).cast_unsigned();
        let mut indent = if increment > 0 { outer + increment } else { 0 };
        let (mut text, mut first, mut others) = (String::new(), "", String::new());
        let mut end = self.scan_block_breaks(&mut indent, &mut others)?;
        let mut was_blank = false;
        while self.source.column() == indent && !self.source.is_end() {
            let is_blank = self.source.is_blank(0);
            if !is_literal && first == "\n" && !was_blank && !is_blank {
                text.push_str(if others.is_empty() { " " } else { "" });
            } else {
                text.push_str(first);
            }
            text.push_str(&others);
            others.clear();
            was_blank = is_blank;
            let from = self.source.position();
            while !self.source.is_break_or_end(0) {
                self.source.skip();
            }
            text.push_str(self.source.slice(from, self.source.position()));
            first = self.source.take_break();
            end = self.scan_block_breaks(&mut indent, &mut others)?;
        }
        if chomping != b'-' {
            text.push_str(first);
        }
        if chomping == b'+' {
            text.push_str(&others);
        }
        Ok(Token::with_text(Kind::OtherScalar, start, end, text))
    }

    /// The rest of the line behind `|` or `>`: `+`, `-` or 0, and the indentation or 0.
    fn scan_block_header(&mut self) -> Result<(u8, usize), YamlError> {
        let (mut chomping, mut increment) = (0, 0);
        for _ in 0..2 {
            match self.source.byte(0) {
                sign @ (b'+' | b'-') if chomping == 0 => chomping = sign,
                b'0' if increment == 0 => {
                    return Err(self.source.error("found an indentation indicator equal to 0"));
                }
                digit @ b'1'..=b'9' if increment == 0 => increment = usize::from(digit - b'0'),
                _ => break,
            }
            self.source.skip();
        }
        self.source.skip_blanks();
        self.source.skip_comment();
        if !self.source.is_break_or_end(0) {
            return Err(self.source.error("did not find expected comment or line break"));
        }
        self.source.take_break();
        Ok((chomping, increment))
    }

    /// Skips indentation and collects line breaks; an indentation of 0 is set to the one that is
    /// found. Returns where the last line break ends.
    fn scan_block_breaks(
        &mut self,
        indent: &mut usize,
        breaks: &mut String,
    ) -> Result<Spot, YamlError> {
        let (mut end, mut deepest) = (self.source.spot(), 0);
        loop {
            let is_indentation = |scanner: &Self| *indent == 0 || scanner.source.column() < *indent;
            while is_indentation(self) && self.source.byte(0) == b' ' {
                self.source.skip();
            }
            deepest = deepest.max(self.source.column());
            if is_indentation(self) && self.source.byte(0) == b'\t' {
                let message = "found a tab character where an indentation space is expected";
                return Err(self.source.error(message));
            }
            if !self.source.is_break(0) {
                break;
            }
            breaks.push_str(self.source.take_break());
            end = self.source.spot();
        }
        if *indent == 0 {
            *indent = deepest.max((self.indent + 1).max(1).cast_unsigned());
        }
        Ok(end)
    }
}
