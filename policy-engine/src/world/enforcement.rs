//! The namespaces in which policies decide about traffic. Elsewhere, all policies are in audit.

use crate::policy::Policy;
use crate::selector::Selector;
use crate::tier::Mode;
use crate::world::World;

/// The namespaces in which policies decide about the traffic of pods.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Enforcement {
    /// All namespaces.
    #[default]
    Everywhere,
    /// The namespaces whose labels match.
    Namespaces(Selector),
    /// No namespace.
    Nowhere,
}

impl World {
    /// Whether policies decide about the traffic of pods in a namespace. A namespace that is not
    /// known yet counts as selected, unless no namespace is: fail closed.
    #[must_use]
    pub fn enforces_in(&self, namespace: &str) -> bool {
        match &self.options.enforcement {
            Enforcement::Everywhere => true,
            Enforcement::Nowhere => false,
            Enforcement::Namespaces(selector) => {
                let known = self.namespaces().get(namespace);
                known.is_none_or(|known| selector.matches(&known.labels))
            }
        }
    }

    /// The mode in which a policy applies to the pods of a namespace.
    #[must_use]
    pub fn mode(&self, policy: &Policy, namespace: &str) -> Mode {
        if self.enforces_in(namespace) { policy.mode } else { Mode::Audit }
    }
}
