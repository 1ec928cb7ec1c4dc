//! Objects that are written as JSON: their values are read at once, the places of their fields only
//! when a place is needed.
//!
//! Programs write most files with many objects, and diagnostics name few of these objects. To read
//! the files as YAML, only for the places, takes many times as long.

use std::fmt;
use std::sync::OnceLock;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::mark::{Mark, Place};
use super::tree::{self, Read, Tree};

/// The place of each field of a document.
#[derive(Debug)]
pub(super) enum Places {
    /// The places are known.
    Known(Mark),
    /// The places are found in the text when they are needed. No key is repeated in the text.
    OfJson(Box<str>, OnceLock<Mark>),
}

impl Places {
    /// The places in a text whose value [`plain_object`] has returned.
    pub(super) fn of_json(text: &str) -> Self {
        Self::OfJson(text.into(), OnceLock::new())
    }

    /// The place of each field.
    pub(super) fn mark(&self) -> &Mark {
        match self {
            Self::Known(mark) => mark,
            Self::OfJson(text, mark) => mark.get_or_init(|| {
                let tree = read(text).ok().and_then(|read| read.tree);
                tree.map_or(Mark::leaf(START), |tree| tree.mark)
            }),
        }
    }

    /// The place of each field, if a key may be given more than once.
    pub(super) fn repeating(&self) -> Option<&Mark> {
        match self {
            Self::Known(mark) => Some(mark),
            Self::OfJson(..) => None,
        }
    }

    /// The text that the value can be read from again, by [`plain_object`].
    pub(super) fn json(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::OfJson(text, _) => Some(text),
        }
    }

    /// The place where the document begins.
    pub(super) fn start(&self) -> Place {
        match self {
            Self::Known(mark) => mark.place,
            Self::OfJson(..) => START,
        }
    }

    /// As [`Places::mark`], without the document.
    pub(super) fn into_mark(self) -> Mark {
        match self {
            Self::Known(mark) => mark,
            Self::OfJson(..) => self.mark().clone(),
        }
    }
}

/// The text of a JSON value begins with the value.
const START: Place = Place { line: 1, column: 1 };

/// Reads one JSON value. If it is also YAML, its fields have places. It is not YAML if it has
/// escapes such as `\ud83d\ude00`, or a line break of YAML in a string.
pub(super) fn read(text: &str) -> Result<Read, tree::TreeError> {
    let is_yaml = !text.contains(['\u{85}', '\u{2028}', '\u{2029}']);
    let read = tree::read(text);
    if is_yaml && matches!(read, Ok(Read { unread: None, .. })) {
        return read;
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Null) => Ok(Read { tree: None, unread: None }),
        Ok(value) => Ok(Read { tree: Some(Tree::new(value, Mark::leaf(START))), unread: None }),
        Err(_) => read,
    }
}

/// The object of a JSON text, if [`read`] certainly returns the same value, and no key in it is
/// repeated.
///
/// `None` for texts with numbers or escapes that JSON and YAML read in different ways.
pub(super) fn plain_object(text: &str) -> Option<Value> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t');
    if !text.starts_with('{') || !text.bytes().all(is_plain) || text.contains("\\u") {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Plain.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

/// Reads a value, and rejects values that [`plain_object`] does not read.
#[derive(Clone, Copy)]
struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that YAML reads as JSON does")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("a number of more than 63 bits"))?;
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(self)?;
            if key == "<<" || found.insert(key, value).is_some() {
                return Err(A::Error::custom("a key that is repeated or that merges"));
            }
        }
        Ok(Value::Object(found))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks whether the value is read at once. If so, [`read`] must return the same value.
    #[track_caller]
    fn check(text: &str, is_plain: bool) {
        let found = plain_object(text);
        assert_eq!(found.is_some(), is_plain, "{text:?}");
        if let Some(found) = found {
            let tree = read(text).expect("it is JSON").tree.expect("it is an object");
            assert_eq!(found, tree.value, "{text:?}");
            assert_eq!(tree.mark.repetitions(), [], "{text:?}");
            assert_eq!(tree.mark.place, START);
        }
    }

    #[test]
    fn what_yaml_could_read_otherwise_is_not_read_at_once() {
        check(r#"{"a": ["b", 1, -2, true, null, {"c": {}}], "d": "\"\\\n/\t"}"#, true);
        check("{\n\t\"a\":\r\n\"1\"}", true);
        check(r#"{"a": 9223372036854775807, "yes": "no", "b": "<<"}"#, true);
        check(r#"{"a": 9223372036854775808}"#, false);
        check(r#"{"a": 1.0}"#, false);
        check(r#"{"a": 1e3}"#, false);
        check(r#"{"a": -0}"#, false);
        check(r#"{"a": "\u0041"}"#, false);
        check("{\"a\": \"\u{e9}\"}", false);
        check("{\"a\": \"\u{7f}\"}", false);
        check(r#"{"<<": {}}"#, false);
        check(r#"{"a": {"b": 1, "b": 1}}"#, false);
        check(r#"{"a": 1} {}"#, false);
        check(r#"["a"]"#, false);
        check("{a: 1}", false);
    }

    #[test]
    fn a_place_is_found_when_it_is_asked_for() {
        let places = Places::of_json("{\n  \"a\": {\n    \"b\": 1}}");
        assert!(matches!(&places, Places::OfJson(_, mark) if mark.get().is_none()));
        let path = crate::path::FieldPath::new(["a", "b"]);
        assert_eq!(places.mark().locate(path.steps()), Place { line: 3, column: 5 });
    }

    proptest! {
        #[test]
        fn what_is_read_at_once_is_what_yaml_reads(
            text in r#"\{"[a-c<"]{1,2}" ?: ?("[ -~\n\té\\]{0,6}"|-?[0-9.e]{1,21}|null|true|[\[\]{}]{2}),?(\n"[a-c]":0)?\}"#,
        ) {
            let is_plain = plain_object(&text).is_some();
            check(&text, is_plain);
        }
    }
}
