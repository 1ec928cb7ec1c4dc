//! Manifests as data: their names, and the few fields that a lab needs of them.
//!
//! Read from JSON by hand and not through the `crds` crate, which is what the cases test.

use anyhow::{Context, Result, bail};
use policy_engine::object::{Kind, ObjectRef};
use serde_json::Value;

/// The kinds that a case can hold.
const KINDS: [Kind; 8] = [
    Kind::Node,
    Kind::Namespace,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::ClusterDefaultNetworkPolicy,
    Kind::Pod,
];

/// The name of the object that `manifest` describes.
pub(super) fn name_of(manifest: &Value) -> Result<ObjectRef> {
    let kind = text(manifest, "/kind").context("a manifest lacks its kind")?;
    let known = Kind::parse(kind).filter(|kind| KINDS.contains(kind));
    let known = known.with_context(|| format!("a case cannot hold a {kind}"))?;
    let name = text(manifest, "/metadata/name")
        .with_context(|| format!("a {kind} lacks metadata.name"))?;
    let namespace = text(manifest, "/metadata/namespace").unwrap_or_default();
    if known.is_namespaced() == namespace.is_empty() {
        bail!("{kind} {name} must have a namespace exactly if its kind does");
    }
    Ok(ObjectRef::new(known, namespace, name))
}

/// The object that a step names as `kind/namespace/name` or `kind/name`.
pub(super) fn named(text: &str) -> Result<ObjectRef> {
    let object: ObjectRef = text.parse()?;
    if object.kind.is_namespaced() == object.namespace.is_empty() {
        bail!("{text:?} must have a namespace exactly if its kind does");
    }
    Ok(object)
}

/// A manifest with every placeholder and address filled in.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// What it describes.
    pub object: ObjectRef,
    /// The manifest as JSON.
    pub value: Value,
}

impl Manifest {
    /// The manifest as text that is both JSON and YAML.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:#}\n", self.value)
    }
}

/// The text at a JSON pointer.
pub(super) fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The port at a JSON pointer.
pub(super) fn port(value: &Value, pointer: &str) -> Option<u16> {
    value.pointer(pointer).and_then(Value::as_u64).and_then(|number| number.try_into().ok())
}

/// The items of the list at a JSON pointer; none when it is missing.
pub(super) fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
