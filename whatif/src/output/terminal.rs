//! Text on a terminal: verdicts in color, and long lines wrapped below the column that they continue.
//!
//! The texts do not depend on it, so a file or a pipe gets the lines unchanged.

use std::io::{self, Write};

use anstream::AutoStream;
use anstream::stream::RawStream;
use anstyle::{AnsiColor, Effects};
use clap::ColorChoice;
use textwrap::{Options, WordSplitter};

/// For a narrower terminal, lines are not wrapped: the result could not be read.
const NARROWEST: usize = 40;

/// The words that have a color where they begin a line, or follow a direction.
const COLORED: [(&[&str], AnsiColor); 4] = [
    (&["Allowed", "allowed", "ok", "opened", "widened"], AnsiColor::Green),
    (&["Denied", "denied", "FAIL", "error", "closed", "narrowed"], AnsiColor::Red),
    (&["Mixed", "Undetermined", "warning", "risk"], AnsiColor::Yellow),
    (&["note"], AnsiColor::Cyan),
];

/// The style of written text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    is_colored: bool,
    /// The columns of the terminal; `None` where lines are not wrapped.
    width: Option<usize>,
}

impl Style {
    /// The style for an output. Output for programs is never changed.
    #[must_use]
    pub fn of<S: RawStream>(color: ColorChoice, is_for_people: bool, stream: &S) -> Self {
        let is_colored = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => AutoStream::choice(stream) != anstream::ColorChoice::Never,
        };
        let size = stream.is_terminal().then(terminal_size::terminal_size).flatten();
        let width = size.map(|(width, _)| usize::from(width.0)).filter(|width| *width >= NARROWEST);
        if is_for_people { Self { is_colored, width } } else { Self::PLAIN }
    }

    /// Every line is written unchanged.
    pub const PLAIN: Self = Self { is_colored: false, width: None };
}

/// A writer that styles each whole line.
#[derive(Debug)]
pub struct Terminal<W: Write> {
    inner: W,
    style: Style,
    /// The beginning of a line that is not complete yet.
    line: Vec<u8>,
}

impl<W: Write> Terminal<W> {
    /// Writes to `inner` in this style.
    pub fn new(inner: W, style: Style) -> Self {
        Self { inner, style, line: Vec::new() }
    }

    fn whole_lines(&mut self) -> io::Result<()> {
        let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.line.split_off(end + 1);
        let lines = std::mem::replace(&mut self.line, rest);
        match std::str::from_utf8(&lines) {
            Ok(text) => {
                text.lines().try_for_each(|line| writeln!(self.inner, "{}", self.style.apply(line)))
            }
            Err(_) => self.inner.write_all(&lines),
        }
    }
}

impl<W: Write> Write for Terminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.style == Style::PLAIN {
            return self.inner.write(bytes);
        }
        self.line.extend_from_slice(bytes);
        self.whole_lines()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.line);
        self.inner.write_all(&rest)?;
        self.inner.flush()
    }
}

impl Style {
    fn apply(self, line: &str) -> String {
        let wrapped = match self.width {
            Some(width) if !is_excerpt(line) => wrapped(line, width),
            _ => line.to_owned(),
        };
        if self.is_colored { colored(&wrapped) } else { wrapped }
    }
}

/// Whether a line is a line of a manifest, where columns have a meaning.
fn is_excerpt(line: &str) -> bool {
    let start = line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit());
    start.starts_with(['|', '#']) || start.starts_with("-->")
}

/// Lines that are not longer than `width`. The rest of a line is written below the last column that
/// begins in the first half of the line.
fn wrapped(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let indent = line.len() - line.trim_start().len();
    let begins = |three: &&[u8]| three.starts_with(b"  ") && three[2] != b' ';
    let columns = line.as_bytes().windows(3).enumerate().filter(|(_, three)| begins(three));
    let mut columns = columns.map(|(at, _)| at + 2);
    let column = columns.rfind(|at| line[..*at].chars().count() <= width / 2);
    let hanging = column.map_or(indent + 4, |at| line[..at].chars().count());
    let hanging = " ".repeat(hanging.max(indent + 2));
    let (start, text) = line.split_at(indent);
    // Names are not broken, so that a user can copy them.
    let options = Options::new(width)
        .initial_indent(start)
        .subsequent_indent(&hanging)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// The line with its first word in its color, if it has one.
fn colored(line: &str) -> String {
    let word = |from: usize| {
        let start = from + line[from..].len() - line[from..].trim_start().len();
        let length = line[start..].find(|c: char| !c.is_ascii_alphabetic());
        (start, length.map_or(line.len(), |length| start + length))
    };
    let (mut start, mut end) = word(0);
    if matches!(&line[start..end], "egress" | "ingress") {
        (start, end) = word(end);
    }
    let is_word = line[end..].chars().next().is_none_or(|next| matches!(next, ' ' | ':' | '['));
    let color = COLORED.iter().find(|(words, _)| is_word && words.contains(&&line[start..end]));
    let Some((_, color)) = color else { return line.to_owned() };
    let style = color.on_default().effects(Effects::BOLD);
    format!("{}{style}{}{style:#}{}", &line[..start], &line[start..end], &line[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(style: Style, pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut terminal = Terminal::new(&mut out, style);
        for piece in pieces {
            terminal.write_all(piece.as_bytes()).expect("written");
        }
        terminal.flush().expect("written");
        drop(terminal);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_verdict_has_a_color_and_other_words_have_none() {
        let style = Style { is_colored: true, width: None };
        let text =
            written(style, &["Den", "ied: a to b.\n  egress   allow", "ed  x\ndenied-app\nend"]);
        let red = "\u{1b}[1m\u{1b}[31m";
        let green = "\u{1b}[1m\u{1b}[32m";
        let expected = format!(
            "{red}Denied\u{1b}[0m: a to b.\n  egress   {green}allowed\u{1b}[0m  x\ndenied-app\nend"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_line_continues_below_its_last_column() {
        let style = Style { is_colored: false, width: Some(40) };
        let text = written(style, &["  8080/TCP  from shop/web-1, shop/web-2, shop/web-3\n"]);
        assert_eq!(text, "  8080/TCP  from shop/web-1, shop/web-2,\n            shop/web-3\n");
        let excerpt = "99 | metadata: {name: prometheus, namespace: monitoring, labels: {}}\n";
        assert_eq!(written(style, &[excerpt]), excerpt);
        let name = format!("{}\n", "n".repeat(60));
        assert_eq!(written(style, &[&name]), name, "a name is not cut");
    }

    #[test]
    fn what_is_not_for_people_is_not_changed() {
        assert_eq!(Style::of(ColorChoice::Always, false, &io::stdout()), Style::PLAIN);
        assert!(Style::of(ColorChoice::Always, true, &io::stdout()).is_colored);
        assert!(!Style::of(ColorChoice::Never, true, &io::stdout()).is_colored);
    }
}
