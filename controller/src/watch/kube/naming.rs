//! The policies that need objects of a kind which an agent does not watch otherwise, and these
//! objects: a pure value that decides what the agent receives of them, and whether the objects have
//! to be watched. The kinds are Node, for policies that name nodes, and EndpointSlice, for policies
//! that allow connections to the API server.
//!
//! ```text
//! policies ─► pass ─► as they are; until all objects are known held back, or closed
//! objects ──► take ─► kept until the first list is complete; then they and the policies, in one batch
//! ```
//!
//! A policy is decided closed while the objects that it needs are not known
//! ([`Policy::without_nodes`]; or without rules for the API server). Once policies are enforced, it is
//! held back for a moment first, since a policy that is closed denies more than its author wants. No
//! other policy waits for these objects.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy_engine::model::Change;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Policy;
use portcullis_crds::convert::Object;
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::lean::LeanKind;
use portcullis_crds::path::FieldPath;

/// A kind of objects that an agent receives only while a policy needs them.
pub(super) trait Needed: LeanKind {
    /// Whether a policy needs the objects.
    fn is_needed_by(policy: &Policy) -> bool;

    /// The policy while the objects are not known: it fails closed.
    fn closed(policy: &Policy) -> Policy;

    /// The origin of the diagnostics about policies that are decided closed.
    const ORIGIN: &'static str;

    /// What is reported of a policy that is decided closed for long.
    const MISSING: &'static str;
}

impl Needed for Node {
    fn is_needed_by(policy: &Policy) -> bool {
        policy.names_nodes()
    }

    fn closed(policy: &Policy) -> Policy {
        policy.without_nodes()
    }

    const ORIGIN: &'static str = "policies that name nodes";

    const MISSING: &'static str = "names nodes, and the Nodes of the cluster could not be listed yet: until then, `nodes` in \
         Accept rules match nothing, and Deny and Pass rules with `nodes` deny everything";
}

impl Needed for EndpointSlice {
    fn is_needed_by(policy: &Policy) -> bool {
        policy.names_api_server()
    }

    fn closed(policy: &Policy) -> Policy {
        policy.clone().with_api_server(None)
    }

    const ORIGIN: &'static str = "policies that allow the API server";

    const MISSING: &'static str = "has `allowAPIServer`, and the EndpointSlices of the Service `kubernetes` in `default` could \
         not be listed yet: until then, the field allows nothing";
}

/// The policies that need objects of the kind `K`, and what is known of these objects.
#[derive(Debug)]
pub(super) struct Naming<K> {
    /// The policies as they were received.
    policies: BTreeMap<ObjectRef, Object>,
    /// Those of them that were held back.
    held: BTreeSet<ObjectRef>,
    objects: Received,
    kind: PhantomData<fn() -> K>,
}

impl<K> Default for Naming<K> {
    fn default() -> Self {
        let (policies, held) = (BTreeMap::new(), BTreeSet::new());
        Self { policies, held, objects: Received::default(), kind: PhantomData }
    }
}

/// What happens to a policy while the objects that it needs are not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// It is decided closed.
    Close,
    /// It is held back: the agent keeps what it knows of the policy.
    Hold,
}

/// The objects that policies need.
#[derive(Debug)]
enum Received {
    /// The first list is not complete. These were received of it.
    Unknown(Vec<Object>),
    /// The agent has all of them. These are their names.
    Known(BTreeSet<ObjectRef>),
}

impl Default for Received {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl<K: Needed> Naming<K> {
    /// Whether a policy needs the objects.
    #[must_use]
    pub(super) fn is_needed(&self) -> bool {
        !self.policies.is_empty()
    }

    /// Whether policies that need the objects are decided closed at present, or are held back.
    #[must_use]
    pub(super) fn is_closed(&self) -> bool {
        self.is_needed() && matches!(self.objects, Received::Unknown(_))
    }

