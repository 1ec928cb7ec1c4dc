//! Anchors, aliases and tags (`scannerc.go`).

use std::borrow::Cow;

use super::YamlError;
use super::scanner::Scanner;
use super::source::lossy;
use super::token::{Kind, Token};

impl<'text> Scanner<'text> {
    pub(super) fn scan_anchor(&mut self, kind: Kind) -> Result<Token<'text>, YamlError> {
        let start = self.source.spot();
        self.source.skip();
        let name = self.source.take_word();
        let next = self.source.byte(0);
        let ends = self.source.is_blank_or_end(0)
            || matches!(next, b'?' | b':' | b',' | b']' | b'}' | b'%' | b'@' | b'`');
        if name.is_empty() || !ends {
            let message = "did not find expected alphabetic or numeric character";
            return Err(self.source.error(message));
        }
        Ok(Token::with_text(kind, start, self.source.spot(), name))
    }

    pub(super) fn scan_tag(&mut self) -> Result<Token<'text>, YamlError> {
        let start = self.source.spot();
        let (handle, suffix) = if self.source.byte(1) == b'<' {
            self.source.skip_many(2);
            let uri = self.scan_tag_uri("")?;
            if self.source.byte(0) != b'>' {
                return Err(self.source.error("did not find the expected '>'"));
            }
            self.source.skip();
            ("", uri)
        } else {
            let handle = self.scan_tag_handle()?;
            if handle.len() > 1 && handle.ends_with('!') {
                (handle, self.scan_tag_uri("")?)
            } else {
                // `!suffix`, or `!` alone.
                match self.scan_tag_uri(handle)? {
                    uri if uri.is_empty() => ("", Cow::Borrowed("!")),
                    uri => ("!", uri),
                }
            }
        };
        if !self.source.is_blank_or_end(0) {
            return Err(self.source.error("did not find expected whitespace or line break"));
        }
        let end = self.source.spot();
        let token = Token::with_text(Kind::Tag, start, end, suffix);
        Ok(Token { handle, ..token })
    }

    /// `!`, the letters behind it, and the `!` behind those, if there is one.
    pub(super) fn scan_tag_handle(&mut self) -> Result<&'text str, YamlError> {
        if self.source.byte(0) != b'!' {
            return Err(self.source.error("did not find expected '!'"));
        }
        let from = self.source.position();
        self.source.skip();
        self.source.take_word();
        if self.source.byte(0) == b'!' {
            self.source.skip();
        }
        Ok(self.source.slice(from, self.source.position()))
    }

    /// A tag without its handle; `head` begins with `!`, and what follows belongs to the tag.
    pub(super) fn scan_tag_uri(&mut self, head: &str) -> Result<Cow<'text, str>, YamlError> {
        let mut uri = head.as_bytes().get(1..).unwrap_or_default().to_vec();
        let from = self.source.position();
        loop {
            match self.source.byte(0) {
                b'%' => self.scan_uri_escapes(&mut uri)?,
                byte if byte.is_ascii_alphanumeric()
                    || b"_-;/?:@&=+$,.!~*'()[]".contains(&byte) =>
                {
                    uri.push(byte);
                    self.source.skip();
                }
                _ => break,
            }
        }
        if head.is_empty() && self.source.position() == from {
            return Err(self.source.error("did not find expected tag URI"));
        }
        Ok(Cow::Owned(lossy(uri)))
    }

    /// The escaped bytes of one character.
    fn scan_uri_escapes(&mut self, uri: &mut Vec<u8>) -> Result<(), YamlError> {
        let mut left: Option<usize> = None;
        while left != Some(0) {
            let digit = |ahead| char::from(self.source.byte(ahead)).to_digit(16);
            let octet = match (self.source.byte(0), digit(1), digit(2)) {
                (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(0),
                _ => return Err(self.source.error("did not find URI escaped octet")),
            };
            let width = match (left, octet) {
                (Some(left), 0x80..=0xBF) => left,
                (None, 0x00..=0x7F) => 1,
                (None, 0xC0..=0xDF) => 2,
                (None, 0xE0..=0xEF) => 3,
                (None, 0xF0..=0xF7) => 4,
                _ => return Err(self.source.error("found an incorrect UTF-8 octet")),
            };
            uri.push(octet);
            self.source.skip_many(3);
            left = Some(width - 1);
        }
        Ok(())
    }
}
