//! The text of a file → its documents, split as kubectl splits them
//! (`YAMLOrJSONDecoder` of `k8s.io/apimachinery`).
//!
//! A file that begins with `{` is a sequence of JSON values for as long as it is JSON. Everything
//! else is YAML, split at lines that begin with `---` before the text is parsed.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::IgnoredAny;

/// One document of a file, before it is parsed.
pub(super) struct Part<'text> {
    /// How many lines of the file are before it.
    pub(super) first_line: usize,
    pub(super) content: Content<'text>,
}

pub(super) enum Content<'text> {
    /// One JSON value.
    Json(&'text str),
    Yaml(Cow<'text, str>),
    /// A text that kubectl rejects before it looks for YAML.
    Refused {
        line: usize,
        message: &'static str,
    },
}

/// The text of a file as kubectl decodes it: UTF-16 by its byte order mark, otherwise UTF-8 with
/// U+FFFD for each byte that is not.
#[must_use]
pub fn decode(bytes: Vec<u8>) -> String {
    let unit: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xFF, 0xFE]) => u16::from_le_bytes,
        Some([0xFE, 0xFF]) => u16::from_be_bytes,
        _ => return crate::yaml::lossy(bytes),
    };
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().skip(1).map(|pair| unit(*pair));
    let replaced = |decoded: Result<_, _>| decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut text: String = char::decode_utf16(units).map(replaced).collect();
    text.extend(rest.iter().map(|_| char::REPLACEMENT_CHARACTER));
    text
}

/// The documents of `text`.
pub(super) fn parts(text: &str) -> Vec<Part<'_>> {
    if !text.trim_start().starts_with('{') {
        return yaml_parts(text, 0);
    }
    let (values, end) = json_values(text);
    let count = values.len();
    let mut lines = Lines { text, at: 0, count: 0 };
    let part = |range: Range<usize>| Part {
        first_line: lines.before(range.start),
        content: Content::Json(text.get(range).unwrap_or_default()),
    };
    let mut parts: Vec<_> = values.into_iter().map(part).collect();
    let Some(end) = end else { return parts };
    // After two JSON values kubectl no longer expects YAML.
    let rest = if count > 1 { None } else { behind_line(text, end) };
    if let Some(start) = rest {
        let first_line = lines.before(start);
        parts.extend(yaml_parts(text.get(start..).unwrap_or_default(), first_line));
    } else {
        let first_line = lines.before(end);
        let line = first_line + 1;
        let message = "this is not JSON as the values before it; nothing from here on is read";
        parts.push(Part { first_line, content: Content::Refused { line, message } });
    }
    parts
}

/// Counts the lines before growing positions.
struct Lines<'text> {
    text: &'text str,
    at: usize,
    count: usize,
}

impl Lines<'_> {
    fn before(&mut self, at: usize) -> usize {
        let passed = self.text.get(self.at..at).unwrap_or_default();
        self.count += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.at = at;
        self.count
    }
}

/// The places of the JSON values, and the place of other text behind them.
fn json_values(text: &str) -> (Vec<Range<usize>>, Option<usize>) {
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    loop {
        let from = stream.byte_offset();
        match stream.next() {
            None => return (values, None),
            Some(Err(_)) => return (values, Some(from)),
            Some(Ok(_)) => {
                let to = stream.byte_offset();
                let value = text.get(from..to).unwrap_or_default();
                values.push(to - value.trim_start().len()..to);
            }
        }
    }
}

/// The place where YAML begins behind JSON that ends at `at`: behind the blanks there and one line
/// break. kubectl needs four more bytes for this.
fn behind_line(text: &str, mut at: usize) -> Option<usize> {
    for char in text.get(at..)?.chars() {
        if text.len() - at < 4 {
            return None;
        }
        if !char.is_whitespace() {
            break;
        }
        at += char.len_utf8();
        if char == '\n' {
            break;
        }
    }
    Some(at)
}

fn yaml_parts(text: &str, lines_before: usize) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, lines_before, 0);
    let mut refused = None;
    let mut push = |range: Range<usize>, first_line, refused: &mut Option<usize>| {
        let text = text.get(range).filter(|text| !text.is_empty());
        let message = "nothing but a comment can follow `---`; begin the document on the next line";
        let content = match (text, refused.take()) {
            (None, _) => return,
            (Some(_), Some(line)) => Content::Refused { line, message },
            // kubectl also ends the last line.
            (Some(text), None) if text.ends_with('\n') => Content::Yaml(Cow::Borrowed(text)),
            (Some(text), None) => Content::Yaml(Cow::Owned(format!("{text}\n"))),
        };
        parts.push(Part { first_line, content });
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if let Some(behind) = line.strip_prefix("---").map(str::trim) {
            if !behind.is_empty() && !behind.starts_with('#') {
                refused = refused.or(Some(lines_before + number + 1));
            } else if offset > start {
                push(start..offset, first_line, &mut refused);
                (start, first_line) = (offset + line.len(), lines_before + number + 1);
            }
        }
        offset += line.len();
    }
    push(start..offset, first_line, &mut refused);
    parts
}
