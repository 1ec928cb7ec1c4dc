//! The policies that name nodes, and the Nodes besides the agent's own: a pure value that decides
//! what the agent receives of them, and whether these Nodes have to be watched.
//!
//! ```text
//! policies ─► pass ─► as they are; until all Nodes are known held back, or without their nodes
//! Nodes ────► nodes ─► kept until the first list is complete; then Nodes and policies, in one batch
//! ```
//!
//! A policy that names nodes is decided closed while the Nodes are not known
//! ([`Policy::without_nodes`]). Once policies are enforced, it is held back for a moment first, since
//! a policy that is closed denies more than its author wants. No other policy waits for the Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Policy;
use portcullis_crds::convert::Object;
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;

/// The policies that name nodes, and what is known of the Nodes.
#[derive(Default, Debug)]
pub(super) struct Naming {
    /// The policies as they were received.
    policies: BTreeMap<ObjectRef, Object>,
    /// Those of them that were held back.
    held: BTreeSet<ObjectRef>,
    nodes: Nodes,
}

/// What happens to a policy that names nodes while the Nodes are not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// It is decided closed.
    Close,
    /// It is held back: the agent keeps what it knows of the policy.
    Hold,
}

/// The Nodes besides the agent's own.
#[derive(Debug)]
enum Nodes {
    /// The first list is not complete. These were received of it.
    Unknown(Vec<Object>),
    /// The agent has all of them. These are their names.
    Known(BTreeSet<Str>),
}

impl Default for Nodes {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl Naming {
    /// Whether a policy names nodes.
    #[must_use]
    pub(super) fn is_needed(&self) -> bool {
        !self.policies.is_empty()
    }

    /// Whether policies that name nodes are decided closed at present, or are held back.
    #[must_use]
    pub(super) fn is_closed(&self) -> bool {
        self.is_needed() && matches!(self.nodes, Nodes::Unknown(_))
    }

    /// Takes note of policies among `changes`. Returns the changes for the agent.
    pub(super) fn pass(&mut self, mut changes: Vec<Object>, unknown: Unknown) -> Vec<Object> {
        changes.retain_mut(|object| {
            let Change::Policy(name, policy) = &object.change else { return true };
            self.held.remove(name);
            let Some(policy) = policy.as_ref().filter(|policy| policy.names_nodes()) else {
                self.policies.remove(name);
                return true;
            };
            self.policies.insert(name.clone(), object.clone());
            if let Nodes::Known(_) = self.nodes {
                return true;
            }
            match unknown {
                Unknown::Close => object.change = without_nodes(policy),
                Unknown::Hold => drop(self.held.insert(name.clone())),
            }
            unknown == Unknown::Close
        });
        changes
    }

    /// Ends the wait of policies that are held back: they are decided closed. Returns the changes for
    /// the agent.
    pub(super) fn close_held(&mut self) -> Vec<Object> {
        let held = std::mem::take(&mut self.held).into_iter();
        let held = held.filter_map(|name| self.policies.get(&name));
        let close = |object: &Object| match &object.change {
            Change::Policy(_, Some(policy)) => {
                Some(Object { change: without_nodes(policy), ..object.clone() })
            }
            _ => None,
        };
        held.filter_map(close).collect()
    }

    /// Takes changes of Nodes. `is_complete`: all Nodes have been received. Returns the changes for
    /// the agent, which are one batch.
    pub(super) fn nodes(&mut self, changes: Vec<Object>, is_complete: bool) -> Vec<Object> {
        let mut batch = match &mut self.nodes {
            Nodes::Unknown(kept) => {
                kept.extend(changes);
                if !is_complete {
                    return Vec::new();
                }
                let kept = std::mem::take(kept);
                self.held.clear();
                self.nodes = Nodes::Known(BTreeSet::new());
                kept.into_iter().chain(self.policies.values().cloned()).collect()
            }
            Nodes::Known(_) => changes,
        };
        if let Nodes::Known(names) = &mut self.nodes {
            for object in &mut batch {
                match &object.change {
                    Change::Node(name, Some(_)) => names.insert(name.clone()),
                    Change::Node(name, None) => names.remove(name),
                    Change::Pod(..) | Change::Namespace(..) | Change::Policy(..) => false,
                };
            }
        }
        batch
    }

    /// Forgets all Nodes, because no policy names nodes any more. Returns the changes for the agent.
    pub(super) fn forget_nodes(&mut self) -> Vec<Object> {
        match std::mem::take(&mut self.nodes) {
            Nodes::Unknown(_) => Vec::new(),
            Nodes::Known(names) => {
                names.into_iter().map(|name| Change::Node(name, None).into()).collect()
            }
        }
    }

    /// What is reported while policies that name nodes are decided closed for long.
    #[must_use]
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let report = |name: &ObjectRef| Diagnostic {
            severity: Severity::Error,
            source: None,
            about: About::Object(name.clone()),
            field: FieldPath::default(),
            message: "names nodes, and the Nodes of the cluster could not be listed yet: until \
                      then, `nodes` in Accept rules match nothing, and Deny and Pass rules with \
                      `nodes` deny everything"
                .to_owned(),
        };
        self.policies.keys().filter(|_| self.is_closed()).map(report).collect()
    }
}

