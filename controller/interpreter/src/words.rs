//! Cuts a line into words the way `iptables-restore` and `ipset restore` do.

use std::vec::IntoIter;

use crate::error::Problem;

/// The words of one line, taken from the left.
#[derive(Debug)]
pub(crate) struct Words(IntoIter<String>);

impl Words {
    /// Cuts a line of `iptables-save` at blanks. Double quotes hold a word together; within them
    /// a backslash takes the next character as it is: `"it\'s"`.
    pub(crate) fn of_iptables(line: &str) -> Result<Self, Problem> {
        Self::cut(line, Some('\\'))
    }

    /// Cuts a line of `ipset save` at blanks. Double quotes hold a word together, and cannot be
    /// escaped.
    pub(crate) fn of_ipset(line: &str) -> Result<Self, Problem> {
        Self::cut(line, None)
    }

    fn cut(line: &str, escape: Option<char>) -> Result<Self, Problem> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                ' ' | '\t' if !quoted => words.extend(word.take()),
                character if quoted && Some(character) == escape => {
                    let next = characters.next().ok_or(Problem::UnfinishedQuote)?;
                    word.get_or_insert_default().push(next);
                }
                character => word.get_or_insert_default().push(character),
            }
        }
        if quoted {
            return Err(Problem::UnfinishedQuote);
        }
        words.extend(word);
        Ok(Self(words.into_iter()))
    }

    /// The next word, which the line must have; `what` names it in the error.
    pub(crate) fn take(&mut self, what: &'static str) -> Result<String, Problem> {
        self.0.next().ok_or(Problem::Missing(what))
    }

    /// The next word if there is one.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.0.next()
    }

    /// The next word as a number or another plain value; `what` comes with its article.
    pub(crate) fn parse<T: std::str::FromStr>(&mut self, what: &'static str) -> Result<T, Problem> {
        let word = self.take(what)?;
        parse(&word, what)
    }
}

/// A word as a plain value; `what` comes with its article.
pub(crate) fn parse<T: std::str::FromStr>(word: &str, what: &'static str) -> Result<T, Problem> {
    // Rust's integers take a sign that neither tool writes.
    match word.strip_prefix('+') {
        None => word.parse().map_err(|_| Problem::Bad { what, word: word.to_owned() }),
        Some(_) => Err(Problem::Bad { what, word: word.to_owned() }),
    }
}

/// `LOW` or `LOW:HIGH` with the given separator, both ends included.
pub(crate) fn port_range(word: &str, separator: char) -> Result<(u16, u16), Problem> {
    const WHAT: &str = "a port or a range of ports";
    let (low, high) = match word.split_once(separator) {
        None => (parse(word, WHAT)?, parse(word, WHAT)?),
        Some((low, high)) => (parse(low, WHAT)?, parse(high, WHAT)?),
    };
    if low > high {
        return Err(Problem::Bad { what: WHAT, word: word.to_owned() });
    }
    Ok((low, high))
}

/// A protocol by number or by the names of `/etc/protocols` that either tool may write.
/// `all` is no protocol here.
pub(crate) fn protocol(word: &str) -> Result<u8, Problem> {
    Ok(match word {
        "icmp" => 1,
        "igmp" => 2,
        "ipencap" | "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" | "ipv6-crypt" => 50,
        "ah" | "ipv6-auth" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "ospf" | "ospfigp" => 89,
        "sctp" => 132,
        "udplite" => 136,
        number => parse(number, "a protocol")?,
    })
}

/// An option that nothing on the line has.
pub(crate) fn unknown_option(option: &str) -> Problem {
    Problem::Unknown { what: "option", word: option.to_owned() }
}

/// Refuses every option but one.
pub(crate) fn known_only(option: &str, known: &str) -> Result<(), Problem> {
    if option == known { Ok(()) } else { Err(unknown_option(option)) }
}

/// The next word, at most this long.
pub(crate) fn text(words: &mut Words, what: &'static str, limit: usize) -> Result<String, Problem> {
    let text = words.take(what)?;
    if text.len() <= limit {
        Ok(text)
    } else {
        Err(Problem::Exceeds { what: format!("the length of `{text}`"), limit })
    }
}

/// `VALUE` or `VALUE/MASK`, decimal or hexadecimal.
pub(crate) fn value_and_mask(words: &mut Words) -> Result<(u32, u32), Problem> {
    const WHAT: &str = "a value with a mask";
    let word = words.take(WHAT)?;
    let number = |digits: &str| match digits.strip_prefix("0x") {
        None => parse(digits, WHAT),
        Some(digits) => u32::from_str_radix(digits, 16)
            .map_err(|_| Problem::Bad { what: WHAT, word: word.clone() }),
    };
    match word.split_once('/') {
        None => Ok((number(&word)?, u32::MAX)),
        Some((value, mask)) => Ok((number(value)?, number(mask)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cut: Result<Words, Problem>, want: Result<&[&str], Problem>) {
        let got = cut.map(|words| words.0.collect::<Vec<_>>());
        assert_eq!(got, want.map(|words| words.iter().map(|&word| word.to_owned()).collect()));
    }

    #[test]
    fn lines_are_cut_like_the_tools_cut_them() {
        let iptables = Words::of_iptables;
        check(iptables(""), Ok(&[]));
        check(iptables("  -A  INPUT\t-j ACCEPT "), Ok(&["-A", "INPUT", "-j", "ACCEPT"]));
        check(iptables(r#"--comment "a b" -j"#), Ok(&["--comment", "a b", "-j"]));
        check(iptables(r#""it\'s a \"test\" \\ back""#), Ok(&[r#"it's a "test" \ back"#]));
        check(iptables(r"it\'s"), Ok(&[r"it\'s"]));
        check(iptables(r#"--log-prefix """#), Ok(&["--log-prefix", ""]));
        check(iptables(r#"--comment "a"#), Err(Problem::UnfinishedQuote));
        check(iptables(r#""end\"#), Err(Problem::UnfinishedQuote));
        check(Words::of_ipset(r#"comment "a\" b"#), Ok(&["comment", r"a\", "b"]));
    }

    #[test]
    fn ports_are_ordered_ranges_without_signs() {
        assert_eq!(port_range("80", ':'), Ok((80, 80)));
        assert_eq!(port_range("0:65535", ':'), Ok((0, 65535)));
        for bad in ["", "+1", "-1", "65536", "2:1", "1:", "1-2", "http"] {
            assert!(port_range(bad, ':').is_err(), "{bad}");
        }
    }
}
