//! Rules and policies without an effect: others isolate the same pods and allow the same.
//!
//! Decided for all possible pods, not for those of today: peers, blocks and ports are compared as
//! sets, see [`crate::implies`]. All findings can be followed together: a policy or rule that is
//! found is removed before the next one is evaluated.
//!
//! The result holds whatever the policies of the cluster are: a removed policy leaves every pod as
//! isolated as before, so the other tiers are evaluated as before.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::{Peer, Peers, Policy, PortMatch, Ports, Rule};
use policy_engine::selector::{Operator, Selector};
use policy_engine::tier::Mode;
use policy_engine::world::World;
use portcullis_crds::path::FieldPath;

use crate::implies::{self, Ask};
use crate::{Code, Context, Finding, Place, few, finding, name_field, places};

/// The findings about redundant rules and policies.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let all: Vec<&Policy> = context.network_policies().collect();
    for policies in all.chunk_by(|one, next| one.name.namespace == next.name.namespace) {
        of_namespace(context, policies, &mut found);
    }
    found
}

fn of_namespace(context: &Context<'_>, policies: &[&Policy], found: &mut Vec<Finding>) {
    let mut remaining = Remaining::new(context.world, policies);
    let mut first: BTreeMap<Content<'_>, &Policy> = BTreeMap::new();
    for policy in policies {
        let original = *first.entry(content(policy)).or_insert(policy);
        if original.name != policy.name {
            remaining.removed.insert(&policy.name);
            let message = format!("says what {} says; remove one of them", original.name.short());
            let related = context.related(&original.name, &name_field(), "the other");
            let whole = FieldPath::default();
            let same = finding(Code::SamePolicy, &policy.name, whole, message);
            found.push(Finding { related: related.into_iter().collect(), ..same });
        }
    }
    // Of two policies that cover each other, the later one is redundant.
    for policy in policies.iter().rev() {
        if remaining.removed.contains(&policy.name) || !is_understood(policy) {
            continue;
        }
        if let Some(by) = remaining.covers_policy(policy) {
            remaining.removed.insert(&policy.name);
            let names = by.iter().map(|policy| policy.short()).collect();
            let s = if by.len() == 1 { "s" } else { "" };
            let message = format!(
                "changes nothing: {} isolate{s} and allow{s} the same already; remove it, or narrow \
                 those",
                few(&names)
            );
            let related = by.iter();
            let related =
                related.filter_map(|by| context.related(by, &name_field(), "does the same"));
            let whole = FieldPath::default();
            let redundant = finding(Code::RedundantPolicy, &policy.name, whole, message);
            found.push(Finding { related: related.collect(), ..redundant });
            continue;
        }
        let all: Vec<Place<'_>> = places(policy).collect();
        for place in all.into_iter().rev() {
            let Some(by) = remaining.covers_rule(place) else { continue };
            remaining.rules.insert((&policy.name, place.direction, place.at));
            found.push(redundant_rule(context, place, &by));
        }
    }
}

fn redundant_rule(context: &Context<'_>, place: Place<'_>, by: &BTreeSet<RuleId<'_>>) -> Finding {
    let names =
        by.iter().map(|(name, _, at)| format!("{} rule {}", name.short(), at + 1)).collect();
    let message = format!(
        "changes nothing: {} allow{} all of it already; remove it, or narrow the other",
        few(&names),
        if by.len() == 1 { "s" } else { "" }
    );
    let related = by.iter().filter_map(|(name, direction, at)| {
        context.related(name, &FieldPath::of_rule(*direction, at + 1), "allows it")
    });
    let found = finding(Code::RedundantRule, &place.policy.name, place.field(), message);
    Finding { related: related.collect(), ..found }
}

/// The meaning of a policy, with its rules sorted.
type Content<'p> = (&'p Selector, Mode, Option<Vec<&'p Rule>>, Option<Vec<&'p Rule>>);

fn content(policy: &Policy) -> Content<'_> {
    let rules = |direction| {
        let mut rules: Vec<&Rule> = policy.isolating(direction)?.iter().collect();
        rules.sort_unstable();
        rules.dedup();
        Some(rules)
    };
    (policy.subject.any_pods(), policy.mode, rules(Direction::Ingress), rules(Direction::Egress))
}

/// Whether a policy was understood completely. If not, other findings are reported first.
fn is_understood(policy: &Policy) -> bool {
    places(policy).all(|place| {
        let peers = match &place.rule.peers {
            Peers::Any => true,
            Peers::Listed(peers) => !peers.is_empty() && !peers.contains(&Peer::Invalid),
        };
        let ports = match &place.rule.ports {
            Ports::Any => true,
            Ports::Listed(ports) => !ports.contains(&PortMatch::Invalid),
        };
        peers && ports
    })
}

/// A rule by policy, direction and position from 0.
type RuleId<'p> = (&'p ObjectRef, Direction, usize);

/// The policies of a namespace, without those that were found to be redundant.
struct Remaining<'p> {
    world: &'p World,
    /// By one label that every pod they select has; `None` if there is no such label.
    by_label: BTreeMap<Option<(&'p Str, &'p Str)>, Vec<&'p Policy>>,
    removed: BTreeSet<&'p ObjectRef>,
    rules: BTreeSet<RuleId<'p>>,
}

