//! The compiled state of an engine for one pod, for people who inspect a node.

use std::sync::Arc;

use super::Engine;
use crate::id::SetId;
use crate::model::PodKey;
use crate::policy::Policy;

impl Engine {
    /// The definition of a set in words, one for each item: `pods with app=web in namespace shop`.
    /// `None` when no ruleset refers to such a set.
    #[must_use]
    pub fn describe_set(&self, set: &SetId) -> Option<Vec<String>> {
        self.members.words(set)
    }

    /// The policies that the rulesets of a subject were compiled from, in the order in which they are
    /// evaluated, as of the last [`Engine::flush`].
    pub fn policies_selecting(&self, pod: &PodKey) -> impl Iterator<Item = &Arc<Policy>> {
        let subject = self.subjects.get(pod).into_iter();
        subject.flat_map(|subject| subject.policies.iter().map(|(policy, _)| policy))
    }
}
