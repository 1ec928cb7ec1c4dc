//! All objects as they are now. Which pod or node has an address: [`owner`].

pub mod enforcement;
pub mod owner;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::enforcement::Enforcement;
use self::owner::Claims;
use crate::budget::Budgets;
use crate::flow::Endpoint;
use crate::labels::Str;
use crate::model::{ApiServerAddresses, Change, Namespace, Node, Pod, PodKey};
use crate::object::ObjectRef;
use crate::policy::{Policy, Selected, api_server_rules};
use crate::tier::Mode;

/// Options that change verdicts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whether egress from a pod to its own node is always allowed.
    pub allow_egress_to_own_node: bool,
    /// The namespace in which Portcullis runs: see [`World::is_system`].
    pub own_namespace: Str,
    /// More namespaces that an administrator names: see [`World::is_system`].
    pub system_namespaces: BTreeSet<Str>,
    /// The bounds on what the rules of a pod can cost.
    pub budgets: Budgets,
    /// The namespaces in which policies decide about traffic.
    pub enforcement: Enforcement,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_egress_to_own_node: false,
            own_namespace: OWN_NAMESPACE.into(),
            system_namespaces: BTreeSet::new(),
            budgets: Budgets::default(),
            enforcement: Enforcement::default(),
        }
    }
}

/// The namespace in which Portcullis is installed by default.
pub const OWN_NAMESPACE: &str = "portcullis-system";

/// The namespaces that Kubernetes itself uses in every cluster.
const KUBERNETES_NAMESPACES: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];

/// All objects as they are now.
///
/// Guarantee: the world depends on the last change of each object only, not on the order of changes
/// to different objects.
#[derive(Clone, Default, Debug)]
pub struct World {
    /// Options that change verdicts.
    pub options: Options,
    pods: BTreeMap<PodKey, Arc<Pod>>,
    namespaces: BTreeMap<Str, Namespace>,
    nodes: BTreeMap<Str, Node>,
    /// Policies by their namespace; policies of the whole cluster are in the namespace `""`.
    policies: BTreeMap<Str, BTreeMap<ObjectRef, Arc<Policy>>>,
    /// The addresses of the API server, by the object that lists them.
    api_server: BTreeMap<ObjectRef, ApiServerAddresses>,
    claims: Claims,
    /// How many pods are on each node.
    pods_by_node: BTreeMap<Str, usize>,
    /// The node from which the world is seen; `None` for all nodes.
    node: Option<Str>,
}

impl World {
    /// A world without objects.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// A world without objects, as a node sees it: see [`World::subject`].
    #[must_use]
    pub fn of_node(node: Str, options: Options) -> Self {
        Self { node: Some(node), ..Self::new(options) }
    }

