//! All objects as they are now, and who owns an address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::Endpoint;
use crate::labels::Str;
use crate::model::{Change, Life, Namespace, Node, Pod, PodKey};
use crate::policy::{NetworkPolicy, PolicyKey};
use crate::tier::{ClusterDefaultNetworkPolicy, ClusterNetworkPolicy, Selected, Subject};

/// Choices that change verdicts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Egress from a pod to its own node is not subject to policy.
    pub allow_egress_to_own_node: bool,
    /// Where Portcullis itself runs: see [`World::is_system`].
    pub own_namespace: Str,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_egress_to_own_node: false, own_namespace: OWN_NAMESPACE.into() }
    }
}

/// Where Portcullis is installed, unless someone says otherwise.
pub const OWN_NAMESPACE: &str = "portcullis-system";

/// All objects as they are now.
///
/// Guarantee: the world is a function of the last change of each object, in whatever order the
/// changes came.
#[derive(Clone, Default, Debug)]
pub struct World {
    /// Choices that change verdicts.
    pub options: Options,
    pods: BTreeMap<PodKey, Arc<Pod>>,
    namespaces: BTreeMap<Str, Namespace>,
    nodes: BTreeMap<Str, Node>,
    policies: BTreeMap<PolicyKey, Arc<NetworkPolicy>>,
    cluster_policies: BTreeMap<Str, Arc<ClusterNetworkPolicy>>,
    default_policies: BTreeMap<Str, Arc<ClusterDefaultNetworkPolicy>>,
    /// Sorted. Nearly always one: a vector of exactly that, where a tree would be ten times as much
    /// memory as the claim.
    claims: BTreeMap<IpAddr, Vec<Claim>>,
}

/// Who says that an address is theirs. The order of the variants tells who is believed first: the
/// pods of a node that is gone may be left when a new node has its address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Claim {
    /// A pod with an address of its own.
    Pod(PodKey),
    Node(Str),
    /// A hostNetwork pod: the address is its node's.
    HostPod(PodKey),
}

impl World {
    /// A world without objects.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes in one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Pod(key, pod) => {
                self.set_claims(&key, false);
                match pod {
                    Some(pod) => self.pods.insert(key.clone(), pod),
                    None => self.pods.remove(&key),
                };
                self.set_claims(&key, true);
            }
            Change::Namespace(name, Some(namespace)) => {
                self.namespaces.insert(name, namespace);
            }
            Change::Namespace(name, None) => {
                self.namespaces.remove(&name);
            }
            Change::Node(name, node) => {
                if let Some(old) = self.nodes.remove(&name) {
                    for address in old.addresses {
                        self.set_claim(address, Claim::Node(name.clone()), false);
                    }
                }
                if let Some(node) = node {
                    for address in &node.addresses {
                        self.set_claim(*address, Claim::Node(name.clone()), true);
                    }
                    self.nodes.insert(name, node);
                }
            }
            Change::NetworkPolicy(key, Some(policy)) => {
                self.policies.insert(key, policy);
            }
            Change::NetworkPolicy(key, None) => {
                self.policies.remove(&key);
            }
            Change::ClusterNetworkPolicy(name, Some(policy)) => {
                self.cluster_policies.insert(name, policy);
            }
            Change::ClusterNetworkPolicy(name, None) => {
                self.cluster_policies.remove(&name);
            }
            Change::ClusterDefaultNetworkPolicy(name, Some(policy)) => {
                self.default_policies.insert(name, policy);
            }
            Change::ClusterDefaultNetworkPolicy(name, None) => {
                self.default_policies.remove(&name);
            }
        }
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

    /// All ClusterNetworkPolicies by name.
    #[must_use]
    pub fn cluster_policies(&self) -> &BTreeMap<Str, Arc<ClusterNetworkPolicy>> {
        &self.cluster_policies
    }

    /// All ClusterDefaultNetworkPolicies by name.
    #[must_use]
    pub fn default_policies(&self) -> &BTreeMap<Str, Arc<ClusterDefaultNetworkPolicy>> {
        &self.default_policies
    }

    /// Whether a namespace is one that defaults leave alone unless they say otherwise: those of
    /// Kubernetes (`kube-*`) and Portcullis' own.
    #[must_use]
    pub fn is_system(&self, namespace: &str) -> bool {
        namespace.starts_with("kube-") || namespace == &*self.options.own_namespace
    }

    /// Whether `subject` is about `pod`, which takes part.
    #[must_use]
    pub fn selected(&self, subject: &Subject, pod: &Pod) -> Selected {
        let namespace = self.namespaces.get(&pod.key.namespace);
        let in_namespace = match (&subject.namespaces, namespace) {
            (Some(selector), _) if selector.is_everything() => Some(true),
            (Some(selector), Some(namespace)) => Some(selector.matches(&namespace.labels)),
            // A selector that was not understood, or labels that are not known.
            (None, _) | (_, None) => None,
        };
        let is_pod = subject.pods.as_ref().map(|selector| selector.matches(&pod.labels));
        match (in_namespace, is_pod) {
            (Some(false), _) | (_, Some(false)) => Selected::No,
            (Some(true), Some(true)) => Selected::Yes,
            _ => Selected::Unsure,
        }
    }

    /// Whether `policy` is about `pod`, which takes part.
    #[must_use]
    pub fn selected_by_default(&self, policy: &ClusterDefaultNetworkPolicy, pod: &Pod) -> Selected {
        if !policy.include_system_namespaces && self.is_system(&pod.key.namespace) {
            return Selected::No;
        }
        self.selected(&policy.subject, pod)
    }

    /// All policies by key.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyKey, Arc<NetworkPolicy>> {
        &self.policies
    }

    /// The policies of one namespace, by name.
    pub fn policies_in(&self, namespace: &Str) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        let first = PolicyKey { namespace: namespace.clone(), name: Str::from("") };
        self.policies
            .range(first..)
            .take_while(move |(key, _)| key.namespace == *namespace)
            .map(|(_, policy)| policy)
    }

    /// The pod that an address belongs to.
    ///
    /// Two pods can claim one address, when it was given away again before the first pod's object
    /// was gone. It belongs to the one that is not terminating, then to the younger, then to the
    /// one whose name sorts last; the other has no address meanwhile.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.claimants(address).max_by_key(|pod| (pod.life, pod.created, &pod.key))
    }

    /// The addresses of a pod that belong to it: see [`World::owner`].
    pub fn owned_addresses(&self, pod: &Pod) -> impl Iterator<Item = IpAddr> {
        let owned =
            |address: &IpAddr| self.owner(*address).is_some_and(|owner| owner.key == pod.key);
        pod.addresses.iter().copied().filter(owned)
    }

    /// All pods that claim an address.
    pub fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        self.claims.get(&address).into_iter().flatten().filter_map(|claim| match claim {
            Claim::Pod(key) => self.pods.get(key),
            Claim::HostPod(_) | Claim::Node(_) => None,
        })
    }

    /// What an address stands for: its pod, else its node, else something outside.
    #[must_use]
    pub fn endpoint(&self, address: IpAddr) -> Endpoint {
        if let Some(pod) = self.owner(address) {
            return Endpoint::Pod(pod.key.clone(), Some(address));
        }
        let claims = self.claims.get(&address).into_iter().flatten();
        let mut nodes = claims.filter_map(|claim| match claim {
            Claim::Pod(_) => None,
            Claim::HostPod(key) => self.pods.get(key).and_then(|pod| pod.node.clone()),
            Claim::Node(name) => Some(name.clone()),
        });
        match nodes.next() {
            Some(name) => Endpoint::Node(name, Some(address)),
            None => Endpoint::External(address),
        }
    }

    fn set_claims(&mut self, key: &PodKey, present: bool) {
        let Some(pod) = self.pods.get(key).cloned() else { return };
        if pod.life == Life::Finished {
            return;
        }
        for address in &pod.addresses {
            let claim = if pod.host_network {
                Claim::HostPod(key.clone())
            } else {
                Claim::Pod(key.clone())
            };
            self.set_claim(*address, claim, present);
        }
    }

    fn set_claim(&mut self, address: IpAddr, claim: Claim, present: bool) {
        let claims = self.claims.entry(address).or_default();
        match (claims.binary_search(&claim), present) {
            (Err(at), true) => {
                claims.reserve_exact(1);
                claims.insert(at, claim);
            }
            (Ok(at), false) => drop(claims.remove(at)),
            (Ok(_), true) | (Err(_), false) => {}
        }
        if claims.is_empty() {
            self.claims.remove(&address);
        }
    }
}

