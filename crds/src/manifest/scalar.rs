//! What a YAML scalar means to kubectl: YAML 1.1, as `sigs.k8s.io/yaml` reads it.
//!
//! `no` is a boolean, `0x50` is 80, `010` is 8, a date is text. A number with a fraction of zero
//! becomes an integer, for Go writes the float 80.0 as `80` on the way to the API server.

use serde_json::{Number, Value};

/// The value of a plain (unquoted) scalar.
///
/// # Errors
/// When JSON, and with it the API, has no such value (`.inf`, `.nan`).
pub(super) fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Ok(Value::Bool(true))
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Ok(Value::Bool(false))
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => Err(format!("`{text}` is no value that the API knows")),
        _ => Ok(number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)),
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let digits = text.replace('_', "");
    integer(&digits).map(Number::from).or_else(|| {
        let float = is_float(&digits).then(|| digits.parse::<f64>().ok()).flatten()?;
        // Go's JSON encoder writes such a float without a fraction.
        let whole = format!("{float:.0}").parse::<i64>().ok();
        match whole {
            Some(whole) if float.fract() == 0.0 => Some(Number::from(whole)),
            _ => Number::from_f64(float),
        }
    })
}

/// As Go's `strconv.ParseInt(text, 0, 64)`.
fn integer(text: &str) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefix = rest.get(..2).unwrap_or_default();
    let (radix, digits) = match prefix {
        "0x" | "0X" => (16, rest.get(2..)?),
        "0o" | "0O" => (8, rest.get(2..)?),
        "0b" | "0B" => (2, rest.get(2..)?),
        _ if rest.len() > 1 && rest.starts_with('0') => (8, rest.get(1..)?),
        _ => (10, rest),
    };
    if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_is_number = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    mantissa_is_number
        && exponent.is_none_or(|exponent| {
            let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            !digits.is_empty() && all_digits(digits)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        let table = [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("n", json!(false)),
            ("80", json!(80)),
            ("+80", json!(80)),
            ("-1", json!(-1)),
            ("0x50", json!(80)),
            ("010", json!(8)),
            ("0o17", json!(15)),
            ("0b11", json!(3)),
            ("08", json!(8)),
            ("8_0", json!(80)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            ("1e999", json!("1e999")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("10.0.0.0/8", json!("10.0.0.0/8")),
            ("fd00::1", json!("fd00::1")),
            ("2026-01-01T00:00:00Z", json!("2026-01-01T00:00:00Z")),
            ("http", json!("http")),
            ("-", json!("-")),
            ("+", json!("+")),
            ("0x", json!("0x")),
            ("--1", json!("--1")),
            (".", json!(".")),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), Ok(expected), "{text:?}");
        }
        assert!(plain(".inf").is_err());
    }
}
