//! The matches that count packets over time. A [`RateLimit`](super::RateLimit) decides whether they
//! match; the condition is added where `-m` is read.

use crate::error::Problem;
use crate::matches::Question;
use crate::words::{Words, parse, text, unknown_option};

/// The kernel's `NAME_MAX`, as `xt_hashlimit_mtinfo3` has it.
const TABLE_NAME_LENGTH_MAX: usize = 254;

/// `limit`.
pub(crate) fn limit(option: &str, words: &mut Words) -> Result<Option<Question>, Problem> {
    match option {
        "--limit-burst" => _ = words.parse::<u32>("a burst")?,
        "--limit" => rate(words)?,
        _ => return Err(unknown_option(option)),
    }
    Ok(None)
}

/// `hashlimit`: a limit for each sender, receiver or port.
pub(crate) fn hashlimit(option: &str, words: &mut Words) -> Result<Option<Question>, Problem> {
    const MODES: &str = "a list of srcip, dstip, srcport and dstport";
    match option {
        "--hashlimit-upto" => rate(words)?,
        "--hashlimit-mode" => {
            let word = words.take(MODES)?;
            let known = |mode| ["srcip", "dstip", "srcport", "dstport"].contains(&mode);
            if !word.split(',').all(known) {
                return Err(Problem::Bad { what: MODES, word });
            }
        }
        "--hashlimit-name" => _ = text(words, "the table's name", TABLE_NAME_LENGTH_MAX)?,
        "--hashlimit-burst"
        | "--hashlimit-htable-size"
        | "--hashlimit-htable-max"
        | "--hashlimit-htable-expire"
        | "--hashlimit-htable-gcinterval" => _ = words.parse::<u32>("a number")?,
        _ => return Err(unknown_option(option)),
    }
    Ok(None)
}

/// `NUMBER/UNIT`.
fn rate(words: &mut Words) -> Result<(), Problem> {
    const WHAT: &str = "a rate";
    const UNITS: [&str; 10] = ["s", "sec", "second", "m", "min", "minute", "h", "hour", "d", "day"];
    let word = words.take(WHAT)?;
    let bad = || Problem::Bad { what: WHAT, word: word.clone() };
    let (number, unit) = word.split_once('/').ok_or_else(bad)?;
    if parse::<u32>(number, WHAT)? == 0 || !UNITS.contains(&unit) {
        return Err(bad());
    }
    Ok(())
}
