//! The texts that `!!timestamp` accepts (`parseTimestamp` of `go.yaml.in/yaml/v2`).
//!
//! Without this tag, a date is text as any other.

/// Whether Go's `time.Parse` accepts `text` in one of the four layouts of the YAML package.
pub(super) fn is_timestamp(text: &str) -> bool {
    let mut rest = text;
    let Some(year) = digits(&mut rest, 4, 4).filter(|_| take(&mut rest, "-")) else { return false };
    let Some(month @ 1..=12) = digits(&mut rest, 1, 2).filter(|_| take(&mut rest, "-")) else {
        return false;
    };
    let Some(day) = digits(&mut rest, 1, 2) else { return false };
    if day == 0 || day > days(year, month) {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    let with_zone = !take(&mut rest, " ");
    rest = if with_zone { rest } else { rest.trim_start_matches(' ') };
    if with_zone && !take(&mut rest, "T") && !take(&mut rest, "t") {
        return false;
    }
    time(&mut rest).is_some() && if with_zone { is_zone(rest) } else { rest.is_empty() }
}

fn time(rest: &mut &str) -> Option<()> {
    digits(rest, 1, 2).filter(|hour| *hour < 24 && take(rest, ":"))?;
    digits(rest, 1, 2).filter(|minute| *minute < 60 && take(rest, ":"))?;
    digits(rest, 1, 2).filter(|second| *second < 60)?;
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        *rest = fraction.get(length..).filter(|_| length > 0)?;
    }
    Some(())
}

/// `Z`, or a sign, hours and minutes.
fn is_zone(text: &str) -> bool {
    let Some(mut rest) = text.strip_prefix(['+', '-']) else { return text == "Z" };
    let hours = digits(&mut rest, 2, 2).filter(|hours| *hours <= 24 && take(&mut rest, ":"));
    hours.is_some()
        && digits(&mut rest, 2, 2).is_some_and(|minutes| minutes <= 60)
        && rest.is_empty()
}

fn days(year: u32, month: u32) -> u32 {
    let divides = |years| year.is_multiple_of(years);
    let is_leap = divides(4) && (!divides(100) || divides(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Takes `least` to `most` digits.
fn digits(rest: &mut &str, least: usize, most: usize) -> Option<u32> {
    let length = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let (number, behind) = rest.split_at_checked(length).filter(|_| length >= least)?;
    *rest = behind;
    number.parse().ok()
}

fn take(rest: &mut &str, text: &str) -> bool {
    let behind = rest.strip_prefix(text);
    *rest = behind.unwrap_or(rest);
    behind.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_those_of_go() {
        for text in [
            "2001-12-14",
            "2001-1-2",
            "2001-12-14t21:59:43.10-05:00",
            "2001-12-14T1:2:3Z",
            "2001-12-14 21:59:43.10",
            "2004-02-29",
        ] {
            assert!(is_timestamp(text), "{text}");
        }
        for text in [
            "2001-12-14 21:59:43.10 -5",
            "2001-13-14",
            "2001-02-29",
            "01-1-2",
            "2001-12-14T21:59:43",
            "2001-12-14 25:59:43",
            "2001-12-14x",
            "",
        ] {
            assert!(!is_timestamp(text), "{text}");
        }
    }
}
