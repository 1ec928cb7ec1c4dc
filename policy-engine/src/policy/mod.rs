//! Policies as the engine knows them: with all defaults filled in, and never invalid.
//!
//! The `crds` crate decides what an API object means, and converts it to these values. A part that
//! it could not understand becomes a value that matches nothing, so that rules keep the numbers
//! that their author sees.

mod rule;

use std::sync::{Arc, LazyLock};

use crate::direction::{Direction, PerDirection};
use crate::labels::Str;
use crate::object::{Kind, ObjectRef};
use crate::selector::Selector;
use crate::tier::{Action, Mode, Tier};
pub use rule::{
    ALLOW_API_SERVER, ALLOW_DNS, IpBlock, Namespaces, Peer, Peers, PodPeer, PortMatch, Ports, Rule,
    adding_field, api_server_rules, dns_rule,
};
pub(crate) use rule::{Required, RequiredNamespace};

/// A policy of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The name of the policy. A policy in a namespace applies to pods of that namespace only.
    pub name: ObjectRef,
    /// The pods that it applies to.
    pub subject: Subject,
    /// The tier in which it is evaluated.
    pub tier: Tier,
    /// Whether it is enforced.
    pub mode: Mode,
    /// The rules for these pods.
    pub body: Body,
    /// The object that the policy was read from, for reports. Verdicts do not depend on it.
    pub revision: Revision,
}

/// The object of an API server that a value was read from, and its version. Optional in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Revision {
    /// `metadata.uid`: an object that was deleted and created again has another one.
    pub uid: Option<Str>,
    /// `metadata.generation`: it grows with each change of the specification.
    pub generation: Option<i64>,
}

impl Revision {
    /// Whether both are the same version of the same object. If only one of them has a uid, the uid
    /// is not compared.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let same_object = self.uid.as_ref().zip(other.uid.as_ref()).is_none_or(|(a, b)| a == b);
        same_object && self.generation == other.generation
    }
}

/// The rules of a policy, in one of two forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// The first rule that matches decides. The next tier decides about traffic that no rule
    /// matches.
    Ordered {
        /// Policies with a lower priority are evaluated first; those with equal priority in the
        /// order of their names.
        priority: i32,
        /// The rules, in order.
        rules: PerDirection<Vec<OrderedRule>>,
    },
    /// The pods are isolated: only traffic that a rule of some isolating policy of the tier matches
    /// is allowed.
    Isolating {
        /// The rules; `None` for a direction in which the policy does not isolate. Peers may be in
        /// [`Namespaces::Own`].
        rules: PerDirection<Option<Vec<Rule>>>,
        /// Whether egress to the cluster's DNS is allowed too: see [`dns_rule`].
        allow_dns: bool,
        /// The rules that allow egress to the API server too, see [`api_server_rules`]; `None` if
        /// the policy does not allow it. A [`World`](crate::world::World) fills them in.
        api_server: Option<Arc<[Rule]>>,
    },
}

/// One rule of a [`Body::Ordered`].
///
/// A port by name counts only for pods that the rule matches by labels, never for nodes or
/// networks. When a part of a Deny or Pass rule could not be understood, the conversion replaced it
/// by a rule that denies everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OrderedRule {
    /// What the rule decides.
    pub action: Action,
    /// The peers and ports that it matches.
    pub rule: Rule,
}

impl OrderedRule {
    /// The rule that denies everything: it replaces a Deny or Pass rule that is not understood.
    #[must_use]
    pub fn deny_everything() -> Self {
        Self { action: Action::Deny, rule: Rule { peers: Peers::Any, ports: Ports::Any } }
    }

    /// Fails closed because the nodes are not known: see [`Policy::without_nodes`].
    fn close(&mut self) {
        match (self.action, &mut self.rule.peers) {
            (Action::Deny | Action::Pass, _) => *self = Self::deny_everything(),
            (Action::Accept, Peers::Any) => {}
            (Action::Accept, Peers::Listed(peers)) => {
                let nodes = peers.iter_mut().filter(|peer| matches!(peer, Peer::Nodes(_)));
                nodes.for_each(|peer| *peer = Peer::Invalid);
            }
        }
    }
}

