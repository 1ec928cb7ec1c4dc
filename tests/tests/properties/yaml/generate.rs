//! Random documents: written in every style that YAML has, then broken a little.

use portcullis_tests::random::Random;

/// What scalars consist of: each means something to YAML 1.1, to Go, or to one of the styles.
#[rustfmt::skip]
const SCALARS: &[&str] = &[
    "a", "b c", "web", "yes", "no", "on", "Off", "y", "n", "true", "False", "null", "~", "",
    "Null", "<<", "=", "1", "-1", "+1", "0", "-0", "00", "08", "010", "0o17", "0O17", "0x1F",
    "0X1f", "0b101", "0b-1", "-0b11", "0b2", "1_000", "_1", "1__0", "0x_f", "1.0", "-0.0", "1.5",
    ".5", "5.", "+.5", "._5", "1e3", "1e6", "1E-3", "1e999", "1e21", "1e20", "123456789.5",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551615", "18446744073709551616", ".inf", "-.INF", ".nan", "1:30", "190:20:30",
    "2001-12-14", "2001-12-14t21:59:43.10-05:00", "2001-1-1 1:1:1", "10.0.0.0/8", "fd00::/8", "::",
    "a:b", "a: b", "a #b", "a#b", "- a", "-", "--", "---", "...", "?", "? a", ":", ": a", ":a",
    "[", "]", "{a", "a,b", "a, b", "}", "|", ">", "%", "%a", "@", "`", "!", "!a", "&", "*", "#",
    "'", "\"", "it's", "say \"x\"", "\\", "\\n", "é", "日本", "😀", "\u{a0}", "\u{85}", "\u{2028}",
    "\u{feff}", "\t", "a\tb", " a", "a ", "a\nb", "a\n\nb", "a\n", "\na", "a\n  b", "\u{7f}",
    "app.kubernetes.io/name", "5432", "TCP",
];

#[rustfmt::skip]
const TAGS: &[&str] = &[
    "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!binary", "!!merge", "!!map",
    "!!seq", "!!set", "!", "!mine", "!a!b", "!<tag:yaml.org,2002:str>", "!!%73tr", "!<>", "!!",
];

/// Pieces that a mutation inserts.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    " ", "  ", "\t", "\n", "\r\n", "\r", "\u{85}", "\u{2028}", "\u{feff}", "#", " # c", ":", ": ",
    ":\t", "- ", "-\t", "? ", ",", ", ", "[", "]", "{", "}", "'", "\"", "''", "|", "|-\n", ">+\n",
    "|2\n", "&x ", "*x", "*x ", "!!str ", "! ", "<<: ", "<<: *x\n", "---\n", "--- #c\n", "--- a\n",
    "---", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "\\", "\\\n", "\\x41", "\\u00e9", "\\ud83d",
    "\\/", "null", "~", "0", "é", "\u{1}", "{\"a\": 1}\n",
];

/// A file of one to three documents.
pub(super) fn file(random: &mut Random) -> String {
    let mut text = String::new();
    for at in 0..=random.below(3) {
        if at > 0 || random.one_in(3) {
            text += random.pick(&[
                "---\n",
                "---\n",
                "--- # c\n",
                "---  \n",
                "---\r\n",
                "---\n\u{feff}",
            ]);
        }
        match random.below(8) {
            0 => flow(random, 3, 0, &mut text),
            1 => json(random, 3, &mut text),
            _ => block_mapping(random, 3, 0, &mut text),
        }
        end_line(random, &mut text);
    }
    if random.one_in(8) {
        text = text.replace('\n', random.pick(&["\r\n", "\r", "\u{85}"]));
    }
    if random.one_in(12) {
        text.insert(0, '\u{feff}');
    }
    if random.one_in(6) {
        text.truncate(text.trim_end().len());
    }
    text
}

fn end_line(random: &mut Random, text: &mut String) {
    if random.one_in(8) {
        *text += random.pick(&[" # c", " ", "\t", "\t# c", "#c"]);
    }
    text.push('\n');
    if random.one_in(12) {
        *text += random.pick(&["\n", "# c\n", "  # c\n", "   \n", "\t\n"]);
    }
}

fn spaces(text: &mut String, count: usize) {
    (0..count).for_each(|_| text.push(' '));
}

fn block_mapping(random: &mut Random, depth: usize, indent: usize, text: &mut String) {
    for _ in 0..=random.below(3) {
        spaces(text, indent);
        let is_complex = random.one_in(16);
        let is_merge = !is_complex && random.one_in(16);
        if is_complex {
            text.push_str("? ");
            scalar(random, indent, false, text);
            end_line(random, text);
            spaces(text, indent);
            text.push(':');
        } else if is_merge {
            text.push_str(random.pick(&[
                "<<:",
                "<<: *x #",
                "\"<<\":",
                "!!merge <<:",
                "<<: [*x, {a: 1}] #",
            ]));
        } else {
            key(random, text);
            text.push_str(random.pick(&[":", ":", ":", " :"]));
        }
        value(random, depth, indent, true, text);
    }
}