    /// Applies one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(key, pod) => {
                self.set_claims(&key, false);
                let node = pod.as_ref().and_then(|pod| pod.node.clone());
                let old = match pod {
                    Some(pod) => self.pods.insert(key.clone(), pod),
                    None => self.pods.remove(&key),
                };
                self.move_pod(old.as_ref().and_then(|pod| pod.node.as_ref()), node);
                self.set_claims(&key, true);
            }
            Change::Namespace(name, Some(namespace)) => {
                self.namespaces.insert(name, namespace);
            }
            Change::Namespace(name, None) => {
                self.namespaces.remove(&name);
            }
            Change::Node(name, node) => {
                self.set_node_claims(&name, false);
                match node {
                    Some(node) => self.nodes.insert(name.clone(), node),
                    None => self.nodes.remove(&name),
                };
                self.set_node_claims(&name, true);
            }
            Change::Policy(name, Some(policy)) => {
                let policy = self.completed(policy);
                let there = self.policies.entry(name.namespace.clone()).or_default();
                there.insert(name, policy);
            }
            Change::Policy(name, None) => {
                if let Some(there) = self.policies.get_mut(&name.namespace) {
                    there.remove(&name);
                    if there.is_empty() {
                        self.policies.remove(&name.namespace);
                    }
                }
            }
            Change::ApiServer(name, addresses) => {
                match addresses {
                    Some(addresses) => self.api_server.insert(name, addresses),
                    None => self.api_server.remove(&name),
                };
                let rules = api_server_rules(self.api_server.values().flat_map(|all| all.iter()));
                let policies = self.policies.values_mut().flat_map(BTreeMap::values_mut);
                for policy in policies.filter(|policy| policy.names_api_server()) {
                    let completed = Policy::clone(policy).with_api_server(Some(rules.clone()));
                    *policy = Arc::new(completed);
                }
            }
        }
    }

    /// The policy with rules for the addresses of the API server, if it allows connections to it.
    /// While no object lists such addresses, a policy keeps its rules, which are those of another
    /// world if it is from there.
    #[must_use]
    pub fn completed(&self, policy: Arc<Policy>) -> Arc<Policy> {
        if self.api_server.is_empty() || !policy.names_api_server() {
            return policy;
        }
        let rules = api_server_rules(self.api_server.values().flat_map(|all| all.iter()));
        Arc::new(Policy::clone(&policy).with_api_server(Some(rules)))
    }

    /// Counts a pod on another node than before.
    fn move_pod(&mut self, from: Option<&Str>, to: Option<Str>) {
        if from == to.as_ref() {
            return;
        }
        if let Some(name) = from
            && let Some(pods) = self.pods_by_node.get_mut(name)
        {
            *pods -= 1;
            if *pods == 0 {
                self.pods_by_node.remove(name);
            }
        }
        if let Some(name) = to {
            *self.pods_by_node.entry(name).or_default() += 1;
        }
    }

    /// How many pods are on each node, by the name of the node. Nodes without pods are missing; a
    /// Node object need not exist.
    #[must_use]
    pub fn pods_by_node(&self) -> &BTreeMap<Str, usize> {
        &self.pods_by_node
    }

    /// The node from which the world is seen; `None` for all nodes.
    #[must_use]
    pub fn node(&self) -> Option<&Str> {
        self.node.as_ref()
    }

    /// All pods by key.
    #[must_use]
    pub fn pods(&self) -> &BTreeMap<PodKey, Arc<Pod>> {
        &self.pods
    }

    /// All namespaces by name.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<Str, Namespace> {
        &self.namespaces
    }

    /// All nodes by name.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<Str, Node> {
        &self.nodes
    }

    /// All policies: those of the whole cluster first, then those of each namespace; each group
    /// sorted by name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().flat_map(BTreeMap::values)
    }

    /// The policies of a namespace, sorted by name; for `""` those of the whole cluster.
    pub fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// The policy of that name.
    #[must_use]
    pub fn policy(&self, name: &ObjectRef) -> Option<&Arc<Policy>> {
        self.policies.get(&name.namespace)?.get(name)
    }

    /// Whether some policy is in mode Audit, for some pods at least.
    #[must_use]
    pub fn has_audit(&self) -> bool {
        self.options.enforcement != Enforcement::Everywhere
            || self.policies().any(|policy| policy.mode == Mode::Audit)
    }

    /// The policies that apply, or may apply, to `pod`, in the order in which they are evaluated.
    ///
    /// `pod` must take part in policies: see [`Pod::takes_part`].
    #[must_use]
    pub fn selecting(&self, pod: &Pod) -> Vec<(&Arc<Policy>, Selected)> {
        let policies = self.policies_in("").chain(self.policies_in(&pod.key.namespace));
        let mut selecting: Vec<(&Arc<Policy>, Selected)> = policies
            .map(|policy| (policy, self.selected(policy, pod)))
            .filter(|(_, selected)| *selected != Selected::No)
            .collect();
        selecting.sort_by_key(|(policy, _)| policy.order());
        selecting
    }

    /// Whether a namespace is a system namespace: one of Kubernetes, the namespace of Portcullis,
    /// or one of [`Options::system_namespaces`]. Defaults do not apply there unless they ask for
    /// it.
    ///
    /// Names are compared exactly, and labels do not count: a user with permission to create or
    /// label namespaces must not be able to exempt a namespace from the defaults.
    #[must_use]
    pub fn is_system(&self, namespace: &str) -> bool {
        KUBERNETES_NAMESPACES.contains(&namespace)
            || namespace == &*self.options.own_namespace
            || self.options.system_namespaces.contains(namespace)
    }

    /// Whether `policy` applies to `pod`, which must take part in policies.
    #[must_use]
    pub fn selected(&self, policy: &Policy, pod: &Pod) -> Selected {
        let (subject, namespace) = (&policy.subject, &pod.key.namespace);
        let home = &policy.name.namespace;
        if !(home.is_empty() || home == namespace)
            || (subject.spares_system && self.is_system(namespace))
        {
            return Selected::No;
        }
        let in_namespace = match &subject.namespaces {
            Some(selector) if selector.is_everything() => Some(true),
            Some(selector) => {
                let known = self.namespaces.get(namespace);
                known.map(|known| selector.matches(&known.labels))
            }
            None => None,
        };
        let is_pod = subject.pods.as_ref().map(|selector| selector.matches(&pod.labels));
        match (in_namespace, is_pod) {
            (Some(false), _) | (_, Some(false)) => Selected::No,
            (Some(true), Some(true)) => Selected::Yes,
            _ => Selected::Unsure,
        }
    }

    /// The pod behind an endpoint, when policies can select and match it.
    #[must_use]
    pub fn participant(&self, endpoint: &Endpoint) -> Option<&Pod> {
        match endpoint {
            Endpoint::Pod(key, _) => {
                self.pods.get(key).map(AsRef::as_ref).filter(|pod| pod.takes_part())
            }
            Endpoint::Node(..) | Endpoint::External(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::PerDirection;
    use crate::labels::Labels;
    use crate::object::Kind;
    use crate::policy::{Body, Revision, Subject};
    use crate::selector::Selector;
    use crate::tier::Tier;

    fn policy(name: ObjectRef, subject: Subject) -> Policy {
        let rules = PerDirection::default();
        let body = Body::Isolating { rules, allow_dns: false, api_server: None };
        let (tier, mode) = (Tier::Default, Mode::Enforce);
        Policy { name, subject, tier, mode, body, revision: Revision::default() }
    }

    /// Every evaluation starts with these lists.
    #[test]
    fn the_policies_of_a_namespace_are_all_and_only_its_own() {
        let mut world = World::new(Options::default());
        for (namespace, name) in [("a", "x"), ("a", "y"), ("a-b", "x"), ("A", "x"), ("b", "x")] {
            let name = ObjectRef::new(Kind::NetworkPolicy, namespace, name);
            world.apply(policy(name, Subject::pods(Selector::everything())).into());
        }
        let found = |world: &World, namespace: &str| -> Vec<String> {
            world.policies_in(namespace).map(|policy| policy.name.short()).collect()
        };
        assert_eq!(found(&world, "a"), ["a/x", "a/y"]);
        assert_eq!(found(&world, "a-b"), ["a-b/x"]);
        assert_eq!(found(&world, "a-"), [""; 0]);
        for name in ["x", "y", "never there"] {
            let name = ObjectRef::new(Kind::NetworkPolicy, "a", name);
            world.apply(Change::Policy(name, None));
        }
        assert_eq!(found(&world, "a"), [""; 0]);
        assert_eq!(world.policies().count(), 3);
    }

    #[test]
    fn system_namespaces_are_exactly_those_of_kubernetes_our_own_and_the_named_ones() {
        let system_namespaces = ["monitoring".into()].into();
        let world = World::new(Options { system_namespaces, ..Options::default() });
        for name in ["kube-system", "kube-public", "kube-node-lease", OWN_NAMESPACE, "monitoring"] {
            assert!(world.is_system(name), "{name}");
            assert!(!world.is_system(&format!("{name}-x")), "{name}-x");
        }
        for name in ["kube-evil", "kube-", "kube", "kube-systemx", "default", ""] {
            assert!(!world.is_system(name), "{name}");
        }
    }

    fn pod() -> Pod {
        Pod::new(PodKey::new("new", "web"), Labels::default())
    }

    #[test]
    fn every_namespace_is_one_of_all_whether_it_is_known_or_not() {
        let world = World::new(Options::default());
        let everything = Some(Selector::everything());
        let some = Some(Selector::label("team", "a"));
        for (namespaces, pods, selected) in [
            (everything.clone(), everything.clone(), Selected::Yes),
            (everything.clone(), some.clone(), Selected::No),
            (everything.clone(), None, Selected::Unsure),
            (some.clone(), everything.clone(), Selected::Unsure),
            (some.clone(), some, Selected::No),
            (None, everything, Selected::Unsure),
        ] {
            let subject = Subject { namespaces, pods, spares_system: false };
            let policy = policy(ObjectRef::cluster(Kind::ClusterNetworkPolicy, "x"), subject);
            assert_eq!(world.selected(&policy, &pod()), selected, "{policy:?}");
        }
    }

    #[test]
    fn pods_are_counted_on_their_nodes() {
        let mut world = World::new(Options::default());
        let mut place = |name: &str, node: Option<&str>| {
            let pod = Pod::new(PodKey::new("shop", name), Labels::default());
            world.apply(Pod { node: node.map(Str::from), ..pod }.into());
            let counts = world.pods_by_node().iter();
            counts.map(|(node, pods)| format!("{node}:{pods}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(place("a", None), "");
        assert_eq!(place("a", Some("n1")), "n1:1");
        assert_eq!(place("b", Some("n1")), "n1:2");
        assert_eq!(place("b", Some("n1")), "n1:2");
        assert_eq!(place("b", Some("n2")), "n1:1 n2:1");
        world.apply(Change::Pod(PodKey::new("shop", "a"), None));
        assert_eq!(world.pods_by_node().len(), 1);
    }

    #[test]
    fn a_policy_in_a_namespace_applies_to_no_pod_of_another_one() {
        let world = World::new(Options::default());
        for (namespace, selected) in [("new", Selected::Yes), ("other", Selected::No)] {
            let name = ObjectRef::new(Kind::NetworkPolicy, namespace, "x");
            let policy = policy(name, Subject::pods(Selector::everything()));
            assert_eq!(world.selected(&policy, &pod()), selected);
        }
    }
}
