//! Manifests as data: their names, and the few fields that a lab needs of them.
//!
//! Read from JSON by hand and not through the `crds` crate, which is what the cases test.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The name of an object, written `kind/namespace/name` or `kind/name`, the kind in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty for kinds of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kinds that a case can hold. In this order they can be created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1beta1` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `portcullis.dev/v1alpha1` ClusterDefaultNetworkPolicy.
    ClusterDefaultNetworkPolicy,
    /// `v1` Pod.
    Pod,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Node,
        Self::Namespace,
        Self::Service,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::ClusterDefaultNetworkPolicy,
        Self::Pod,
    ];

    /// The kind as manifests write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::ClusterDefaultNetworkPolicy => "ClusterDefaultNetworkPolicy",
            Self::Pod => "Pod",
        }
    }

    fn is_namespaced(self) -> bool {
        match self {
            Self::Node
            | Self::Namespace
            | Self::ClusterNetworkPolicy
            | Self::ClusterDefaultNetworkPolicy => false,
            Self::Service | Self::NetworkPolicy | Self::Pod => true,
        }
    }
}

impl ObjectRef {
    /// The name of the object that `manifest` describes.
    pub(super) fn of(manifest: &Value) -> Result<Self> {
        let kind = text(manifest, "/kind").context("a manifest lacks its kind")?;
        let kind = Kind::ALL
            .into_iter()
            .find(|candidate| candidate.as_str() == kind)
            .with_context(|| format!("a case cannot hold a {kind}"))?;
        let name = text(manifest, "/metadata/name")
            .with_context(|| format!("a {} lacks metadata.name", kind.as_str()))?;
        let namespace = text(manifest, "/metadata/namespace").unwrap_or_default();
        if kind.is_namespaced() == namespace.is_empty() {
            bail!("{} {name} must have a namespace exactly if its kind does", kind.as_str());
        }
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl FromStr for ObjectRef {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, namespace, name] => (*kind, *namespace, *name),
            [kind, name] => (*kind, "", *name),
            _ => bail!("{text:?} is not kind/namespace/name"),
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|candidate| candidate.as_str().to_lowercase() == kind)
            .with_context(|| format!("{text:?}: unknown kind {kind:?}"))?;
        if kind.is_namespaced() == namespace.is_empty() {
            bail!("{text:?} must have a namespace exactly if its kind does");
        }
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/", self.kind.as_str().to_lowercase())?;
        if !self.namespace.is_empty() {
            write!(formatter, "{}/", self.namespace)?;
        }
        formatter.write_str(&self.name)
    }
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
