//! Decodes one part of an object with the API type of the part.
//!
//! Parts are decoded one by one, so that an error in one part does not affect the others.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

use crate::path::{FieldPath, Path, Step};
use crate::report::Report;

/// A part of an object: a value and its path.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) path: Path<'a>,
    pub(crate) value: &'a Value,
}

impl<'a> Field<'a> {
    /// A whole object.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { path: Path::ROOT, value }
    }

    /// The field `key` of the mapping here. JSON null is a missing field, as in the API.
    pub(crate) fn get(&'a self, key: &'a str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Self { path: self.path.key(key), value })
    }

    /// The mapping under a key; any other value is reported with its `effect`.
    pub(crate) fn mapping(
        &'a self,
        key: &'a str,
        report: &mut Report<'_>,
        effect: &str,
    ) -> Option<Self> {
        let field = self.get(key)?;
        if !field.value.is_object() {
            let found = wanted("a mapping", field.value);
            report.error(&field.path, format!("{found}; {effect}"));
            return None;
        }
        Some(field)
    }

    /// The text of the value; any other value is reported with its `effect`.
    pub(crate) fn text(&self, report: &mut Report<'_>, effect: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            report.error(&self.path, format!("{}; {effect}", wanted("text", self.value)));
        }
        text
    }

    /// The list of the value; any other value is reported with its `effect`.
    pub(crate) fn list(&self, report: &mut Report<'_>, effect: &str) -> Option<&'a [Value]> {
        let list = self.value.as_array();
        if list.is_none() {
            report.error(&self.path, format!("{}; {effect}", wanted("a list", self.value)));
        }
        list.map(Vec::as_slice)
    }

    /// The value as a `T` without unknown and repeated fields; all errors are reported with their
    /// `effect`.
    pub(crate) fn decode<T: DeserializeOwned>(
        &self,
        report: &mut Report<'_>,
        effect: &str,
    ) -> Option<T> {
        let mut track = Track::new();
        let mut unknown: Vec<Vec<Step>> = Vec::new();
        let deserializer = serde_path_to_error::Deserializer::new(self.value, &mut track);
        let decoded: Result<T, _> = serde_ignored::deserialize(deserializer, |path| {
            unknown.push(steps(&path));
        });
        let here = || FieldPath::from(&self.path);
        if let Err(error) = &decoded {
            let path = track.path();
            let below = path.iter().filter_map(step);
            report.error_at(here().join(below), format!("{}; {effect}", type_error(error)));
        }
        let mut is_strange = !unknown.is_empty();
        for below in unknown {
            report.error_at(here().join(below), format!("is not a field of the API; {effect}"));
        }
        if let Some(path) = report.repeated_below(&self.path) {
            is_strange = true;
            let message = format!("is given more than once; {effect}; delete all but one");
            report.error_at(path, message);
        }
        decoded.ok().filter(|_| !is_strange)
    }

    /// Whether the mapping has fields other than `known`: each is reported.
    pub(crate) fn has_unknown(
        &self,
        known: &[&str],
        report: &mut Report<'_>,
        effect: &str,
    ) -> bool {
        let keys = self.value.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let unknown: Vec<&str> = keys.filter(|key| !known.contains(key)).collect();
        for key in &unknown {
            let meant = known.iter().find(|name| name.eq_ignore_ascii_case(key));
            let hint = meant.map(|name| format!("; write `{name}`")).unwrap_or_default();
            let message = format!("is not a field of the API; {effect}{hint}");
            report.error(&self.path.key(key), message);
        }
        !unknown.is_empty()
    }

    /// Whether the mapping has `key` more than once, which is reported.
    pub(crate) fn repeats(&self, key: &str, report: &mut Report<'_>, effect: &str) -> bool {
        let path = self.path.key(key);
        let repeats = report.is_repeated(&path);
        if repeats {
            let message = format!("is given more than once; {effect}; delete all but one");
            report.error(&path, message);
        }
        repeats
    }
}

/// A `T` that is written as a mapping.
///
/// The `Deserialize` that `derive` generates for a struct also accepts a list of the fields in
/// order: `range: [80, 90]`. An API server rejects this.
#[derive(Debug)]
pub(crate) struct Mapping<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Mapping<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MappingVisitor(PhantomData)).map(Self)
    }
}

struct MappingVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MappingVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// `wants a list, not text`: the type in the API, and the type of the value.
pub(crate) fn wanted(wanted: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    format!("must be {wanted}, not {found}")
}

/// The decoder's message, with the fix of the most frequent error: YAML 1.1 reads `y` as a boolean.
fn type_error(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let is_text = message.ends_with("expected a string");
    if is_text { format!("{message} (quote it)") } else { message }
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = steps(parent);
    steps.extend(step);
    steps
}
