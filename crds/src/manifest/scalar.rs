//! The values of YAML scalars in kubectl: YAML 1.1, as `sigs.k8s.io/yaml` reads it (`resolve.go` of
//! `go.yaml.in/yaml/v2`).
//!
//! `no` is a boolean, `0x50` is 80, `010` is 8, a date is text. A number with a fraction of zero
//! becomes an integer, because Go writes the float 80.0 as `80` on the way to the API server.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, PAD};
use serde_json::{Number, Value};

use super::timestamp;
use crate::yaml::lossy;

const TAGS: &str = "tag:yaml.org,2002:";

/// A scalar with its type.
#[derive(PartialEq, Debug)]
pub(super) enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer that is too large for an `i64`.
    Uint(u64),
    Float(f64),
    /// The text as it is written.
    Text,
    /// The decoded text.
    Decoded(String),
}

/// Finds the type of the scalar `text`, which is not in quotes or has a `tag`.
///
/// # Errors
/// When the text is not of the type of the tag.
pub(super) fn resolve(tag: Option<&str>, text: &str) -> Result<Resolved, String> {
    let Some(tag) = tag else { return Ok(plain(text)) };
    let name = tag.strip_prefix(TAGS).unwrap_or_default();
    let found = match name {
        "bool" | "int" | "float" | "null" => plain(text),
        "timestamp" if timestamp::is_timestamp(text) => return Ok(Resolved::Text),
        // A scalar in quotes is text, and so is a scalar with an application's own tag.
        "timestamp" => return Err(format!("`{text}` is not a !!timestamp")),
        "binary" => {
            let bytes = base64(text.as_bytes());
            let bytes = bytes.ok_or("the value of !!binary is not base64; fix it")?;
            return Ok(Resolved::Decoded(lossy(bytes)));
        }
        _ => return Ok(Resolved::Text),
    };
    match (name, found) {
        // Go makes a float of an `int`, and not of a `uint64`.
        #[expect(clippy::cast_precision_loss, reason = "as Go's conversion")]
        ("float", Resolved::Int(number)) => Ok(Resolved::Float(number as f64)),
        ("bool", found @ Resolved::Bool(_))
        | ("int", found @ (Resolved::Int(_) | Resolved::Uint(_)))
        | ("float", found @ Resolved::Float(_))
        | ("null", found @ Resolved::Null) => Ok(found),
        _ => Err(format!("`{text}` is not a !!{name}")),
    }
}

impl Resolved {
    /// The JSON value; `text` is the text of the scalar.
    ///
    /// # Errors
    /// When JSON, and with it the API, has no such value (`.inf`, `.nan`).
    pub(super) fn into_value(self, text: impl Into<String>) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(number) => Value::Number(number.into()),
            Self::Uint(number) => Value::Number(number.into()),
            Self::Float(number) => {
                let text = text.into();
                let number = json_number(number);
                Value::Number(number.ok_or(format!("the API has no value for `{text}`"))?)
            }
            Self::Text => Value::String(text.into()),
            Self::Decoded(text) => Value::String(text),
        })
    }

    /// The key of a JSON object; `text` is the text of the scalar.
    ///
    /// # Errors
    /// When kubectl does not accept such a key.
    pub(super) fn into_key(self, text: impl Into<String>) -> Result<String, &'static str> {
        match self {
            Self::Bool(value) => Ok(value.to_string()),
            Self::Int(number) => Ok(number.to_string()),
            Self::Float(number) => Ok(float_key(number)),
            Self::Text => Ok(text.into()),
            Self::Decoded(text) => Ok(text),
            Self::Null | Self::Uint(_) => Err("a key of a mapping must be text; put it in quotes"),
        }
    }
}

fn plain(text: &str) -> Resolved {
    let first = text.bytes().next().unwrap_or(b'~');
    if !(first.is_ascii_digit() || b"+-.yYnNtTfFoO~".contains(&first)) {
        return Resolved::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            Resolved::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Resolved::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Resolved::Float(f64::NEG_INFINITY),
        _ if first == b'.' => float(text).map_or(Resolved::Text, Resolved::Float),
        _ if first.is_ascii_digit() || first == b'+' || first == b'-' => number(text),
        _ => Resolved::Text,
    }
}

fn number(text: &str) -> Resolved {
    let stripped;
    let digits = if text.contains('_') {
        stripped = text.replace('_', "");
        &stripped
    } else {
        text
    };
    let unsigned = || u64::try_from(magnitude(digits)?).ok();
    integer(digits)
        .map(Resolved::Int)
        .or_else(|| unsigned().map(Resolved::Uint))
        .or_else(|| float(digits).map(Resolved::Float))
        // Go looks for a sign behind the `0b` too.
        .or_else(|| {
            let rest = digits.strip_prefix("0b")?;
            rest.starts_with(['+', '-'])
                .then(|| i64::from_str_radix(rest, 2).ok())?
                .map(Resolved::Int)
        })
        .unwrap_or(Resolved::Text)
}