    /// Takes note of policies among `changes`. Returns the changes for the agent.
    pub(super) fn pass(&mut self, mut changes: Vec<Object>, unknown: Unknown) -> Vec<Object> {
        changes.retain_mut(|object| {
            let Change::Policy(name, policy) = &object.change else { return true };
            self.held.remove(name);
            let Some(policy) = policy.as_ref().filter(|policy| K::is_needed_by(policy)) else {
                self.policies.remove(name);
                return true;
            };
            self.policies.insert(name.clone(), object.clone());
            if let Received::Known(_) = self.objects {
                return true;
            }
            match unknown {
                Unknown::Close => object.change = closed::<K>(policy),
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
                Some(Object { change: closed::<K>(policy), ..object.clone() })
            }
            _ => None,
        };
        held.filter_map(close).collect()
    }

    /// Takes changes of the objects. `is_complete`: all of them have been received. Returns the
    /// changes for the agent, which are one batch.
    pub(super) fn take(&mut self, changes: Vec<Object>, is_complete: bool) -> Vec<Object> {
        let batch = match &mut self.objects {
            Received::Unknown(kept) => {
                kept.extend(changes);
                if !is_complete {
                    return Vec::new();
                }
                let kept = std::mem::take(kept);
                self.held.clear();
                self.objects = Received::Known(BTreeSet::new());
                kept.into_iter().chain(self.policies.values().cloned()).collect()
            }
            Received::Known(_) => changes,
        };
        if let Received::Known(names) = &mut self.objects {
            for change in batch.iter().map(|object| &object.change) {
                let name = change.object();
                if name.kind != K::KIND {
                    continue;
                }
                if change.is_removal() {
                    names.remove(&name);
                } else {
                    names.insert(name);
                }
            }
        }
        batch
    }

    /// Forgets all objects, because no policy needs them any more. Returns the changes for the agent.
    pub(super) fn forget(&mut self) -> Vec<Object> {
        match std::mem::take(&mut self.objects) {
            Received::Unknown(_) => Vec::new(),
            Received::Known(names) => {
                names.into_iter().filter_map(Change::removal).map(Object::from).collect()
            }
        }
    }

    /// What is reported while policies that need the objects are decided closed for long.
    #[must_use]
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let report = |name: &ObjectRef| Diagnostic {
            severity: Severity::Error,
            source: None,
            about: About::Object(name.clone()),
            field: FieldPath::default(),
            message: K::MISSING.to_owned(),
        };
        self.policies.keys().filter(|_| self.is_closed()).map(report).collect()
    }
}

/// The change for a policy while the objects that it needs are not known.
fn closed<K: Needed>(policy: &Arc<Policy>) -> Change {
    Change::Policy(policy.name.clone(), Some(Arc::new(K::closed(policy))))
}

#[cfg(test)]
mod tests {
    use policy_engine::direction::{Direction, PerDirection};
    use policy_engine::labels::Labels;
    use policy_engine::model;
    use policy_engine::object::Kind;
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
        let node = model::Node { labels: Labels::default(), addresses: Vec::new() };
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
        let mut state = Naming::<Node>::default();
        let (a, other) = (naming("a"), policy("b", Peer::Invalid));
        assert!(!state.is_needed());
        let passed = state.pass(vec![node("n1"), a.clone(), other], Unknown::Close);
        assert_eq!(shown(&passed), ["n1 there", "a closed", "b written"]);
        assert!(state.is_needed() && state.is_closed());
        assert_eq!(state.diagnostics().len(), 1);
        assert_eq!(
            shown(&state.take(vec![node("n2")], false)),
            [""; 0],
            "the list is not complete"
        );
        assert_eq!(
            shown(&state.take(vec![node("n3")], true)),
            ["n2 there", "n3 there", "a written"]
        );
        assert!(!state.is_closed());
        assert_eq!(state.diagnostics(), []);
        assert_eq!(shown(&state.pass(vec![naming("c")], Unknown::Hold)), ["c written"]);
        let changes = vec![node("n4"), removal(&node("n2"))];
        assert_eq!(shown(&state.take(changes, false)), ["n4 there", "n2 gone"]);
    }

