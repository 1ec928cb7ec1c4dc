//! Converts `OpenMetrics` to the older text format of Prometheus, 0.0.4, for clients that request
//! `text/plain`. Pure.

use std::fmt::Write as _;

/// Converts metrics to the older format.
///
/// In the older format, the lines `HELP` and `TYPE` use the name of a counter's samples, there are
/// no units and no last line, and there are fewer types.
#[must_use]
pub(super) fn of_open_metrics(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    // HELP comes before or after TYPE, and its name depends on the type.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').or(Some((rest, "")));
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (ending, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                "stateset" => ("", "gauge"),
                other => ("", other),
            };
            // Writing to memory cannot fail.
            if let Some((_, text)) = help.take().filter(|(named, _)| *named == name) {
                let _ = writeln!(plain, "# HELP {name}{ending} {text}");
            }
            let _ = writeln!(plain, "# TYPE {name}{ending} {kind}");
        } else if !line.starts_with('#') {
            plain.push_str(line);
            plain.push('\n');
        }
    }
    plain
}

/// Whether the header `Accept` of a request asks for the older format: it contains `text/plain`,
/// and `OpenMetrics` is missing or has less weight.
#[must_use]
pub(super) fn is_wanted(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let of = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next() == Some(wanted);
            let q = parts.find_map(|part| part.strip_prefix("q="));
            is_it.then(|| q.and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0))
        });
        of.fold(0.0, f32::max)
    };
    weight("text/plain") > weight("application/openmetrics-text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_named_as_their_samples() {
        let open = "# HELP a_b Some help.\n# TYPE a_b counter\n# UNIT a_b seconds\na_b_total{x=\"1\"} 2\n\
            # HELP i Version.\n# TYPE i info\ni_info{v=\"1\"} 1\n# HELP g G.\n# TYPE g gauge\ng 1.5\n# EOF\n";
        let plain = "# HELP a_b_total Some help.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n\
            # HELP i_info Version.\n# TYPE i_info gauge\ni_info{v=\"1\"} 1\n\
            # HELP g G.\n# TYPE g gauge\ng 1.5\n";
        assert_eq!(of_open_metrics(open), plain);
    }

    #[test]
    fn the_format_is_the_one_with_more_weight() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, expected) in [
            ("text/plain", true),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", true),
            (prometheus, false),
            ("application/openmetrics-text", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(accept), expected, "{accept}");
        }
    }
}