/// The pods that a policy applies to.
///
/// The labels of a pod's namespace may not be known yet. Then a selector of namespaces may match,
/// and `{}` does match: see [`Selected::Unsure`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// The namespaces of the pods; `None` when this part could not be understood: any may be meant.
    pub namespaces: Option<Selector>,
    /// The pods there; `None` when this part could not be understood: any may be meant.
    pub pods: Option<Selector>,
    /// Whether the policy does not apply to system namespaces: see
    /// [`World::is_system`](crate::world::World::is_system).
    pub spares_system: bool,
}

impl Subject {
    /// The pods that `pods` matches, in every namespace.
    #[must_use]
    pub fn pods(pods: Selector) -> Self {
        let namespaces = Some(Selector::everything());
        Self { namespaces, pods: Some(pods), spares_system: false }
    }

    /// The subject of a policy that may apply to any pod.
    #[must_use]
    pub fn unknown() -> Self {
        Self { namespaces: None, pods: None, spares_system: false }
    }

    /// A selector that matches every pod that the policy may apply to, in any namespace.
    #[must_use]
    pub fn any_pods(&self) -> &Selector {
        static EVERYTHING: LazyLock<Selector> = LazyLock::new(Selector::everything);
        self.pods.as_ref().unwrap_or(&EVERYTHING)
    }
}

/// Whether a policy applies to a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selected {
    /// The policy does not apply to the pod.
    No,
    /// The policy may apply: a part of the subject could not be understood, or the pod's namespace
    /// is not known yet. The policy fails closed for this pod: see [`Policy::effective`].
    Unsure,
    /// The policy applies to the pod.
    Yes,
}

/// A rule as it applies to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectiveRule<'p> {
    /// The position of the rule, from 1; [`ALLOW_DNS`] and [`ALLOW_API_SERVER`] for rules that
    /// these fields add.
    pub number: usize,
    /// What the rule decides.
    pub action: Action,
    /// The peers and ports that it matches.
    pub rule: &'p Rule,
}

impl Policy {
    /// An enforced NetworkPolicy that isolates the pods of its namespace that `pods` matches.
    pub fn network_policy(
        namespace: impl Into<Str>,
        name: impl Into<Str>,
        pods: Selector,
        rules: PerDirection<Option<Vec<Rule>>>,
    ) -> Self {
        let name = ObjectRef::new(Kind::NetworkPolicy, namespace, name);
        let body = Body::Isolating { rules, allow_dns: false, api_server: None };
        Self::enforced(name, Subject::pods(pods), Tier::NetworkPolicy, body)
    }

    /// An enforced ClusterNetworkPolicy.
    pub fn cluster_network_policy(
        name: impl Into<Str>,
        (tier, priority): (Tier, i32),
        subject: Subject,
        rules: PerDirection<Vec<OrderedRule>>,
    ) -> Self {
        let name = ObjectRef::cluster(Kind::ClusterNetworkPolicy, name);
        Self::enforced(name, subject, tier, Body::Ordered { priority, rules })
    }