    #[test]
    fn the_last_policy_that_names_nodes_ends_the_need_and_the_nodes_go() {
        let mut state = Naming::<Node>::default();
        let _ = state.pass(vec![naming("a"), naming("b")], Unknown::Close);
        let _ = state.take(vec![node("n2"), node("n3")], true);
        let _ = state.pass(vec![removal(&naming("a"))], Unknown::Close);
        assert!(state.is_needed());
        let changed = state.pass(vec![policy("b", Peer::Invalid)], Unknown::Hold);
        assert_eq!(shown(&changed), ["b written"]);
        assert!(!state.is_needed(), "b names no nodes any more");
        assert_eq!(shown(&state.forget()), ["n2 gone", "n3 gone"]);
        assert_eq!(shown(&state.forget()), [""; 0]);
        let again = state.pass(vec![naming("b")], Unknown::Close);
        assert_eq!(shown(&again), ["b closed"], "they are unknown again");
    }

    #[test]
    fn a_policy_that_is_held_back_comes_with_the_nodes_or_closed_when_they_are_late() {
        let mut state = Naming::<Node>::default();
        let (a, b, other) = (naming("a"), naming("b"), policy("c", Peer::Invalid));
        assert_eq!(shown(&state.pass(vec![a.clone(), b, other], Unknown::Hold)), ["c written"]);
        // One of them is changed in the meantime, and is held back no longer.
        assert_eq!(
            shown(&state.pass(vec![policy("b", Peer::Invalid)], Unknown::Hold)),
            ["b written"]
        );
        assert_eq!(shown(&state.close_held()), ["a closed"]);
        assert_eq!(shown(&state.close_held()), [""; 0], "once");
        assert_eq!(shown(&state.take(vec![node("n2")], true)), ["n2 there", "a written"]);

        let mut state = Naming::<Node>::default();
        let _ = state.pass(vec![a], Unknown::Hold);
        assert_eq!(shown(&state.take(vec![node("n2")], true)), ["n2 there", "a written"]);
        assert_eq!(shown(&state.close_held()), [""; 0], "it is known as it was written");
    }

    #[test]
    fn a_policy_that_goes_before_the_nodes_are_known_does_not_come_back_with_them() {
        let mut state = Naming::<Node>::default();
        let a = naming("a");
        let _ = state.pass(vec![a.clone(), removal(&a)], Unknown::Hold);
        assert_eq!(shown(&state.take(vec![node("n2")], true)), ["n2 there"]);
        assert_eq!(shown(&state.forget()), ["n2 gone"]);
    }

    #[test]
    fn a_policy_for_the_api_server_is_closed_until_its_addresses_are_known() {
        let rules = PerDirection { ingress: None, egress: Some(Vec::new()) };
        let policy = Policy::cluster_default("a", Subject::unknown(), rules, false);
        let policy = Object::from(Change::from(policy.with_api_server(Some(Arc::default()))));
        let slice = ObjectRef::new(Kind::EndpointSlice, "default", "kubernetes");
        let slice = Object::from(Change::ApiServer(slice, Some(Arc::default())));
        let names = |changes: &[Object]| -> Vec<bool> {
            let named = |object: &Object| match &object.change {
                Change::Policy(_, Some(policy)) => policy.names_api_server(),
                change => !change.is_removal(),
            };
            changes.iter().map(named).collect()
        };
        let mut state = Naming::<EndpointSlice>::default();
        let passed = state.pass(vec![policy.clone(), naming("nodes")], Unknown::Close);
        assert_eq!(names(&passed), [false; 2], "neither is for the API server");
        assert!(state.diagnostics()[0].message.contains("`allowAPIServer`"));
        assert_eq!(names(&state.take(vec![slice], true)), [true; 2], "the slice and the policy");
        let _ = state.pass(vec![removal(&policy)], Unknown::Hold);
        assert!(!state.is_needed());
        assert_eq!(names(&state.forget()), [false], "the slice goes");
    }
}
