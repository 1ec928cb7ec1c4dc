//! The desired state of the kernel for a [`Compiled`]: chains, hooks and sets as values. Pure.
//!
//! ```text
//! FORWARD 1 ─► PORTCULLIS-FORWARD ─► JUDGE: unknown source ─► SOURCE
//!                                           EGRESS tree ──────► R…
//!                                           unknown destination ─► DESTINATION
//!                                           INGRESS tree ─────► R…
//! INPUT 1   ─► PORTCULLIS-INPUT ───► NODE:  unknown source ─► SOURCE, EGRESS tree ─► R…
//! R… of one tier ─► R… of the next that decides ─► DENY-… of the kind of denial
//! A… for policies in audit, in the same way      ─► AUDIT-…
//! ```
//!
//! The desired state is kept: when policies change, [`Desired::follow`] renders only new rulesets
//! (`rulesets.rs`). The other chains depend on the few pods of the node, and are rendered again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Endpoint, Update};
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::id::{RulesetId, SetId};
use policy_engine::tier::View;

use super::applied::Applied;
use super::attachment::{Attachment, Attachments};
use super::bridge_chains::Ports;
use super::denial::Denial;
use super::entry::{self, Checks};
use super::interface_chains::Interfaces;
use super::name::{self, ChainName, SetName};
use super::options::{AcceptAction, Options};
use super::refusals::Refusals;
use super::rule::{Chains, Hook};
use super::rulesets::{Output, Root, Rulesets};
use super::set::{DesiredSet, Element, Kind, Source};
use super::tree::{self, Judges, Place};

/// The desired state of the kernel. The members of most sets stay in the engine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Desired {
    /// Our chains of each family that is enforced.
    pub tables: BTreeMap<Family, Chains>,
    /// The hooks of each of these families.
    pub hooks: BTreeSet<Hook>,
    /// Our sets.
    pub sets: BTreeMap<SetName, DesiredSet>,
    /// Why the rules of an enforced ruleset deny more than the policies do: a set or chain was
    /// refused.
    pub denied: BTreeMap<(Family, RulesetId), Arc<str>>,
    /// The sets and chains that were refused when the chains were rendered.
    refusals: Refusals,
    /// The rulesets among the chains of each family.
    rulesets: BTreeMap<Family, Rulesets>,
    /// The chains that are not of a ruleset, and the sets of the pods of this node.
    shared: BTreeMap<Family, Shared>,
}

/// Names of chains and sets that are rendered again each time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Shared {
    chains: BTreeSet<ChainName>,
    sets: BTreeSet<SetName>,
}

/// The chains and sets that may differ between what is desired and what is applied.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Touched {
    /// Chains.
    pub chains: BTreeSet<(Family, ChainName)>,
    /// Sets.
    pub sets: BTreeSet<SetName>,
}

/// The input of the desired state: the policies, and how the pods of this node are attached.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The compiled policies.
    pub compiled: &'a Compiled,
    /// How the known pods are attached.
    pub attachments: &'a Attachments,
    /// The options that the user has chosen.
    pub options: &'a Options,
    /// The sets and chains that the tools or the kernel refused.
    pub refusals: &'a Refusals,
}

/// The input for a family whose sets cannot be used: without what needs a set of the node's own
/// pods.
struct WithoutSets {
    attachments: Attachments,
    options: Options,
}

impl WithoutSets {
    /// Pods are judged by their addresses alone, and the rules of other programs decide about
    /// packets that policies allow.
    fn new(options: &Options) -> Self {
        let options = Options { accept: AcceptAction::Return, ..options.clone() };
        Self { attachments: Attachments::default(), options }
    }

    /// The part of `wanted` that needs no set.
    fn of<'a>(&'a self, wanted: Wanted<'a>) -> Wanted<'a> {
        Wanted { attachments: &self.attachments, options: &self.options, ..wanted }
    }
}

