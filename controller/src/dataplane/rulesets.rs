//! The chains of the rulesets that packets can reach, and the sets that these chains need. Pure.
//!
//! ```text
//! endpoints ─► roots ─► rulesets, each rendered once ─► rulesets of the tiers below
//!                            └─► sets, kinds of denial: counted by the rulesets that need them
//! ```
//!
//! The identifier of a ruleset is a hash of its rules. So the rules of a chain never change while
//! it is needed, and only rulesets that were not needed before are rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::Family;
use policy_engine::id::RulesetId;
use policy_engine::tier::View;

use super::denial::{Denial, deny_rules};
use super::desired::{Touched, Wanted};
use super::name::{self, SetName};
use super::rule::{Chains, Rule};
use super::ruleset::Renderer;
use super::set::DesiredSet;

/// A ruleset in one view.
pub(super) type Root = (View, RulesetId);

/// The rulesets of one family that have chains.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Rulesets {
    /// The rulesets that endpoints refer to.
    roots: BTreeSet<Root>,
    /// All rulesets, with the sets and chains that their chains need.
    rendered: BTreeMap<Root, Rendered>,
    /// How many rulesets need each set.
    sets: BTreeMap<SetName, usize>,
    /// How many rulesets lead to the chain of each kind of denial.
    denials: BTreeMap<Denial, usize>,
    /// The rulesets of which a set or ruleset was missing when they were rendered.
    lacking: BTreeSet<Root>,
}

/// The sets and chains that the chain of a ruleset needs.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rendered {
    /// How many rulesets lead to this one; one more if endpoints do.
    uses: usize,
    sets: BTreeSet<SetName>,
    denials: BTreeSet<Denial>,
    next: BTreeSet<RulesetId>,
}

/// The state that changes with the rulesets.
pub(super) struct Output<'a> {
    pub family: Family,
    pub chains: &'a mut Chains,
    pub sets: &'a mut BTreeMap<SetName, DesiredSet>,
    pub denied: &'a mut BTreeMap<(Family, RulesetId), Arc<str>>,
    pub touched: &'a mut Touched,
}

impl Rulesets {
    /// Renders the rulesets that `roots` lead to and that have no chain. Removes all other chains.
    pub(super) fn follow(
        &mut self,
        wanted: Wanted<'_>,
        roots: &BTreeSet<Root>,
        to: &mut Output<'_>,
    ) {
        let before = std::mem::replace(&mut self.roots, roots.clone());
        // Before others are released, so that a set which both need stays.
        self.acquire(wanted, roots.difference(&before).copied().collect(), to);
        self.release(before.difference(roots).copied().collect(), to);
        let is_missing = |(_, id): &&Root| !wanted.compiled.rulesets.contains_key(id);
        self.lacking.extend(roots.iter().filter(is_missing));
    }

    /// Whether a set or ruleset that is needed was missing when the rules were rendered, or is now.
    pub(super) fn lack_something(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// The kinds of denial that the rulesets lead to.
    pub(super) fn denials(&self) -> impl Iterator<Item = Denial> {
        self.denials.keys().copied()
    }

    fn acquire(&mut self, wanted: Wanted<'_>, mut wanting: Vec<Root>, to: &mut Output<'_>) {
        while let Some(root @ (view, _)) = wanting.pop() {
            if let Some(known) = self.rendered.get_mut(&root) {
                known.uses += 1;
                continue;
            }
            let rendered = self.render(wanted, root, to);
            wanting.extend(rendered.next.iter().map(|next| (view, *next)));
            for denial in &rendered.denials {
                *self.denials.entry(*denial).or_default() += 1;
            }
            for set in &rendered.sets {
                *self.sets.entry(*set).or_default() += 1;
            }
            self.rendered.insert(root, rendered);
        }
    }

    /// Writes the chain of a ruleset, and the sets that it needs and that are not desired yet.
    fn render(&mut self, wanted: Wanted<'_>, root: Root, to: &mut Output<'_>) -> Rendered {
        let Wanted { compiled, options, refusals, .. } = wanted;
        let ((view, id), family) = (root, to.family);
        let name = name::ruleset(view, &id);
        let mut renderer = Renderer::new(family, compiled, refusals);
        let refused = refusals.chains.get(&(family, name));
        let rules: Vec<Rule> = match (compiled.rulesets.get(&id), refused) {
            (Some(ruleset), None) => renderer.rules(view, ruleset),
            (Some(ruleset), Some(_)) => renderer.deny(view, ruleset),
            // The tier of a missing ruleset is not known: all is denied, and no kind is counted.
            (None, _) => deny_rules(family, options.deny),
        };
        let Renderer { needed, denials, next, refused: set_refused, lacks_something, .. } =
            renderer;
        if let (View::Enforced, Some(why)) = (view, set_refused.or_else(|| refused.cloned())) {
            to.denied.insert((family, id), why);
        }
        if lacks_something {
            self.lacking.insert(root);
        }
        to.chains.insert(name, rules.into());
        to.touched.chains.insert((family, name));
        let sets = needed.keys().copied().collect();
        for (name, set) in needed {
            if !self.sets.contains_key(&name) {
                to.sets.insert(name, set);
                to.touched.sets.insert(name);
            }
        }
        Rendered { uses: 1, sets, denials, next }
    }

    fn release(&mut self, mut unwanted: Vec<Root>, to: &mut Output<'_>) {
        while let Some(root @ (view, id)) = unwanted.pop() {
            let Some(known) = self.rendered.get_mut(&root) else { continue };
            known.uses -= 1;
            if known.uses > 0 {
                continue;
            }
            let Some(removed) = self.rendered.remove(&root) else { continue };
            unwanted.extend(removed.next.iter().map(|next| (view, *next)));
            for denial in &removed.denials {
                count_down(&mut self.denials, denial);
            }
            for set in &removed.sets {
                if count_down(&mut self.sets, set) {
                    to.sets.remove(set);
                    to.touched.sets.insert(*set);
                }
            }
            let name = name::ruleset(view, &id);
            to.chains.remove(&name);
            to.touched.chains.insert((to.family, name));
            if view == View::Enforced {
                to.denied.remove(&(to.family, id));
            }
            self.lacking.remove(&root);
        }
    }
}

/// Counts one use less. Returns whether it was the last one.
fn count_down<K: Ord>(uses: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = uses.get_mut(key) else { return false };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        uses.remove(key);
    }
    is_last
}