fn block_sequence(random: &mut Random, depth: usize, indent: usize, text: &mut String) {
    for _ in 0..=random.below(3) {
        spaces(text, indent);
        text.push('-');
        value(random, depth, indent, false, text);
    }
}

/// What follows `key:` or `-`, to the end of the line or of the block.
fn value(random: &mut Random, depth: usize, indent: usize, is_field: bool, text: &mut String) {
    properties(random, text);
    match random.below(if depth == 0 { 4 } else { 9 }) {
        0 => end_line(random, text),
        1..=2 => {
            text.push_str(random.pick(&[" ", " ", " ", "  ", "\t", " \t"]));
            scalar(random, indent, false, text);
            end_line(random, text);
        }
        3 => {
            text.push(' ');
            block_scalar(random, indent, text);
        }
        4 => {
            text.push_str(random.pick(&[" ", "\n  ", "\n"]));
            flow(random, depth - 1, indent, text);
            end_line(random, text);
        }
        5 if is_field => {
            end_line(random, text);
            // A list may stand in the column of its key.
            let inner = indent + random.below(3);
            block_sequence(random, depth - 1, inner, text);
        }
        6 if !is_field => {
            // A mapping that begins behind its dash.
            let mut inner = String::new();
            block_mapping(random, depth - 1, indent + 2, &mut inner);
            text.push(' ');
            text.push_str(inner.trim_start_matches(' '));
        }
        5 | 6 => {
            end_line(random, text);
            block_sequence(random, depth - 1, indent + 2, text);
        }
        _ => {
            end_line(random, text);
            let inner = indent + 1 + random.below(3);
            block_mapping(random, depth - 1, inner, text);
        }
    }
}

fn properties(random: &mut Random, text: &mut String) {
    if random.one_in(12) {
        text.extend([" ", random.pick(TAGS)]);
    }
    if random.one_in(12) {
        text.push_str(random.pick(&[" &x", " &y", " &x !!str"]));
    }
}

fn key(random: &mut Random, text: &mut String) {
    match random.below(6) {
        0 => scalar(random, 0, false, text),
        1 => text.extend(["\"", random.pick(&["a", "1", "a b", "\\u0061"]), "\""]),
        2 => text.push_str(random.pick(&[
            "1",
            "1.5",
            "yes",
            "~",
            "010",
            "é",
            "*x ",
            "&x a",
            "2001-01-01",
        ])),
        _ => text.push_str(random.pick(&[
            "a",
            "b",
            "name",
            "spec",
            "matchLabels",
            "app.kubernetes.io/name",
        ])),
    }
}

fn scalar(random: &mut Random, indent: usize, in_flow: bool, text: &mut String) {
    let content = random.pick(SCALARS);
    let line_break = |random: &mut Random| {
        let column = match random.below(4) {
            0 => 0,
            1 => indent,
            _ => indent + 1 + random.below(3),
        };
        format!("{}{}", random.pick(&["\n", "\n", "\n\n", " \n", "\\\n"]), " ".repeat(column))
    };
    match random.below(8) {
        0 => text.push_str(random.pick(&["*x", "*y"])),
        1 => {
            let body = content.replace('\'', "''");
            let joined = if random.one_in(3) { body + &line_break(random) + "z" } else { body };
            text.extend(["'", &joined, "'"]);
        }
        2 | 3 => {
            let body = content.replace('\\', "\\\\").replace('"', "\\\"");
            let joined = if random.one_in(3) { body + &line_break(random) + "z" } else { body };
            let escape = if random.one_in(4) {
                random.pick(&[
                    "\\t",
                    "\\x41",
                    "\\u263a",
                    "\\U0001F600",
                    "\\ud800",
                    "\\/",
                    "\\q",
                    "\\e",
                    "\\_",
                    "\\N",
                    "\\L",
                    "\\0",
                ])
            } else {
                ""
            };
            text.extend(["\"", &joined, escape, "\""]);
        }
        4 if random.one_in(2) => {
            let more = line_break(random);
            text.extend([content, &more, random.pick(SCALARS)]);
        }
        _ if in_flow => text.push_str(
            random.pick(&["a", "1", "a:b", "b c", "-1", "http://x", "a?b", "~", content]),
        ),
        _ => text.push_str(content),
    }
}