/// The chains and sets of one family that are rendered again each time, and what they lead to.
struct Made {
    chains: Chains,
    sets: BTreeMap<SetName, DesiredSet>,
    roots: BTreeSet<Root>,
    denials: BTreeSet<Denial>,
}

impl Desired {
    /// The desired state that enforces `wanted` for `families`.
    #[must_use]
    pub fn new(wanted: Wanted<'_>, families: &[Family]) -> Self {
        let mut desired = Self::nothing(families.iter().copied());
        desired.hooks = wanted.options.hooks().into_iter().collect();
        desired.refusals = wanted.refusals.clone();
        desired.follow(wanted);
        desired
    }

    /// A desired state without chains, sets and hooks.
    #[must_use]
    pub fn nothing(families: impl IntoIterator<Item = Family>) -> Self {
        let tables = families.into_iter().map(|family| (family, Chains::new())).collect();
        Self { tables, ..Self::default() }
    }

    /// Changes the desired state to enforce `wanted`, with the same families and options as before.
    /// Returns what changed: the members of sets of the engine are not compared.
    ///
    /// The result is valid only if [`Desired::has_followed`] returns true.
    pub fn follow(&mut self, wanted: Wanted<'_>) -> Touched {
        let mut touched = Touched::default();
        let families: Vec<Family> = self.tables.keys().copied().collect();
        let is_without = |family: &Family| wanted.refusals.without_sets.contains_key(family);
        let without_sets =
            families.iter().any(is_without).then(|| WithoutSets::new(wanted.options));
        for family in families {
            let without_sets = without_sets.as_ref().filter(|_| is_without(&family));
            let wanted = without_sets.map_or(wanted, |without| without.of(wanted));
            let made = make(family, wanted);
            self.follow_rulesets(family, wanted, &made, &mut touched);
            self.replace_shared(family, wanted.options, made, &mut touched);
        }
        touched
    }

    /// Whether [`Desired::follow`] had all that it needs: `update` is what changed in `wanted.compiled`.
    ///
    /// Once the refused or missing sets and rulesets change, all rules are rendered again. An
    /// engine compiles no ruleset without its sets.
    #[must_use]
    pub fn has_followed(&self, wanted: Wanted<'_>, update: &Update) -> bool {
        let is_used = |id: &SetId| name::sets(id).any(|name| self.sets.contains_key(&name));
        self.refusals == *wanted.refusals
            && !self.rulesets.values().any(Rulesets::lack_something)
            && !update.sets_removed.iter().any(is_used)
    }

    /// All chains and sets that are desired or applied.
    #[must_use]
    pub fn all_touched(&self, applied: &Applied) -> Touched {
        let applied_chains = applied.tables.iter().map(|(family, table)| (family, &table.chains));
        let tables = applied_chains.chain(&self.tables);
        let chains = tables.flat_map(|(family, chains)| chains.keys().map(|name| (*family, *name)));
        let sets = applied.sets.keys().chain(self.sets.keys()).copied();
        Touched { chains: chains.collect(), sets: sets.collect() }
    }

    /// The part of `touched` that differs from `applied` after an apply: postponed changes, and
    /// sets that are still in use.
    #[must_use]
    pub fn still_touched(&self, mut touched: Touched, applied: &Applied) -> Touched {
        touched.chains.retain(|(family, name)| {
            let is = applied.tables.get(family).and_then(|table| table.chains.get(name));
            is != self.tables.get(family).and_then(|chains| chains.get(name))
        });
        touched.sets.retain(|set| applied.sets.contains_key(set) != self.sets.contains_key(set));
        touched
    }

    fn follow_rulesets(
        &mut self,
        family: Family,
        wanted: Wanted<'_>,
        made: &Made,
        touched: &mut Touched,
    ) {
        let chains = self.tables.entry(family).or_default();
        let rulesets = self.rulesets.entry(family).or_default();
        let mut to =
            Output { family, chains, sets: &mut self.sets, denied: &mut self.denied, touched };
        rulesets.follow(wanted, &made.roots, &mut to);
    }