    /// An enforced ClusterDefaultNetworkPolicy.
    pub fn cluster_default(
        name: impl Into<Str>,
        subject: Subject,
        rules: PerDirection<Option<Vec<Rule>>>,
        allow_dns: bool,
    ) -> Self {
        let name = ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, name);
        let body = Body::Isolating { rules, allow_dns, api_server: None };
        Self::enforced(name, subject, Tier::Default, body)
    }

    /// The policy with these rules for egress to the API server, or without such rules. Only an isolating
    /// policy can have them.
    #[must_use]
    pub fn with_api_server(mut self, rules: Option<Arc<[Rule]>>) -> Self {
        if let Body::Isolating { api_server, .. } = &mut self.body {
            *api_server = rules;
        }
        self
    }

    fn enforced(name: ObjectRef, subject: Subject, tier: Tier, body: Body) -> Self {
        Self { name, subject, tier, mode: Mode::Enforce, body, revision: Revision::default() }
    }

    /// The priority in the tier: lower is evaluated first. 0 for an isolating policy.
    #[must_use]
    pub fn priority(&self) -> i32 {
        match self.body {
            Body::Ordered { priority, .. } => priority,
            Body::Isolating { .. } => 0,
        }
    }

    /// The sort key for the order of evaluation: the tier, then the priority, then the name.
    #[must_use]
    pub fn order(&self) -> (Tier, i32, &ObjectRef) {
        (self.tier, self.priority(), &self.name)
    }

    /// The rules of a [`Body::Ordered`]; empty for an isolating policy.
    #[must_use]
    pub fn ordered(&self, direction: Direction) -> &[OrderedRule] {
        match &self.body {
            Body::Ordered { rules, .. } => rules.get(direction),
            Body::Isolating { .. } => &[],
        }
    }

    /// The rules of a [`Body::Isolating`] as they are written; `None` when the policy does not
    /// isolate pods in this direction.
    #[must_use]
    pub fn isolating(&self, direction: Direction) -> Option<&[Rule]> {
        match &self.body {
            Body::Ordered { .. } => None,
            Body::Isolating { rules, .. } => rules.get(direction).as_deref(),
        }
    }

    /// Whether it isolates the pods that it applies to: what no rule of the tier allows is denied.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolating(direction).is_some()
    }

    /// Whether it restricts or allows traffic of a direction at all.
    #[must_use]
    pub fn applies(&self, direction: Direction) -> bool {
        self.isolates(direction) || !self.ordered(direction).is_empty()
    }

    /// The rules as they are written, without those that `allowDNS` and `allowAPIServer` add.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = &Rule> {
        let isolating = self.isolating(direction).unwrap_or_default();
        self.ordered(direction).iter().map(|found| &found.rule).chain(isolating)
    }

    /// The rules of both directions as they are written.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        Direction::BOTH.into_iter().flat_map(|direction| self.rules(direction))
    }

    /// Whether a rule has nodes as peers.
    #[must_use]
    pub fn names_nodes(&self) -> bool {
        self.all_rules().any(Rule::names_nodes)
    }

    /// The policy while it is not known which nodes there are. It fails closed as a policy does
    /// whose `nodes` cannot be understood: in Accept rules they match nothing, and Deny and Pass
    /// rules with `nodes` deny everything.
    #[must_use]
    pub fn without_nodes(&self) -> Self {
        let mut policy = self.clone();
        if let Body::Ordered { rules, .. } = &mut policy.body {
            for direction in Direction::BOTH {
                let rules = rules.get_mut(direction).iter_mut();
                rules.filter(|found| found.rule.names_nodes()).for_each(OrderedRule::close);
            }
        }
        policy
    }

    /// Whether its rules differ from namespace to namespace: see [`Namespaces::Own`].
    #[must_use]
    pub fn depends_on_namespace(&self) -> bool {
        self.all_rules().any(Rule::depends_on_namespace)
    }

    /// The rules as they apply to a pod, in order.
    ///
    /// This is where a policy fails closed. When it is not sure that the policy applies to the pod,
    /// Accept rules are left out, Pass rules deny, and an isolating policy allows nothing.
    pub fn effective(
        &self,
        direction: Direction,
        selected: Selected,
    ) -> impl Iterator<Item = EffectiveRule<'_>> {
        let sure = selected == Selected::Yes;
        let ordered = if selected == Selected::No { &[] } else { self.ordered(direction) };
        let ordered = ordered.iter().enumerate().filter_map(move |(at, found)| {
            let action = match found.action {
                Action::Accept if !sure => return None,
                Action::Pass if !sure => Action::Deny,
                action => action,
            };
            Some(EffectiveRule { number: at + 1, action, rule: &found.rule })
        });
        let isolating = self.isolating(direction).filter(|_| sure);
        let dns = isolating.filter(|_| self.allows_dns(direction)).map(|_| dns_rule());
        let isolating = isolating.unwrap_or_default().iter().enumerate();
        let allowed = isolating.map(|(at, rule)| (at + 1, rule));
        let allowed = allowed.chain(dns.map(|rule| (ALLOW_DNS, rule)));
        let api_server = self.api_server(direction).filter(|_| sure).unwrap_or_default().iter();
        let allowed = allowed.chain(api_server.map(|rule| (ALLOW_API_SERVER, rule)));
        let action = Action::Accept;
        ordered.chain(allowed.map(move |(number, rule)| EffectiveRule { number, action, rule }))
    }

    /// Whether [`dns_rule`] is added to the rules.
    #[must_use]
    pub fn allows_dns(&self, direction: Direction) -> bool {
        let allows = matches!(self.body, Body::Isolating { allow_dns: true, .. });
        allows && direction == Direction::Egress && self.isolates(direction)
    }

    /// The rules that allow connections to the API server, without any while no address of it is
    /// known; `None` if the policy does not allow this in that direction.
    #[must_use]
    pub fn api_server(&self, direction: Direction) -> Option<&[Rule]> {
        let Body::Isolating { api_server, .. } = &self.body else { return None };
        let isolates = direction == Direction::Egress && self.isolates(direction);
        api_server.as_deref().filter(|_| isolates)
    }

    /// Whether its rules depend on the addresses of the API server.
    #[must_use]
    pub fn names_api_server(&self) -> bool {
        self.api_server(Direction::Egress).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number and action of each rule that applies to a pod, for egress.
    fn effective(policy: &Policy, selected: Selected) -> Vec<(usize, Action)> {
        let rules = policy.effective(Direction::Egress, selected);
        rules.map(|found| (found.number, found.action)).collect()
    }

    fn everything() -> Rule {
        Rule { peers: Peers::Any, ports: Ports::Any }
    }

    #[test]
    fn ordered_rules_of_a_policy_that_may_select_a_pod_allow_nothing() {
        let actions = [Action::Accept, Action::Pass, Action::Deny];
        let rules = actions.map(|action| OrderedRule { action, rule: everything() });
        let rules = PerDirection { ingress: Vec::new(), egress: rules.into() };
        let policy =
            Policy::cluster_network_policy("a", (Tier::Admin, 1), Subject::unknown(), rules);
        let written = [(1, Action::Accept), (2, Action::Pass), (3, Action::Deny)];
        assert_eq!(effective(&policy, Selected::Yes), written);
        assert_eq!(effective(&policy, Selected::Unsure), [(2, Action::Deny), (3, Action::Deny)]);
        assert_eq!(effective(&policy, Selected::No), []);
    }

    #[test]
    fn while_nodes_are_not_known_a_policy_that_names_them_accepts_none_and_opens_nothing() {
        let listed = |peers: &[Peer]| Peers::Listed(peers.to_vec());
        let nodes = Peer::Nodes(Selector::label("role", "plane"));
        let pods = Peer::Pods(PodPeer {
            namespaces: Namespaces::Named("a".into()),
            pods: Selector::everything(),
        });
        let rule = |action, peers| OrderedRule { action, rule: Rule { peers, ..everything() } };
        let (both, others) = (listed(&[nodes, pods.clone()]), listed(std::slice::from_ref(&pods)));
        let rules = [
            rule(Action::Accept, both.clone()),
            rule(Action::Deny, both.clone()),
            rule(Action::Pass, both),
            rule(Action::Deny, others.clone()),
            rule(Action::Accept, Peers::Any),
        ];
        let policy = |rules: &[OrderedRule]| {
            let rules = PerDirection { ingress: Vec::new(), egress: rules.to_vec() };
            Policy::cluster_network_policy("a", (Tier::Admin, 1), Subject::unknown(), rules)
        };
        let closed = [
            rule(Action::Accept, listed(&[Peer::Invalid, pods])),
            OrderedRule::deny_everything(),
            OrderedRule::deny_everything(),
            rule(Action::Deny, others),
            rule(Action::Accept, Peers::Any),
        ];
        let written = policy(&rules);
        assert!(written.names_nodes());
        assert_eq!(written.without_nodes(), policy(&closed));
        let other = policy(&closed);
        assert!(!other.names_nodes());
        assert_eq!(other.without_nodes(), other);
    }

    #[test]
    fn an_isolating_policy_that_may_select_a_pod_allows_nothing() {
        let rules = PerDirection { ingress: None, egress: Some(vec![everything()]) };
        let policy = Policy::cluster_default("a", Subject::unknown(), rules, true)
            .with_api_server(Some([everything()].into()));
        let written = [1, ALLOW_DNS, ALLOW_API_SERVER].map(|number| (number, Action::Accept));
        assert_eq!(effective(&policy, Selected::Yes), written);
        for selected in [Selected::Unsure, Selected::No] {
            assert_eq!(effective(&policy, selected), []);
        }
        assert_eq!(policy.effective(Direction::Ingress, Selected::Yes).count(), 0);
    }
}