/// The change for a policy while the Nodes are not known.
fn without_nodes(policy: &Arc<Policy>) -> Change {
    Change::Policy(policy.name.clone(), Some(Arc::new(policy.without_nodes())))
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::{Direction, PerDirection};
    use policy_engine::labels::Labels;
    use policy_engine::model::Node;
    use policy_engine::policy::{OrderedRule, Peer, Peers, Ports, Rule, Subject};
    use policy_engine::selector::Selector;
    use policy_engine::tier::{Action, Tier};

    use super::*;

    fn policy(name: &str, peer: Peer) -> Object {
        let rule = Rule { peers: Peers::Listed(vec![peer]), ports: Ports::Any };
        let egress = vec![OrderedRule { action: Action::Deny, rule }];
        let rules = PerDirection { ingress: Vec::new(), egress };
        let subject = Subject::pods(Selector::everything());
        let policy = Policy::cluster_network_policy(name, (Tier::Admin, 1), subject, rules);
        Change::from(policy).into()
    }

    /// A policy that names nodes.
    fn naming(name: &str) -> Object {
        policy(name, Peer::Nodes(Selector::everything()))
    }

    fn removal(object: &Object) -> Object {
        Change::removal(object.change.object()).expect("it can be removed").into()
    }

    fn node(name: &str) -> Object {
        let node = Node { labels: Labels::default(), addresses: Vec::new() };
        Change::Node(name.into(), Some(node)).into()
    }

    /// The changes as text: `a closed` for a policy that denies everything.
    fn shown(changes: &[Object]) -> Vec<String> {
        let show = |Object { change, .. }: &Object| {
            let state = match change {
                Change::Policy(_, Some(policy)) => match policy.ordered(Direction::Egress) {
                    [rule] if *rule == OrderedRule::deny_everything() => "closed",
                    _ => "written",
                },
                change if change.is_removal() => "gone",
                _ => "there",
            };
            format!("{} {state}", change.object().name)
        };
        changes.iter().map(show).collect()
    }

    #[test]
    fn a_policy_is_closed_until_all_nodes_are_known_and_comes_with_them() {
        let mut state = Naming::default();
        let (a, other) = (naming("a"), policy("b", Peer::Invalid));
        assert!(!state.is_needed());
        let passed = state.pass(vec![node("n1"), a.clone(), other], Unknown::Close);
        assert_eq!(shown(&passed), ["n1 there", "a closed", "b written"]);
        assert!(state.is_needed() && state.is_closed());
        assert_eq!(state.diagnostics().len(), 1);
        assert_eq!(
            shown(&state.nodes(vec![node("n2")], false)),
            [""; 0],
            "the list is not complete"
        );
        assert_eq!(
            shown(&state.nodes(vec![node("n3")], true)),
            ["n2 there", "n3 there", "a written"]
        );
        assert!(!state.is_closed());
        assert_eq!(state.diagnostics(), []);
        assert_eq!(shown(&state.pass(vec![naming("c")], Unknown::Hold)), ["c written"]);
        let changes = vec![node("n4"), removal(&node("n2"))];
        assert_eq!(shown(&state.nodes(changes, false)), ["n4 there", "n2 gone"]);
    }

    #[test]
    fn the_last_policy_that_names_nodes_ends_the_need_and_the_nodes_go() {
        let mut state = Naming::default();
        let _ = state.pass(vec![naming("a"), naming("b")], Unknown::Close);
        let _ = state.nodes(vec![node("n2"), node("n3")], true);
        let _ = state.pass(vec![removal(&naming("a"))], Unknown::Close);
        assert!(state.is_needed());
        let changed = state.pass(vec![policy("b", Peer::Invalid)], Unknown::Hold);
        assert_eq!(shown(&changed), ["b written"]);
        assert!(!state.is_needed(), "b names no nodes any more");
        assert_eq!(shown(&state.forget_nodes()), ["n2 gone", "n3 gone"]);
        assert_eq!(shown(&state.forget_nodes()), [""; 0]);
        let again = state.pass(vec![naming("b")], Unknown::Close);
        assert_eq!(shown(&again), ["b closed"], "they are unknown again");
    }

    #[test]
    fn a_policy_that_is_held_back_comes_with_the_nodes_or_closed_when_they_are_late() {
        let mut state = Naming::default();
        let (a, b, other) = (naming("a"), naming("b"), policy("c", Peer::Invalid));
        assert_eq!(shown(&state.pass(vec![a.clone(), b, other], Unknown::Hold)), ["c written"]);
        // One of them is changed in the meantime, and is held back no longer.
        assert_eq!(
            shown(&state.pass(vec![policy("b", Peer::Invalid)], Unknown::Hold)),
            ["b written"]
        );
        assert_eq!(shown(&state.close_held()), ["a closed"]);
        assert_eq!(shown(&state.close_held()), [""; 0], "once");
        assert_eq!(shown(&state.nodes(vec![node("n2")], true)), ["n2 there", "a written"]);

        let mut state = Naming::default();
        let _ = state.pass(vec![a], Unknown::Hold);
        assert_eq!(shown(&state.nodes(vec![node("n2")], true)), ["n2 there", "a written"]);
        assert_eq!(shown(&state.close_held()), [""; 0], "it is known as it was written");
    }

    #[test]
    fn a_policy_that_goes_before_the_nodes_are_known_does_not_come_back_with_them() {
        let mut state = Naming::default();
        let a = naming("a");
        let _ = state.pass(vec![a.clone(), removal(&a)], Unknown::Hold);
        assert_eq!(shown(&state.nodes(vec![node("n2")], true)), ["n2 there"]);
        assert_eq!(shown(&state.forget_nodes()), ["n2 gone"]);
    }
}
