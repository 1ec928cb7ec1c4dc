//! Policies as the engine knows them: defaulted, resolved to their namespaces, never invalid.
//!
//! What an API object means is decided where it becomes one of these values (the `crds` crate):
//! a part that could not be understood is still here, as a value that matches nothing, so that
//! rules keep the numbers that their author sees.

mod rule;

use crate::direction::{Direction, PerDirection};
use crate::labels::Str;
use crate::object::{Kind, ObjectRef};
use crate::selector::Selector;
use crate::tier::{Action, Mode, Tier};
pub use rule::{IpBlock, Namespaces, Peer, Peers, PodPeer, PortMatch, Ports, Rule, dns_rule};

/// A policy of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name. A policy that lives in a namespace is about pods of that namespace only.
    pub name: ObjectRef,
    /// Which pods it is about.
    pub subject: Subject,
    /// When it is asked.
    pub tier: Tier,
    /// Whether it decides.
    pub mode: Mode,
    /// What it says of these pods.
    pub body: Body,
    /// `metadata.generation`, which reports repeat: not part of what the policy means.
    pub generation: Option<i64>,
}

/// What a policy says of the pods that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// The first rule that matches decides; what none matches goes on to the next tier.
    Ordered {
        /// Lower is asked first; policies of equal priority are asked in the order of their names.
        priority: i32,
        /// The rules, in order.
        rules: PerDirection<Vec<OrderedRule>>,
    },
    /// The pods are isolated: what a rule of any such policy of the tier matches is allowed, and
    /// nothing else.
    Isolating {
        /// The rules, or `None` for a direction that the policy does not isolate for. Peers may be
        /// in [`Namespaces::Own`].
        rules: PerDirection<Option<Vec<Rule>>>,
        /// Whether egress to the cluster's DNS is allowed besides: see [`dns_rule`].
        allow_dns: bool,
    },
}

/// One rule of a [`Body::Ordered`].
///
/// A port by name matches pods that are matched by labels, never nodes or networks. A Deny or Pass
/// rule has no part that could not be understood: such a rule denies everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OrderedRule {
    /// What becomes of a match.
    pub action: Action,
    /// What matches.
    pub rule: Rule,
}

/// Which pods a policy is about.
///
/// A pod whose namespace is not known yet may be one of them, and is where all namespaces are meant:
/// see [`Selected::Unsure`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// In which namespaces; `None` when that could not be understood: it may be any.
    pub namespaces: Option<Selector>,
    /// Which pods there; `None` when that could not be understood: it may be any.
    pub pods: Option<Selector>,
    /// Whether namespaces of the system are left out: see
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

    /// The subject of a policy of which nobody can tell which pods it is about.
    #[must_use]
    pub fn unknown() -> Self {
        Self { namespaces: None, pods: None, spares_system: false }
    }

    /// A selector that matches every pod that may be meant, whatever its namespace.
    #[must_use]
    pub fn any_pods(&self) -> &Selector {
        static EVERYTHING: Selector = Selector::EVERYTHING;
        self.pods.as_ref().unwrap_or(&EVERYTHING)
    }
}

/// Whether a policy is about a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selected {
    /// It is not.
    No,
    /// It may be: a part of the subject could not be understood, or the pod's namespace is not
    /// known yet. The policy fails closed there: see [`Policy::effective`].
    Unsure,
    /// It is.
    Yes,
}

