//! Objects reduced to the fields that Portcullis reads: while they are decoded from an API server,
//! and for a snapshot of the CLI. `keep.rs` lists the fields of each kind.
//!
//! ```text
//! JSON of a watch or list ──Deserialize──► Lean: the wanted parts, as they stand ──► convert::lean
//! an object of any source ──snapshot─────► the parts that answers depend on
//! ```
//!
//! Decoding well-formed JSON into a [`Lean`] never fails, whatever the object contains: of a value
//! with an unexpected type, the type is kept, and conversion reports it and fails closed. So one
//! invalid object never blocks a watch, or the list that contains it. A Pod of 6 KB becomes some
//! hundred bytes, and fields that are not kept are skipped without being built.

mod keep;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;

use policy_engine::object::Kind;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};

use keep::{CUSTOM, Part, Purpose, part};
pub use keep::{EXTRA_SOURCE_RANGES_ANNOTATION, LINT_IGNORE_ANNOTATION, MODE_ANNOTATION};

use crate::convert::custom::creates_pods;

/// Deeper values are not kept. Fields of the API are less than half as deep. The JSON reader has a
/// limit of 128, and exceeding it would fail a whole list.
const MAX_DEPTH: usize = 48;

/// Replaces a value below [`MAX_DEPTH`]. No part of an object accepts it: it fails closed.
const TOO_DEEP: &str = "(nested too deeply)";

/// A kind that policies depend on, for its API type.
pub trait LeanKind {
    /// The kind.
    const KIND: Kind;
}

/// An API type whose objects are reduced while they are decoded.
pub trait Projected {
    /// The parts of an object that are kept.
    const KEEP: &'static Part;
}

impl<K: LeanKind> Projected for K {
    const KEEP: &'static Part = part(K::KIND);
}

/// An object of kind `K`, reduced to the parts that are kept.
pub struct Lean<K> {
    value: Value,
    kind: PhantomData<fn() -> K>,
}

impl<K: LeanKind> Lean<K> {
    /// Namespace and name, as conversion reads them; `None` when they cannot be read. The namespace
    /// is empty if the kind is not namespaced.
    #[must_use]
    pub fn names(&self) -> Option<(&str, &str)> {
        let metadata = self.value.get("metadata")?;
        let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
        let namespace = match metadata.get("namespace") {
            _ if !K::KIND.is_namespaced() => "",
            None | Some(Value::Null) => "default",
            Some(namespace) => match namespace.as_str()? {
                "" => "default",
                namespace => namespace,
            },
        };
        Some((namespace, name))
    }
}

impl<K> Lean<K> {
    /// The parts that are kept.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The parts that are kept, as an owned value.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.value
    }

    /// `metadata.resourceVersion`, if it is a text that is not empty.
    #[must_use]
    pub fn resource_version(&self) -> Option<&str> {
        let version = self.value.get("metadata")?.get("resourceVersion")?.as_str();
        version.filter(|version| !version.is_empty())
    }
}

impl<K> Clone for Lean<K> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Lean<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lean").field(&self.value).finish()
    }
}

impl<'de, K: Projected> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seed = Kept { part: K::KEEP, purpose: Purpose::Conversion, depth: 0 };
        Ok(Self { value: seed.deserialize(deserializer)?, kind: PhantomData })
    }
}

/// The parts of an object that answers about a cluster depend on: names, labels, owners, addresses,
/// ports and policies. It has no environment or arguments of containers, and no annotations except
/// those of this project on policies. `None` for kinds that no answer depends on.
#[must_use]
pub fn snapshot(object: &Value) -> Option<Value> {
    let api_version = object.get("apiVersion")?.as_str()?;
    let name = object.get("kind")?.as_str()?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let is_ours = |kind: &Kind| *kind == Kind::Pod || kind.creates_pods() || group == kind.group();
    let part = match Kind::parse(name).filter(is_ours) {
        Some(kind) => part(kind),
        None if creates_pods(object) => &CUSTOM,
        None => return None,
    };
    let seed = Kept { part, purpose: Purpose::Snapshot, depth: 0 };
    let mut kept = seed.deserialize(object).ok()?;
    let fields = kept.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), name.into());
    Some(kept)
}

/// Reads a value and keeps what `part` lists.
#[derive(Clone, Copy)]
struct Kept {
    part: &'static Part,
    purpose: Purpose,
    depth: usize,
}

impl Kept {
    fn below(self, part: &'static Part) -> Self {
        Self { part, depth: self.depth + 1, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Kept {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth < MAX_DEPTH {
            return deserializer.deserialize_any(self);
        }
        IgnoredAny::deserialize(deserializer)?;
        Ok(Value::from(TOO_DEEP))
    }
}

impl<'de> Visitor<'de> for Kept {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let part = match self.part {
            Part::Whole => &Part::Whole,
            Part::Items(part) => part,
            Part::Fields(_) | Part::Open(_) | Part::Only(..) => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(part))? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = fields.next_key_seed(Key(self))? {
            if let Some((name, part)) = key {
                kept.insert(name, fields.next_value_seed(self.below(part))?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(kept))
    }
}

/// Reads a key: its text and the part that is kept below it; `None`, without a copy, for no part.
struct Key(Kept);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<(String, &'static Part)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<(String, &'static Part)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let Self(Kept { part, purpose, .. }) = self;
        let (fields, others) = match part {
            Part::Whole => return Ok(Some((key.to_owned(), part))),
            Part::Items(_) | Part::Only(..) => return Ok(None),
            Part::Fields(fields) => (fields, None),
            Part::Open(fields) => {
                (fields, (purpose == Purpose::Conversion).then_some(&Part::Whole))
            }
        };
        let part = match fields.iter().find(|(name, _)| *name == key) {
            Some((_, Part::Only(wanted, part))) => (*wanted == purpose).then_some(*part),
            Some((_, part)) => Some(part),
            None => others,
        };
        Ok(part.map(|part| (key.to_owned(), part)))
    }
}
