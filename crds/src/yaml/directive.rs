//! `%YAML` and `%TAG` lines (`scannerc.go`).
//!
//! They are only checked. kubectl splits a file at its `---` lines first, so no document ever
//! follows a directive, and its content never matters.

use super::YamlError;
use super::scanner::Scanner;
use super::token::{Kind, Token};

impl<'text> Scanner<'text> {
    pub(super) fn scan_directive(&mut self) -> Result<Token<'text>, YamlError> {
        let start = self.source.spot();
        self.source.skip();
        let name = self.source.take_word();
        if name.is_empty() || !self.source.is_blank_or_end(0) {
            return Err(self.source.error("could not find expected directive name"));
        }
        self.source.skip_blanks();
        match name {
            "YAML" => {
                self.scan_version_number()?;
                if self.source.byte(0) != b'.' {
                    return Err(self.source.error("did not find expected digit or '.' character"));
                }
                self.source.skip();
                self.scan_version_number()?;
            }
            "TAG" => {
                let handle = self.scan_tag_handle()?;
                if handle != "!" && !(handle.len() > 1 && handle.ends_with('!')) {
                    return Err(self.source.error("did not find expected '!'"));
                }
                if !self.source.is_blank(0) {
                    return Err(self.source.error("did not find expected whitespace"));
                }
                self.source.skip_blanks();
                self.scan_tag_uri("")?;
                if !self.source.is_blank_or_end(0) {
                    let message = "did not find expected whitespace or line break";
                    return Err(self.source.error(message));
                }
            }
            _ => return Err(self.source.error("found unknown directive name")),
        }
        let end = self.source.spot();
        self.source.skip_blanks();
        self.source.skip_comment();
        if !self.source.is_break_or_end(0) {
            return Err(self.source.error("did not find expected comment or line break"));
        }
        self.source.take_break();
        Ok(Token::new(Kind::Directive, start, end))
    }

    fn scan_version_number(&mut self) -> Result<(), YamlError> {
        let from = self.source.position();
        while self.source.byte(0).is_ascii_digit() {
            self.source.skip();
        }
        match self.source.position() - from {
            1 | 2 => Ok(()),
            _ => Err(self.source.error("did not find expected version number")),
        }
    }
}
