//! References: how pods, workloads and the rest are called in answers and by users.

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

/// The names that are nearest to `wanted`, the nearest first; at most three, and none that is
/// nothing like it.
pub fn nearest<'n>(wanted: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    const ALIKE: f64 = 0.7;
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(wanted, name), name));
    let mut near: Vec<_> = scored.filter(|(score, _)| *score > ALIKE).collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(right.1)));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}