    /// Replaces the chains and sets that are rendered again each time.
    fn replace_shared(
        &mut self,
        family: Family,
        options: &Options,
        mut made: Made,
        touched: &mut Touched,
    ) {
        let denials = self.rulesets.get(&family).into_iter().flat_map(Rulesets::denials);
        for denial in denials.chain(std::mem::take(&mut made.denials)) {
            let rules = denial.rules(family, options.deny, options.denial_log);
            made.chains.insert(denial.chain(), rules.into());
        }
        let before = self.shared.entry(family).or_default();
        let chains = self.tables.entry(family).or_default();
        let now = Shared {
            chains: made.chains.keys().copied().collect(),
            sets: made.sets.keys().copied().collect(),
        };
        for name in before.chains.difference(&now.chains) {
            chains.remove(name);
            touched.chains.insert((family, *name));
        }
        for (name, rules) in made.chains {
            if chains.get(&name) != Some(&rules) {
                chains.insert(name, rules);
                touched.chains.insert((family, name));
            }
        }
        for name in before.sets.difference(&now.sets) {
            self.sets.remove(name);
            touched.sets.insert(*name);
        }
        for (name, set) in made.sets {
            if self.sets.get(&name) != Some(&set) {
                self.sets.insert(name, set);
                touched.sets.insert(name);
            }
        }
        *before = now;
    }
}

impl Touched {
    /// The union of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.chains.extend(other.chains);
        self.sets.extend(other.sets);
        self
    }
}

/// The chains and sets that depend on the pods of this node.
fn make(family: Family, wanted: Wanted<'_>) -> Made {
    let Wanted { compiled, attachments, options, .. } = wanted;
    let checks_addresses = options.checks_interfaces() && *attachments != Attachments::default();
    let checks = Checks {
        addresses: checks_addresses,
        midstream: !wanted.refusals.without_sets.contains_key(&family),
    };
    let mut made = Made {
        chains: entry::skeleton(family, options, attachments, checks),
        sets: BTreeMap::new(),
        roots: compiled.waiting.clone(),
        denials: BTreeSet::new(),
    };
    let roots = &mut made.roots;
    let mut judges_of =
        |endpoint: &Endpoint, direction| judges(compiled, endpoint, direction, roots);
    for direction in Direction::BOTH {
        let mut places: BTreeMap<IpAddr, Place> = BTreeMap::new();
        for (address, endpoint) in of_family(&compiled.endpoints, family) {
            places.entry(*address).or_default().judges = judges_of(endpoint, direction);
        }
        if checks_addresses {
            for (address, attachment) in of_family(&attachments.addresses, family) {
                places.entry(*address).or_default().attachment = Some(*attachment);
            }
        }
        made.chains.extend(tree::chains(direction, &places, options.finds_pods_in_maps()));
    }
    if checks_addresses {
        let mut by_interface: BTreeMap<Attachment, PerDirection<Judges>> = BTreeMap::new();
        // The pods of both families: a pod with IPv4 only has a link-local IPv6 address too.
        for (address, attachment) in &attachments.addresses {
            let judges = by_interface.entry(*attachment).or_default();
            if let Some(endpoint) = compiled.endpoints.get(address) {
                for direction in Direction::BOTH {
                    *judges.get_mut(direction) = judges_of(endpoint, direction);
                }
            }
        }
        let unattached = unattached(family, wanted);
        let unattached_set = add_attached_sets(family, wanted, &unattached, &mut made.sets);
        let interfaces = Interfaces {
            family,
            attachments,
            judges: &by_interface,
            unknown_pods: options.unknown_pods,
            unattached: unattached_set,
            in_map: options.finds_pods_in_maps(),
        };
        let ports =
            Ports { family, options, attachments, judges: &by_interface, unattached: &unattached };
        for direction in Direction::BOTH {
            made.chains.extend(interfaces.chains(direction));
            if options.finds_pods_in_maps() {
                made.chains.extend(ports.chains(direction));
            }
            made.denials.insert(Denial::by_address(direction));
        }
    }
    if checks.midstream {
        for direction in Direction::BOTH {
            let isolated = isolated(compiled, family, &[direction]);
            made.sets.insert(name::isolated_set(family, direction), isolated);
            made.denials.insert(Denial::by_connection(direction));
        }
    }
    if options.accept == AcceptAction::Accept {
        let isolated = isolated(compiled, family, &Direction::BOTH);
        made.sets.insert(name::local_set(family), isolated);
    }
    made
}

