//! The characters of a document and their places (`readerc.go`, `yamlprivateh.go`).

use super::YamlError;

/// A line and a column, both from 0; columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Spot {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A position in a text. After the end of the text, every byte is NUL.
pub(super) struct Source<'text> {
    text: &'text str,
    at: usize,
    line: usize,
    /// The offset of the line, plus the bytes in it that do not count as columns.
    line_start: usize,
}

impl<'text> Source<'text> {
    /// # Errors
    /// When the text has a character that YAML does not allow.
    pub(super) fn new(text: &'text str) -> Result<Self, YamlError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Self { text, at: 0, line: 0, line_start: 0 };
        if text.starts_with('\u{feff}') {
            // Go's scanner then also drops characters at the beginnings of lines.
            let message = "found a second byte order mark; remove it";
            return Err(source.error(message));
        }
        match text.char_indices().find(|(_, char)| !is_allowed(*char)) {
            None => Ok(source),
            Some((at, _)) => Err(source.ahead(at).error("control characters are not allowed")),
        }
    }

    /// This source, moved to the position `at`.
    fn ahead(mut self, at: usize) -> Self {
        while self.at < at {
            if self.is_break(0) {
                self.take_break();
            } else {
                self.skip();
            }
        }
        self
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The text between two positions.
    pub(super) fn slice(&self, from: usize, to: usize) -> &'text str {
        self.text.get(from..to).unwrap_or_default()
    }

    pub(super) fn spot(&self) -> Spot {
        Spot { line: self.line, column: self.column() }
    }

    pub(super) fn column(&self) -> usize {
        self.at - self.line_start
    }

    pub(super) fn error(&self, message: &'static str) -> YamlError {
        YamlError { spot: self.spot(), message }
    }

    /// The byte `ahead` of the position.
    #[inline]
    pub(super) fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Whether the text ends here.
    #[inline]
    pub(super) fn is_end(&self) -> bool {
        self.at >= self.text.len()
    }

    #[inline]
    pub(super) fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), b' ' | b'\t')
    }

    /// CR, LF, NEL, LS or PS.
    #[inline]
    pub(super) fn is_break(&self, ahead: usize) -> bool {
        match self.byte(ahead) {
            b'\r' | b'\n' => true,
            0xC2 => self.byte(ahead + 1) == 0x85,
            0xE2 => self.byte(ahead + 1) == 0x80 && matches!(self.byte(ahead + 2), 0xA8 | 0xA9),
            _ => false,
        }
    }

    /// A line break or the end.
    #[inline]
    pub(super) fn is_break_or_end(&self, ahead: usize) -> bool {
        self.byte(ahead) == 0 || self.is_break(ahead)
    }

    /// A space, a tab, a line break or the end.
    #[inline]
    pub(super) fn is_blank_or_end(&self, ahead: usize) -> bool {
        match self.byte(ahead) {
            0 | b' ' | b'\t' | b'\r' | b'\n' => true,
            0xC2 | 0xE2 => self.is_break(ahead),
            _ => false,
        }
    }

    /// Whether `---` or `...` is at the beginning of the line, followed by a blank or the end.
    pub(super) fn is_document_marker(&self) -> bool {
        self.column() == 0 && (self.is_marker(b'-') || self.is_marker(b'.'))
    }

    /// Three times `mark` and a blank.
    pub(super) fn is_marker(&self, mark: u8) -> bool {
        (0..3).all(|ahead| self.byte(ahead) == mark) && self.is_blank_or_end(3)
    }

    /// Moves over one character that is not a line break.
    #[inline]
    pub(super) fn skip(&mut self) {
        let width = match self.byte(0) {
            0..=0x7F => 1,
            0x80..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0.. => 4,
        };
        self.at += width;
        self.line_start += width - 1;
    }

    pub(super) fn skip_many(&mut self, count: usize) {
        (0..count).for_each(|_| self.skip());
    }

    pub(super) fn skip_blanks(&mut self) {
        while self.is_blank(0) {
            self.skip();
        }
    }

    /// Moves over a comment, if there is one here.
    pub(super) fn skip_comment(&mut self) {
        if self.byte(0) == b'#' {
            while !self.is_break_or_end(0) {
                self.skip();
            }
        }
    }

    /// Moves over the letters, digits, `_` and `-` here, and returns them.
    pub(super) fn take_word(&mut self) -> &'text str {
        let from = self.at;
        while self.byte(0).is_ascii_alphanumeric() || matches!(self.byte(0), b'_' | b'-') {
            self.skip();
        }
        self.slice(from, self.at)
    }

    /// Moves over the line break here, and returns its text in a scalar.
    pub(super) fn take_break(&mut self) -> &'text str {
        let from = self.at;
        let (width, text) = match self.byte(0) {
            b'\r' if self.byte(1) == b'\n' => (2, "\n"),
            b'\r' | b'\n' => (1, "\n"),
            0xC2 => (2, "\n"),
            0xE2 => (3, self.slice(from, from + 3)),
            _ => return "",
        };
        self.at += width;
        self.line += 1;
        self.line_start = self.at;
        text
    }

    /// Moves to the line behind the last one, where the end of the text is reported.
    pub(super) fn end_line(&mut self) {
        if self.column() != 0 {
            self.line += 1;
            self.line_start = self.at;
        }
    }
}

fn is_allowed(char: char) -> bool {
    match char {
        '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' => true,
        '\0'..'\u{A0}' | '\u{FFFE}' | '\u{FFFF}' => false,
        _ => true,
    }
}

/// The text of bytes, with U+FFFD for each byte that is not UTF-8, as Go's decoders have it.
pub(crate) fn lossy(bytes: Vec<u8>) -> String {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return text,
        Err(error) => error.into_bytes(),
    };
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| text.push(char::REPLACEMENT_CHARACTER));
    }
    text
}
