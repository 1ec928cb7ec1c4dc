//! Denials that agents logged, one line each.

use std::io::{self, Write};

use crate::denials::Record;

/// Writes a record for people: the time, the node, the source and destination, and the reason.
///
/// # Errors
/// When the output cannot be written.
pub fn text(record: &Record, out: &mut dyn Write) -> io::Result<()> {
    let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.to_owned());
    let time = or(&record.time, "-");
    // People need no fractions of a second.
    let time = time.split('.').next().unwrap_or_default();
    let side = |name: &Option<String>| or(name, "(not named)");
    let port = match (&record.protocol, record.port) {
        (Some(protocol), Some(port)) => format!(" {port}/{protocol}"),
        (Some(protocol), None) => format!(" {protocol}"),
        (None, _) => String::new(),
    };
    let count = match (record.count, record.seconds) {
        (1, None) => String::new(),
        (count, None) => format!(" ({count} packets)"),
        (count, Some(seconds)) => format!(" ({count} packets in {seconds} s)"),
    };
    let why = record.why.as_ref().map_or_else(String::new, |why| format!("; {why}"));
    writeln!(
        out,
        "{time} {} {} {} {} → {}{port}{count}{why}",
        or(&record.node, "-"),
        record.verdict,
        or(&record.direction, "-"),
        side(&record.source),
        side(&record.destination),
    )
}

/// Writes a record as one line of JSON.
///
/// # Errors
/// When the output cannot be written.
pub fn json(record: &Record, out: &mut dyn Write) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_both_sides_the_count_and_the_reason() {
        let mut out = Vec::new();
        for line in [
            r#"2026-11-21T13:54:34.167696Z  INFO denied again node="n2" verdict="Denied" direction="Ingress" tier="NetworkPolicy" source="shop/web" destination="shop/api" protocol="TCP" port=80 why="isolated by shop/api" count=7 seconds=60"#,
            r#"{"timestamp":"2026-11-21T13:54:35.0Z","node":"n1","verdict":"WouldDeny","direction":"Egress","source":"shop/web","destination":"192.0.2.1","protocol":"ICMP","why":"would be denied","count":1}"#,
            r#"2026-11-21T13:54:36.167696Z  INFO denied, with no room to name them node="n2" verdict="Denied" direction="Egress" tier="Admin" count=3"#,
        ] {
            text(&Record::read(line).expect("a record"), &mut out).expect("memory");
        }
        let expected = "\
2026-11-21T13:54:34 n2 Denied Ingress shop/web → shop/api 80/TCP (7 packets in 60 s); isolated by shop/api
2026-11-21T13:54:35 n1 WouldDeny Egress shop/web → 192.0.2.1 ICMP; would be denied
2026-11-21T13:54:36 n2 Denied Egress (not named) → (not named) (3 packets)
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