/// A rule as it applies to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectiveRule<'p> {
    /// Its position, from 1; [`ALLOW_DNS`] for the one that `allowDNS` adds.
    pub number: usize,
    /// What becomes of a match.
    pub action: Action,
    /// What matches.
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
        Self {
            name: ObjectRef::new(Kind::NetworkPolicy, namespace, name),
            subject: Subject::pods(pods),
            tier: Tier::NetworkPolicy,
            mode: Mode::Enforce,
            body: Body::Isolating { rules, allow_dns: false },
            generation: None,
        }
    }

    /// An enforced ClusterNetworkPolicy.
    pub fn cluster_network_policy(
        name: impl Into<Str>,
        (tier, priority): (Tier, i32),
        subject: Subject,
        rules: PerDirection<Vec<OrderedRule>>,
    ) -> Self {
        Self {
            name: ObjectRef::cluster(Kind::ClusterNetworkPolicy, name),
            subject,
            tier,
            mode: Mode::Enforce,
            body: Body::Ordered { priority, rules },
            generation: None,
        }
    }

    /// An enforced ClusterDefaultNetworkPolicy.
    pub fn cluster_default(
        name: impl Into<Str>,
        subject: Subject,
        rules: PerDirection<Option<Vec<Rule>>>,
        allow_dns: bool,
    ) -> Self {
        Self {
            name: ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, name),
            subject,
            tier: Tier::Default,
            mode: Mode::Enforce,
            body: Body::Isolating { rules, allow_dns },
            generation: None,
        }
    }

    /// The priority in its tier: lower is asked first. 0 where there is no order.
    #[must_use]
    pub fn priority(&self) -> i32 {
        match self.body {
            Body::Ordered { priority, .. } => priority,
            Body::Isolating { .. } => 0,
        }
    }

    /// What orders all policies: the tier, then the priority, then the name.
    #[must_use]
    pub fn order(&self) -> (Tier, i32, &ObjectRef) {
        (self.tier, self.priority(), &self.name)
    }

    /// The rules of a [`Body::Ordered`]; none for another body.
    #[must_use]
    pub fn ordered(&self, direction: Direction) -> &[OrderedRule] {
        match &self.body {
            Body::Ordered { rules, .. } => rules.get(direction),
            Body::Isolating { .. } => &[],
        }
    }

    /// The rules of a [`Body::Isolating`] as they are written; `None` when the policy does not
    /// isolate the pods that it is about in this direction.
    #[must_use]
    pub fn isolating(&self, direction: Direction) -> Option<&[Rule]> {
        match &self.body {
            Body::Ordered { .. } => None,
            Body::Isolating { rules, .. } => rules.get(direction).as_deref(),
        }
    }

    /// Whether it isolates the pods that it is about: what no rule of its tier allows is denied.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolating(direction).is_some()
    }

    /// Whether it says anything about the traffic of a direction.
    #[must_use]
    pub fn applies(&self, direction: Direction) -> bool {
        self.isolates(direction) || !self.ordered(direction).is_empty()
    }

    /// The rules as they are written, without the one that `allowDNS` adds.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = &Rule> {
        let isolating = self.isolating(direction).unwrap_or_default();
        self.ordered(direction).iter().map(|found| &found.rule).chain(isolating)
    }

    /// The rules of both directions as they are written.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        Direction::BOTH.into_iter().flat_map(|direction| self.rules(direction))
    }

    /// Whether its rules are others in each namespace.
    #[must_use]
    pub fn depends_on_namespace(&self) -> bool {
        self.all_rules().any(Rule::depends_on_namespace)
    }

    /// The rules as they apply to a pod, in order.
    ///
    /// This is where a policy fails closed: of one that may be about the pod, Accept rules match
    /// nothing, Pass rules deny, and one that isolates allows nothing.
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
        let action = Action::Accept;
        ordered.chain(allowed.map(move |(number, rule)| EffectiveRule { number, action, rule }))
    }

    /// Whether [`dns_rule`] is added to the rules.
    #[must_use]
    pub fn allows_dns(&self, direction: Direction) -> bool {
        let allows = matches!(self.body, Body::Isolating { allow_dns: true, .. });
        allows && direction == Direction::Egress && self.isolates(direction)
    }
}

/// The number of the rule that `allowDNS` adds: the written ones count from 1.
pub const ALLOW_DNS: usize = 0;

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
    fn an_isolating_policy_that_may_select_a_pod_allows_nothing() {
        let rules = PerDirection { ingress: None, egress: Some(vec![everything()]) };
        let policy = Policy::cluster_default("a", Subject::unknown(), rules, true);
        let written = [(1, Action::Accept), (ALLOW_DNS, Action::Accept)];
        assert_eq!(effective(&policy, Selected::Yes), written);
        for selected in [Selected::Unsure, Selected::No] {
            assert_eq!(effective(&policy, selected), []);
        }
        assert_eq!(policy.effective(Direction::Ingress, Selected::Yes).count(), 0);
    }
}