/// As Go's `strconv.ParseInt(text, 0, 64)`.
fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(rest) => i64::try_from(-magnitude(rest)?).ok(),
        None => i64::try_from(magnitude(text.strip_prefix('+').unwrap_or(text))?).ok(),
    }
}

/// A number without a sign.
fn magnitude(text: &str) -> Option<i128> {
    let (radix, digits) = match (text.get(..2).unwrap_or_default(), text.len()) {
        ("0x" | "0X", 3..) => (16, text.get(2..)?),
        ("0o" | "0O", 3..) => (8, text.get(2..)?),
        ("0b" | "0B", 3..) => (2, text.get(2..)?),
        (_, 2..) if text.starts_with('0') => (8, text.get(1..)?),
        _ => (10, text),
    };
    // `from_str_radix` would accept another sign.
    digits.starts_with(|first: char| first.is_ascii_alphanumeric()).then_some(())?;
    i128::from_str_radix(digits, radix).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, unless it is too large.
fn float(text: &str) -> Option<f64> {
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
    let exponent_is_number = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    let number = (mantissa_is_number && exponent_is_number).then(|| text.parse().ok())??;
    f64::is_finite(number).then_some(number)
}

/// The number that Go's JSON encoder writes for a float: the shortest digits, without a fraction
/// of zero.
fn json_number(float: f64) -> Option<Number> {
    if float.fract() == 0.0 && float.abs() < 1e21 {
        let digits = float.to_string();
        let whole = digits.parse::<i64>().map(Number::from);
        if let Ok(whole) = whole.or_else(|_| digits.parse::<u64>().map(Number::from)) {
            return Some(whole);
        }
    }
    Number::from_f64(float)
}

/// A float as a key, as Go's `strconv.FormatFloat(float, 'g', -1, 32)`.
fn float_key(float: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "as Go does")]
    let float = float as f32;
    if float.is_nan() {
        return ".nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // C's %g writes so with its default precision.
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{float}")
}

/// The bytes of standard base64 with padding, as Go decodes it: line breaks do not count, nor do the
/// bits behind the last byte.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = PAD.with_decode_allow_trailing_bits(true);
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    GeneralPurpose::new(&STANDARD, CONFIG).decode(digits).ok()
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
            ("0b-11", json!(-3)),
            ("08", json!(8)),
            ("8_0", json!(80)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("._5", json!("._5")),
            ("1e999", json!("1e999")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("+18446744073709551615", json!(18_446_744_073_709_552_000_f64)),
            ("1e22", json!(1e22)),
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
            assert_eq!(plain(text).into_value(text), Ok(expected), "{text:?}");
        }
        assert!(plain(".inf").into_value(".inf").is_err());
    }

    #[test]
    fn tags_give_a_type_or_are_an_error() {
        let value = |tag: &str, text: &str| {
            resolve(Some(&format!("{TAGS}{tag}")), text).and_then(|found| found.into_value(text))
        };
        assert_eq!(value("int", "0x10"), Ok(json!(16)));
        assert_eq!(value("float", "1"), Ok(json!(1)));
        assert_eq!(value("binary", "aGk=\naGk="), Err(value("binary", "a").unwrap_err()));
        assert_eq!(value("binary", "aGkh\naGk="), Ok(json!("hi!hi")));
        assert_eq!(value("binary", "gIA="), Ok(json!("\u{fffd}\u{fffd}")));
        assert_eq!(value("timestamp", "2026-1-2"), Ok(json!("2026-1-2")));
        assert_eq!(value("set", "1"), Ok(json!("1")));
        for (tag, text) in [("int", "x"), ("int", "1.5"), ("bool", "1"), ("timestamp", "1")] {
            assert!(value(tag, text).is_err(), "!!{tag} {text}");
        }
    }

    #[test]
    fn keys_of_other_types_are_what_kubectl_makes_of_them() {
        for (text, expected) in [
            ("1.0", "1"),
            ("1.5", "1.5"),
            ("1e5", "100000"),
            ("1e6", "1e+06"),
            ("123456789.0", "1.2345679e+08"),
            ("0.00001", "1e-05"),
            ("1e300", ".inf"),
            (".nan", ".nan"),
            ("yes", "true"),
            ("010", "8"),
        ] {
            assert_eq!(plain(text).into_key(text).as_deref(), Ok(expected), "{text}");
        }
        assert!(plain("~").into_key("~").is_err());
    }
}