/// The set of the pods that are isolated in one of these directions. Audit isolates no pod.
fn isolated(compiled: &Compiled, family: Family, directions: &[Direction]) -> DesiredSet {
    let is_isolated =
        |endpoint: &Endpoint| directions.iter().any(|d| endpoint.enforced.get(*d).is_some());
    let isolated = of_family(&compiled.endpoints, family).filter(|(_, e)| is_isolated(e));
    local(family, isolated.map(|(address, _)| Element::Address(*address)).collect())
}

/// Adds the set of attached addresses. Returns the set of those that are not, if there are any.
fn add_attached_sets(
    family: Family,
    wanted: Wanted<'_>,
    unattached: &BTreeSet<IpAddr>,
    sets: &mut BTreeMap<SetName, DesiredSet>,
) -> Option<SetName> {
    let Wanted { attachments, .. } = wanted;
    let elements =
        of_family(&attachments.addresses, family).map(|(address, _)| Element::Address(*address));
    sets.insert(name::attached_set(family), local(family, elements.collect()));
    if unattached.is_empty() {
        return None;
    }
    let name = name::unattached_set(family);
    let elements = unattached.iter().copied().map(Element::Address).collect();
    sets.insert(name, local(family, elements));
    Some(name)
}

/// The addresses of pods whose interface is not known.
fn unattached(family: Family, wanted: Wanted<'_>) -> BTreeSet<IpAddr> {
    let Wanted { compiled, attachments, .. } = wanted;
    let endpoints = of_family(&compiled.endpoints, family).map(|(address, _)| address);
    let unattached = endpoints.filter(|address| !attachments.addresses.contains_key(address));
    let others = attachments.unattached.iter().filter(|address| Family::of(**address) == family);
    unattached.chain(others).copied().collect()
}

/// The judges of an endpoint's packets. The rulesets that they need are added to `roots`.
fn judges(
    compiled: &Compiled,
    endpoint: &Endpoint,
    direction: Direction,
    roots: &mut BTreeSet<Root>,
) -> Judges {
    let enforced = endpoint.enforced.get(direction).as_ref();
    // Without its ruleset, audit cannot report what it would deny.
    let audited = endpoint.audited.get(direction).as_ref();
    let audited = audited.filter(|id| compiled.rulesets.contains_key(*id));
    roots.extend(enforced.map(|id| (View::Enforced, *id)));
    roots.extend(audited.map(|id| (View::Audited, *id)));
    Judges {
        enforced: enforced.map(|id| name::ruleset(View::Enforced, id)),
        audited: audited.map(|id| name::ruleset(View::Audited, id)),
    }
}

fn of_family<T>(
    addresses: &BTreeMap<IpAddr, T>,
    family: Family,
) -> impl Iterator<Item = (&IpAddr, &T)> {
    let is_usable =
        move |address: &IpAddr| Family::of(*address) == family && !address.is_unspecified();
    addresses.iter().filter(move |(address, _)| is_usable(address))
}

fn local(family: Family, elements: BTreeSet<Element>) -> DesiredSet {
    DesiredSet { kind: Kind::Address, family, source: Source::Local(elements) }
}

#[cfg(test)]
mod tests;
