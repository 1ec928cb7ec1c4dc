//! What could not be read, and why.

use std::fmt;

use policy_engine::labels::Str;
use policy_engine::object::Kind;

/// Objects of one kind that are missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Gap {
    /// The kind that is missing.
    pub kind: Kind,
    /// The namespaces in which they are missing.
    pub place: Place,
    /// The reason why they are missing.
    pub cause: Cause,
}

/// The namespaces in which objects are missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// In the whole cluster.
    Everywhere,
    /// In all namespaces but this one.
    Except(Str),
    /// Only in this namespace.
    Only(Str),
}

/// The reason why objects are missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The user may not list them.
    Forbidden {
        /// The resource as RBAC names it.
        resource: String,
        /// Its group, empty for the core.
        group: String,
    },
    /// They are policies in a version that is not understood: `ClusterNetworkPolicy a of policy.networking.k8s.io/v1`.
    UnknownVersion(String),
}

impl Gap {
    /// Whether missing objects of this kind can change which connections are allowed.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.kind.is_policy() || matches!(self.kind, Kind::Namespace | Kind::Pod)
    }

    /// Whether objects of `namespace` are missing.
    #[must_use]
    pub fn hides(&self, kind: Kind, namespace: &str) -> bool {
        self.kind == kind
            && match &self.place {
                Place::Everywhere => true,
                Place::Except(read) => &**read != namespace,
                Place::Only(unread) => &**unread == namespace,
            }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, group) = match &self.cause {
            Cause::Forbidden { resource, group } => (resource, group),
            Cause::UnknownVersion(policy) => {
                return write!(formatter, "{policy}, a version that is not understood");
            }
        };
        let group = if group.is_empty() { "the core group" } else { group.as_str() };
        write!(
            formatter,
            "RBAC does not grant the verb `list` on the resource `{resource}` of {group} in "
        )?;
        match &self.place {
            Place::Everywhere => formatter.write_str("the cluster"),
            Place::Except(namespace) => write!(formatter, "namespaces other than {namespace}"),
            Place::Only(namespace) => write!(formatter, "namespace {namespace}"),
        }
    }
}