impl Pod {
    /// Whether the pod can be subject and peer: it has, or will have, an address of its own.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        !self.host_network && self.life != Life::Finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;
    use crate::selector::Selector;
    use crate::tier::Mode;

    /// Both roads to a verdict begin with these.
    #[test]
    fn the_policies_of_a_namespace_are_all_and_only_its_own() {
        let mut world = World::new(Options::default());
        for (namespace, name) in [("a", "x"), ("a", "y"), ("a-b", "x"), ("A", "x"), ("b", "x")] {
            let policy = NetworkPolicy {
                key: PolicyKey::new(namespace, name),
                subject: Selector::everything(),
                ingress: None,
                egress: None,
                mode: Mode::Enforce,
                generation: None,
            };
            world.apply(Change::NetworkPolicy(policy.key.clone(), Some(Arc::new(policy))));
        }
        let found = |namespace: &str| -> Vec<String> {
            world.policies_in(&namespace.into()).map(|policy| policy.key.to_string()).collect()
        };
        assert_eq!(found("a"), ["a/x", "a/y"]);
        assert_eq!(found("a-b"), ["a-b/x"]);
        assert_eq!(found("a-"), [""; 0]);
    }

    #[test]
    fn every_namespace_is_one_of_all_whether_it_is_known_or_not() {
        let world = World::new(Options::default());
        let pod = Pod {
            key: PodKey::new("new", "web"),
            labels: Labels::default(),
            node: None,
            addresses: Vec::new(),
            ports: Vec::new(),
            host_network: false,
            life: Life::Active,
            created: 0,
        };
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
            let subject = Subject { namespaces, pods };
            assert_eq!(world.selected(&subject, &pod), selected, "{subject:?}");
        }
    }

    #[test]
    fn an_address_that_a_node_has_is_not_that_of_a_pod_left_from_another_node() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut world = World::new(Options::default());
        let key = PodKey::new("kube-system", "proxy");
        let left = Pod {
            key: key.clone(),
            labels: Labels::default(),
            node: Some("gone".into()),
            addresses: vec![address],
            ports: Vec::new(),
            host_network: true,
            life: Life::Active,
            created: 0,
        };
        world.apply(Change::Pod(key, Some(Arc::new(left))));
        assert_eq!(world.endpoint(address), Endpoint::Node("gone".into(), Some(address)));
        let node = Node { addresses: vec![address], ..Node::default() };
        world.apply(Change::Node("new".into(), Some(node)));
        assert_eq!(world.endpoint(address), Endpoint::Node("new".into(), Some(address)));
        world.apply(Change::Node("new".into(), None));
        assert_eq!(world.endpoint(address), Endpoint::Node("gone".into(), Some(address)));
    }
}
