//! The items of a List as pieces of its text, so that a large List is read one item at a time.
//!
//! ```text
//! {"kind": "List", "items": [ {…}, {…} ]}       kind: List
//!                             ───  ───          items:
//!                             one item each     - …      ◄ one item: the lines to the next `-`
//! ```
//!
//! Only the shapes that programs write are recognised: JSON, and YAML with the items as a block.

use std::ops::Range;

/// The parts of a List.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Pieces {
    /// The text without its items: `kind`, `apiVersion`, `metadata`.
    pub(super) frame: String,
    /// The items in order.
    pub(super) items: Vec<Piece>,
}

/// One item.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Its text in that of the List; in YAML, it begins with the line of its `-`.
    pub(super) range: Range<usize>,
    /// Lines of the List above it.
    pub(super) lines_above: usize,
    /// The byte of its line at which it begins, from 0.
    pub(super) column: usize,
    /// Whether it is an item of a YAML block.
    pub(super) is_block: bool,
}

/// The parts of a List; `None` if the text is not a List, or is not complete.
pub(super) fn split(text: &str) -> Option<Pieces> {
    if text.trim_start().starts_with('{') { json(text) } else { yaml(text) }
}

fn json(text: &str) -> Option<Pieces> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    // The last string of the outermost object: its key, when a value begins.
    let mut key: &[u8] = b"";
    let mut inside: Option<usize> = None;
    let mut outside: Option<Range<usize>> = None;
    let mut items = Vec::new();
    let (mut begin, mut line, mut line_start) = ((0, 0, 0), 0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(text, at)?;
                if depth == 1 {
                    key = bytes.get(at + 1..end)?;
                }
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                match (depth, inside) {
                    (2, None) if *byte == b'[' && key == b"items" => inside = Some(at + 1),
                    (3, Some(_)) => begin = (at, line, at - line_start),
                    _ => {}
                }
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                match (depth, inside) {
                    (2, Some(_)) => items.push(Piece {
                        range: begin.0..at + 1,
                        lines_above: begin.1,
                        column: begin.2,
                        is_block: false,
                    }),
                    (1, Some(start)) => {
                        // No program writes two lists of items.
                        if outside.replace(start..at).is_some() {
                            return None;
                        }
                        inside = None;
                    }
                    (0, _) => {
                        let ends = text.get(at + 1..)?.trim().is_empty();
                        let cut = outside.filter(|_| ends)?;
                        let frame = [text.get(..cut.start)?, text.get(cut.end..)?].concat();
                        return Some(Pieces { frame, items });
                    }
                    _ => {}
                }
            }
            b'\n' => {
                line += 1;
                line_start = at + 1;
            }
            // An item that is not an object.
            b',' | b':' | b' ' | b'\t' | b'\r' => {}
            _ if depth == 2 && inside.is_some() => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The closing quote of the string that begins at `start`.
fn string_end(text: &str, start: usize) -> Option<usize> {
    let mut from = start + 1;
    loop {
        let end = from + text.get(from..)?.find('"')?;
        // An odd number of backslashes escapes the quote.
        let before = text.get(from..end)?;
        let backslashes = before.len() - before.trim_end_matches('\\').len();
        if backslashes % 2 == 0 {
            return Some(end);
        }
        from = end + 1;
    }
}

fn yaml(text: &str) -> Option<Pieces> {
    let mut items: Vec<Piece> = Vec::new();
    let mut frame = String::new();
    let (mut offset, mut is_list, mut indent) = (0, false, None);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let start = offset;
        offset += line.len();
        let written = line.trim_start_matches(' ');
        let width = line.len() - written.len();
        let is_blank = written.trim_end().is_empty() || written.starts_with('#');
        let is_dash = written.starts_with("- ") || written.trim_end() == "-";
        if is_list && !is_blank && width == 0 && !is_dash {
            is_list = false;
        }
        if !is_list {
            if line.trim_end() == "items:" {
                // A second list of items is a repeated key.
                if indent.is_some() || !items.is_empty() {
                    return None;
                }
                is_list = true;
            }
            frame += line;
            continue;
        }
        if is_dash && width == *indent.get_or_insert(width) {
            items.push(Piece {
                range: start..offset,
                lines_above: number,
                column: 0,
                is_block: true,
            });
            continue;
        }
        match items.last_mut() {
            Some(item) => item.range.end = offset,
            None if is_blank => {}
            None => return None,
        }
    }
    (!items.is_empty()).then_some(Pieces { frame, items })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of the items, and the lines above each.
    fn items(text: &str) -> Option<Vec<(&str, usize)>> {
        let found = split(text)?;
        Some(found.items.into_iter().map(|item| (&text[item.range], item.lines_above)).collect())
    }

    #[test]
    fn json_items_are_found_whatever_their_texts_contain() {
        let text = "{\"kind\": \"List\", \"items\": [\n {\"a\": \"]}\\\"items\\\": [\"},\n {\"items\": [{}]}],\n \
                    \"metadata\": {\"items\": [1]}}\n";
        let expected = [("{\"a\": \"]}\\\"items\\\": [\"}", 1), ("{\"items\": [{}]}", 2)];
        assert_eq!(items(text), Some(expected.to_vec()));
        let frame = "{\"kind\": \"List\", \"items\": [],\n \"metadata\": {\"items\": [1]}}\n";
        assert_eq!(split(text).map(|found| found.frame).as_deref(), Some(frame));
        assert_eq!(items("{\"items\": []}"), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_a_complete_list_is_not_split() {
        for text in [
            "{\"items\": [{}",
            "{\"items\": [{}]} {}",
            "{\"items\": [1, {}]}",
            "{\"items\": [{}], \"items\": [{}]}",
            "{\"items\": {}}",
            "{\"a\": \"",
            "a: 1\n",
            "items:\n  a: 1\n",
            "items: [{}]\n",
            "items:\n- a\nitems:\n- b\n",
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn yaml_items_are_found_with_and_without_indent() {
        let text = "kind: List\nitems:\n- a: |\n    - no\n\n  b: 1\n# note\n-\n  c:\n  - no\nmetadata: {}\n";
        let expected = [("- a: |\n    - no\n\n  b: 1\n# note\n", 2), ("-\n  c:\n  - no\n", 7)];
        assert_eq!(items(text), Some(expected.to_vec()));
        let frame = "kind: List\nitems:\nmetadata: {}\n";
        assert_eq!(split(text).map(|found| found.frame).as_deref(), Some(frame));
        let indented = "items:\n  - a:\n    - no\n  - b\n";
        assert_eq!(items(indented), Some(vec![("  - a:\n    - no\n", 1), ("  - b\n", 3)]));
    }
}