fn block_scalar(random: &mut Random, indent: usize, text: &mut String) {
    text.push_str(random.pick(&["|", ">"]));
    text.push_str(random.pick(&["", "", "-", "+", "1", "2", "-1", "2+", "0"]));
    end_line(random, text);
    let deep = indent + random.below(4);
    for _ in 0..random.below(5) {
        match random.below(6) {
            0 => text.push('\n'),
            1 => {
                spaces(text, deep + random.below(3));
                text.push('\n');
            }
            _ => {
                spaces(text, deep + if random.one_in(4) { 1 + random.below(2) } else { 0 });
                text.push_str(random.pick(&["x", "x y", "- x", "# x", "\tx", "x: y", "---"]));
                text.push('\n');
            }
        }
    }
}

fn flow_space(random: &mut Random, indent: usize, text: &mut String) {
    match random.below(10) {
        0 => {
            end_line(random, text);
            let column = random.below(indent + 4);
            spaces(text, column);
        }
        1 => text.push('\t'),
        2..=5 => text.push(' '),
        _ => {}
    }
}

fn flow(random: &mut Random, depth: usize, indent: usize, text: &mut String) {
    let is_mapping = random.one_in(2);
    text.push(if is_mapping { '{' } else { '[' });
    for at in 0..random.below(4) {
        if at > 0 {
            text.push(',');
        }
        flow_space(random, indent, text);
        if is_mapping || random.one_in(8) {
            text.push_str(random.pick(&["", "", "", "? "]));
            key(random, text);
            text.push_str(random.pick(&[": ", ": ", ":", " : ", ":\t", ""]));
        }
        properties(random, text);
        flow_space(random, indent, text);
        match random.below(4) {
            0 if depth > 0 => flow(random, depth - 1, indent, text),
            _ => scalar(random, indent, true, text),
        }
        flow_space(random, indent, text);
    }
    if random.one_in(8) {
        text.push(',');
    }
    flow_space(random, indent, text);
    text.push(if is_mapping { '}' } else { ']' });
}

fn json(random: &mut Random, depth: usize, text: &mut String) {
    text.push('{');
    for at in 0..=random.below(3) {
        text.push_str(if at > 0 { "," } else { "" });
        text.push_str(random.pick(&["", " ", "\n", "\n\t", "\r\n"]));
        text.push_str(random.pick(&["\"a\"", "\"b\"", "\"\\u00e9\"", "\"a b\""]));
        text.push_str(random.pick(&[":", ": ", " : ", ":\t"]));
        match random.below(4) {
            0 if depth > 0 => json(random, depth - 1, text),
            1 => text.push_str("[1, \"x\", null]"),
            _ => text.push_str(random.pick(&[
                "1",
                "-1.5",
                "1e3",
                "1.0",
                "true",
                "null",
                "\"x\"",
                "\"\\/\"",
                "\"\\ud83d\\ude00\"",
                "\"a\u{2028}b\"",
                "\"a\u{7f}\"",
                "12345678901234567890",
                "\"yes\"",
                "\"\\n\"",
            ])),
        }
    }
    text.push_str(random.pick(&["}", "}", "\n}", " }"]));
}

/// The text with up to four changes.
pub(super) fn mutate(random: &mut Random, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..random.below(5) {
        let at = random.below(chars.len() + 1);
        match random.below(6) {
            0 => {
                let end = (at + 1 + random.below(3)).min(chars.len());
                chars.drain(at..end);
            }
            1 => indent_line(random, &mut chars, at),
            2 => {
                // A line of the text again, somewhere else.
                let from =
                    chars[..at].iter().rposition(|char| *char == '\n').map_or(0, |found| found + 1);
                let end = chars[at..]
                    .iter()
                    .position(|char| *char == '\n')
                    .map_or(chars.len(), |found| at + found + 1);
                let line: Vec<char> = chars[from..end].to_vec();
                let starts: Vec<usize> =
                    (1..chars.len()).filter(|before| chars[before - 1] == '\n').collect();
                let to = starts.get(random.below(starts.len())).copied().unwrap_or(0);
                chars.splice(to..to, line);
            }
            _ => {
                let piece: Vec<char> = random.pick(PIECES).chars().collect();
                chars.splice(at..at, piece);
            }
        }
    }
    chars.into_iter().collect()
}

/// Moves the line around `at` to the left or to the right.
fn indent_line(random: &mut Random, chars: &mut Vec<char>, at: usize) {
    let start = chars[..at].iter().rposition(|char| *char == '\n').map_or(0, |found| found + 1);
    let depth = chars[start..].iter().take_while(|char| **char == ' ').count();
    if random.one_in(2) && depth > 0 {
        chars.drain(start..start + 1 + random.below(depth));
    } else {
        let more = " ".repeat(1 + random.below(3));
        chars.splice(start..start, more.chars());
    }
}
