//! Objects of an API server, cut down while they are decoded to what conversion looks at.
//!
//! ```text
//! JSON of a watch or list ──Deserialize──► Lean: the wanted parts, as they stand ──► convert::lean
//! ```
//!
//! Decoding well-formed JSON into a [`Lean`] never fails, whatever the object holds: a part of an
//! unexpected shape is kept as far as its shape can be told, and conversion reports it and fails
//! closed. So one strange object never stalls a watch, nor the list that it is in. A Pod of 6 KB
//! becomes some hundred bytes, and what is not wanted is skipped without being built.

use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_engine::object::Kind;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};

use crate::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use crate::api::cluster_network_policy::ClusterNetworkPolicy;

/// Deeper than this nothing is kept. No field of the API is half as deep; the JSON reader itself
/// gives up at 128, and that would be the end of a whole list.
const MAX_DEPTH: usize = 48;

/// What stands where an object is nested deeper than [`MAX_DEPTH`]: no part of an object accepts
/// it, so it fails closed.
const TOO_DEEP: &str = "(nested too deeply)";

/// A kind of objects, as its API type names it, and what is kept of one.
pub trait LeanKind {
    /// Which kind.
    const KIND: Kind;
    /// What conversion looks at.
    const KEEP: Part;
}

/// What is kept of one part of an object. The tree of an object is static data.
#[derive(Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// Of a mapping these fields; anything else is kept as it is, but empty.
    Fields(&'static [(&'static str, Part)], Others),
    /// Of each item of a list this; anything else is kept as it is, but empty.
    Items(&'static Part),
}

/// What becomes of the fields that a [`Part::Fields`] does not list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// They are skipped.
    Dropped,
    /// They are kept whole.
    Kept,
}

/// The annotation that puts a policy into audit.
pub const MODE_ANNOTATION: &str = "portcullis.dev/mode";

const METADATA: (&str, Part) = (
    "metadata",
    Part::Fields(
        &[
            ("name", Part::Whole),
            ("namespace", Part::Whole),
            ("resourceVersion", Part::Whole),
            ("generation", Part::Whole),
            ("labels", Part::Whole),
            ("creationTimestamp", Part::Whole),
            ("deletionTimestamp", Part::Whole),
        ],
        Others::Dropped,
    ),
);

const POLICY_METADATA: (&str, Part) = (
    "metadata",
    Part::Fields(
        &[
            ("name", Part::Whole),
            ("namespace", Part::Whole),
            ("resourceVersion", Part::Whole),
            ("generation", Part::Whole),
            ("annotations", Part::Fields(&[(MODE_ANNOTATION, Part::Whole)], Others::Dropped)),
        ],
        Others::Dropped,
    ),
);

/// Fields that conversion does not know may have been meant to isolate: it must see them. Of the
/// status it looks at nothing.
const POLICY: Part = Part::Fields(&[POLICY_METADATA, ("status", NOTHING)], Others::Kept);

const NOTHING: Part = Part::Fields(&[], Others::Dropped);

const CONTAINERS: Part = Part::Items(&Part::Fields(
    &[("ports", Part::Whole), ("restartPolicy", Part::Whole)],
    Others::Dropped,
));

impl LeanKind for Pod {
    const KIND: Kind = Kind::Pod;
    const KEEP: Part = Part::Fields(
        &[
            METADATA,
            (
                "spec",
                Part::Fields(
                    &[
                        ("nodeName", Part::Whole),
                        ("hostNetwork", Part::Whole),
                        ("containers", CONTAINERS),
                        ("initContainers", CONTAINERS),
                    ],
                    Others::Dropped,
                ),
            ),
            (
                "status",
                Part::Fields(
                    &[("phase", Part::Whole), ("podIP", Part::Whole), ("podIPs", Part::Whole)],
                    Others::Dropped,
                ),
            ),
        ],
        Others::Dropped,
    );
}

impl LeanKind for Namespace {
    const KIND: Kind = Kind::Namespace;
    const KEEP: Part = Part::Fields(&[METADATA], Others::Dropped);
}

impl LeanKind for Node {
    const KIND: Kind = Kind::Node;
    const KEEP: Part = Part::Fields(
        &[METADATA, ("status", Part::Fields(&[("addresses", Part::Whole)], Others::Dropped))],
        Others::Dropped,
    );
}

impl LeanKind for NetworkPolicy {
    const KIND: Kind = Kind::NetworkPolicy;
    const KEEP: Part = POLICY;
}

impl LeanKind for ClusterNetworkPolicy {
    const KIND: Kind = Kind::ClusterNetworkPolicy;
    const KEEP: Part = POLICY;
}

impl LeanKind for ClusterDefaultNetworkPolicy {
    const KIND: Kind = Kind::ClusterDefaultNetworkPolicy;
    const KEEP: Part = POLICY;
}

/// An object of kind `K`, cut down.
pub struct Lean<K> {
    value: Value,
    kind: PhantomData<fn() -> K>,
}

impl<K: LeanKind> Lean<K> {
    /// The parts that were kept.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Namespace and name, as conversion reads them; `None` when they cannot be told. The
    /// namespace is empty where the kind has none.
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

    /// `metadata.resourceVersion`, if it is text that says something.
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

impl<'de, K: LeanKind> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seed = Kept { part: const { &K::KEEP }, depth: 0 };
        Ok(Self { value: seed.deserialize(deserializer)?, kind: PhantomData })
    }
}

/// Reads a value, keeping what `part` says.
#[derive(Clone, Copy)]
struct Kept {
    part: &'static Part,
    depth: usize,
}

impl Kept {
    fn below(self, part: &'static Part) -> Self {
        Self { part, depth: self.depth + 1 }
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
            Part::Fields(..) => {
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
        while let Some(key) = fields.next_key_seed(Key(self.part))? {
            if let Some((name, part)) = key {
                kept.insert(name, fields.next_value_seed(self.below(part))?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(kept))
    }
}

/// Reads a key: its text and what is kept below it, or `None`, without a copy, when nothing is.
struct Key(&'static Part);

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
        let part = match self.0 {
            Part::Whole => Some(&Part::Whole),
            Part::Items(_) => None,
            Part::Fields(fields, others) => {
                let listed = fields.iter().find(|(name, _)| *name == key).map(|(_, part)| part);
                listed.or((*others == Others::Kept).then_some(&Part::Whole))
            }
        };
        Ok(part.map(|part| (key.to_owned(), part)))
    }
}