impl<'p> Remaining<'p> {
    fn new(world: &'p World, policies: &[&'p Policy]) -> Self {
        let mut by_label: BTreeMap<_, Vec<&Policy>> = BTreeMap::new();
        for policy in policies {
            by_label.entry(policy.subject.any_pods().required_label()).or_default().push(*policy);
        }
        Self { world, by_label, removed: BTreeSet::new(), rules: BTreeSet::new() }
    }

    /// The other policies that select every pod of `policy` and are enforced whenever it is: a
    /// policy in audit cannot replace an enforced one.
    fn wider(&self, policy: &'p Policy) -> Vec<&'p Policy> {
        let subject = policy.subject.any_pods();
        let labels = subject.requirements().filter_map(|one| match &one.operator {
            Operator::In(values) if values.len() == 1 => Some((&one.key, values.first()?)),
            _ => None,
        });
        let keys = labels.map(Some).chain([None]);
        let found = keys.filter_map(|key| self.by_label.get(&key)).flatten().copied();
        found
            .filter(|other| other.name != policy.name && !self.removed.contains(&other.name))
            .filter(|other| other.mode == Mode::Enforce || policy.mode == Mode::Audit)
            .filter(|other| implies::selector(subject, other.subject.any_pods()))
            .collect()
    }

    /// The rules of policies for a direction, without those that were found to be redundant.
    fn rules_of<'a>(
        &'a self,
        policies: &'a [&'p Policy],
        direction: Direction,
    ) -> impl Iterator<Item = (RuleId<'p>, &'p Rule)> {
        policies.iter().flat_map(move |policy| {
            let rules = policy.rules(direction).enumerate();
            let rules = rules.map(move |(at, rule)| ((&policy.name, direction, at), rule));
            rules.filter(|(id, _)| !self.rules.contains(id))
        })
    }

    /// The policies that together have the effect of `policy`; `None` if they do not.
    fn covers_policy(&self, policy: &'p Policy) -> Option<BTreeSet<&'p ObjectRef>> {
        let wider = self.wider(policy);
        let mut by: BTreeSet<&ObjectRef> = BTreeSet::new();
        for direction in Direction::BOTH {
            let Some(rules) = policy.isolating(direction) else { continue };
            // A policy without rules is meant to deny everything: a policy that allows connections
            // cannot replace it, although it isolates the pods too.
            let mut isolating = wider.iter().filter(|other| {
                let others = other.isolating(direction);
                others.is_some_and(|others| !rules.is_empty() || others.is_empty())
            });
            let isolates = isolating.next()?;
            let others: Vec<_> = self.rules_of(&wider, direction).collect();
            let mut used = BTreeSet::new();
            for rule in rules {
                used.extend(covered(self.world, rule, &others)?);
            }
            by.extend(used.iter().map(|(name, ..)| *name));
            if rules.is_empty() {
                by.insert(&isolates.name);
            }
        }
        (!by.is_empty()).then_some(by)
    }

    /// The rules that together allow all that one rule allows.
    fn covers_rule(&self, place: Place<'p>) -> Option<BTreeSet<RuleId<'p>>> {
        let mut policies = self.wider(place.policy);
        policies.push(place.policy);
        let own = (&place.policy.name, place.direction, place.at);
        let others = self.rules_of(&policies, place.direction).filter(|(id, _)| *id != own);
        let by = covered(self.world, place.rule, &others.collect::<Vec<_>>())?;
        (!by.is_empty()).then_some(by)
    }
}

/// The rules among `others` that together allow all that `rule` allows; `None` when they do not.
pub(super) fn covered<Id: Ord + Clone>(
    world: &World,
    rule: &Rule,
    others: &[(Id, &Rule)],
) -> Option<BTreeSet<Id>> {
    let mut used = BTreeSet::new();
    let peers =
        rule.peers.listed().iter().map(Some).chain((rule.peers == Peers::Any).then_some(None));
    for peer in peers {
        let relevant: Vec<_> =
            others.iter().filter(|(_, other)| concerns(world, peer, &other.peers)).collect();
        if relevant.is_empty() {
            return None;
        }
        let ports = relevant.iter().map(|(_, other)| &other.ports);
        for ask in implies::asks(&rule.ports, ports) {
            used.extend(allowing(peer, &ask, &relevant)?);
        }
    }
    Some(used)
}

/// Whether a rule with these peers allows `peer` (`None`: every peer), or a part of its addresses.
fn concerns(world: &World, peer: Option<&Peer>, others: &Peers) -> bool {
    let Peers::Listed(others) = others else { return true };
    others.iter().any(|other| match (peer, other) {
        (Some(Peer::Pods(narrow)), Peer::Pods(wide)) => implies::peer(world, narrow, wide),
        (Some(Peer::Block(_)), Peer::Block(_)) => true,
        (Some(Peer::Nodes(narrow)), Peer::Nodes(wide)) => implies::selector(narrow, wide),
        (None | Some(_), _) => false,
    })
}

/// The rules that allow `peer` on the given port; `None` when they allow only a part of it.
fn allowing<Id: Clone>(
    peer: Option<&Peer>,
    ask: &Ask,
    relevant: &[&(Id, &Rule)],
) -> Option<Vec<Id>> {
    let mut asked = relevant.iter().filter(|(_, rule)| implies::allows(&rule.ports, ask));
    let Some(Peer::Block(block)) = peer else {
        return asked.next().map(|(id, _)| vec![id.clone()]);
    };
    let mut left = CidrSet::from(block);
    let mut used = Vec::new();
    for (id, rule) in asked {
        let rest = match &rule.peers {
            Peers::Any => CidrSet::default(),
            Peers::Listed(peers) => peers.iter().fold(left.clone(), |left, peer| match peer {
                Peer::Block(block) => left.difference(&CidrSet::from(block)),
                Peer::Pods(_) | Peer::Nodes(_) | Peer::Invalid => left,
            }),
        };
        if rest != left {
            used.push(id.clone());
            left = rest;
        }
        if left.is_empty() {
            return Some(used);
        }
    }
    left.is_empty().then_some(used)
}
