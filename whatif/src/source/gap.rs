//! What could not be read of a cluster, and why.

use std::fmt;

use policy_engine::labels::Str;

use crate::endpoint::EndpointError;

/// A resource that the user may not list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Gap {
    /// The kind that is missing, in lower case.
    pub kind: String,
    /// The resource as RBAC names it: `networkpolicies.networking.k8s.io`.
    pub resource: String,
    /// Its group, empty for the core.
    pub group: String,
    /// The one namespace in which it could be read after all.
    pub except: Option<Str>,
}

impl Gap {
    /// Whether what pods may do depends on it; otherwise it only names them.
    #[must_use]
    pub fn decides(&self) -> bool {
        const DECIDING: [&str; 5] = [
            "networkpolicy",
            "clusternetworkpolicy",
            "clusterdefaultnetworkpolicy",
            "namespace",
            "pod",
        ];
        DECIDING.contains(&self.kind.as_str())
    }

    /// Whether objects of `namespace` are missing.
    #[must_use]
    pub fn hides(&self, kind: &str, namespace: &str) -> bool {
        self.kind == kind && self.except.as_deref() != Some(namespace)
    }
}

/// A side of a question was not found, and may be among what could not be read.
#[derive(Debug, thiserror::Error)]
#[error("Undetermined: {missing}, but not all could be read: {gaps}")]
pub struct Unread {
    /// What was not found.
    pub missing: EndpointError,
    /// What could not be read.
    pub gaps: String,
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = if self.group.is_empty() { "the core group" } else { self.group.as_str() };
        write!(
            formatter,
            "RBAC does not grant the verb `list` on the resource `{}` of {core} in ",
            self.resource
        )?;
        match &self.except {
            None => formatter.write_str("the cluster"),
            Some(namespace) => write!(formatter, "namespaces other than {namespace}"),
        }
    }
}
