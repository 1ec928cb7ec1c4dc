//! References: the names of pods, workloads and other objects in answers and in questions.

use std::fmt;

use policy_engine::labels::Str;

/// A workload, or a pod that nothing controls: `shop/deployment/api`, `shop/pod/a`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkloadRef {
    /// The namespace.
    pub namespace: Str,
    /// The kind in lower case.
    pub kind: Str,
    /// The name.
    pub name: Str,
}

impl WorkloadRef {
    /// The reference `namespace/kind/name`.
    #[must_use]
    pub fn new(namespace: &Str, kind: &str, name: &Str) -> Self {
        let kind = kind.to_lowercase().as_str().into();
        Self { namespace: namespace.clone(), kind, name: name.clone() }
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}
