//! Sets and chains that the tools or the kernel refused. Rules that need them deny instead. Pure.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use policy_engine::cidr::Family;

use super::name::{self, ChainName, SetName};

/// The refused sets and chains, and why. They are not desired until they are tried again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Refusals {
    /// Sets. A rule that allows their members is left out; any other rule that needs them denies.
    pub sets: BTreeMap<SetName, Arc<str>>,
    /// Chains of rulesets. Until they are accepted, they deny everything.
    pub chains: BTreeMap<(Family, ChainName), Arc<str>>,
    /// Families without any set, and why: each of their sets counts as refused, and their chains
    /// need none.
    pub without_sets: BTreeMap<Family, Arc<str>>,
}

impl Refusals {
    /// Whether no single set or chain was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    /// Why a set cannot be used; `None` if it can.
    #[must_use]
    pub fn of_set(&self, set: SetName) -> Option<&Arc<str>> {
        self.sets.get(&set).or_else(|| self.without_sets.get(&name::family(set)))
    }
}

/// How many refusals are tried again at once. If the tools refuse all of them, that takes twice as
/// many runs of a tool, of some milliseconds each.
const AT_ONCE: usize = 8;

/// How many are tried at once as long as none is refused again.
const AT_ONCE_MAX: usize = 32;

/// The order in which refusals are tried again. A round of retries tries each of them once, a few
/// at a time, so that hundreds of them do not delay other changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retries {
    /// The last one that was tried in this round.
    last: Option<Refused>,
    at_once: usize,
}

/// One set or chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Refused {
    Set(SetName),
    Chain(Family, ChainName),
}

impl Default for Retries {
    fn default() -> Self {
        Self { last: None, at_once: AT_ONCE }
    }
}

impl Retries {
    /// Takes the next refusals out of `refusals`, so that they are tried again.
    pub fn take(&mut self, refusals: &mut Refusals) -> Taken {
        let taken: Vec<Refused> = self.waiting(refusals).take(self.at_once).collect();
        for refused in &taken {
            match refused {
                Refused::Set(set) => drop(refusals.sets.remove(set)),
                Refused::Chain(family, chain) => drop(refusals.chains.remove(&(*family, *chain))),
            }
        }
        self.last = taken.last().copied();
        Taken(taken)
    }

    /// Records that the taken refusals were tried. Returns whether the round is over.
    pub fn tried(&mut self, taken: &Taken, refusals: &Refusals) -> bool {
        let is_refused = |refused: &Refused| match refused {
            Refused::Set(set) => refusals.sets.contains_key(set),
            Refused::Chain(family, chain) => refusals.chains.contains_key(&(*family, *chain)),
        };
        let is_refused_again = taken.0.iter().any(is_refused);
        self.at_once = if is_refused_again { AT_ONCE } else { (self.at_once * 2).min(AT_ONCE_MAX) };
        let is_over = self.waiting(refusals).next().is_none();
        if is_over {
            self.last = None;
        }
        is_over
    }

    /// The refusals that this round has not tried yet.
    fn waiting<'a>(&self, refusals: &'a Refusals) -> impl Iterator<Item = Refused> + use<'a> {
        let last = self.last;
        let after_set = match last {
            None => Some(Unbounded),
            Some(Refused::Set(set)) => Some(Excluded(set)),
            Some(Refused::Chain(..)) => None,
        };
        let after_chain = match last {
            Some(Refused::Chain(family, chain)) => Excluded((family, chain)),
            None | Some(Refused::Set(_)) => Unbounded,
        };
        let sets = after_set.map(|after| refusals.sets.range((after, Unbounded)));
        let sets = sets.into_iter().flatten().map(|(set, _)| Refused::Set(*set));
        let chains = refusals.chains.range((after_chain, Unbounded));
        sets.chain(chains.map(|((family, chain), _)| Refused::Chain(*family, *chain)))
    }
}

/// The refusals that are tried again.
#[derive(Debug)]
pub struct Taken(Vec<Refused>);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(number: usize) -> SetName {
        SetName::parse(&format!("PORTCULLIS-{number:04}")).unwrap()
    }

    /// Retries `count` sets until a round is over; `is_bad` ones stay refused. Returns how many
    /// were tried at once, and how many are refused afterwards.
    fn round(count: usize, chains: bool, is_bad: impl Fn(usize) -> bool) -> (Vec<usize>, usize) {
        let why: Arc<str> = "no".into();
        let mut refusals = Refusals::default();
        refusals.sets.extend((0..count).map(|number| (set(number), why.clone())));
        if chains {
            let chain = (Family::V4, ChainName::short("Rchain"));
            refusals.chains.insert(chain, why.clone());
        }
        let (mut retries, mut tried) = (Retries::default(), Vec::new());
        loop {
            let taken = retries.take(&mut refusals);
            tried.push(taken.0.len());
            for (number, set) in (0..count).map(|number| (number, set(number))) {
                if taken.0.contains(&Refused::Set(set)) && is_bad(number) {
                    refusals.sets.insert(set, why.clone());
                }
            }
            if retries.tried(&taken, &refusals) {
                assert_eq!(retries.last, None, "the next round begins at the first");
                return (tried, refusals.sets.len() + refusals.chains.len());
            }
        }
    }

    #[test]
    fn each_refusal_is_tried_once_in_a_round_and_few_at_once_while_some_are_refused_again() {
        let (tried, left) = round(500, true, |_| true);
        assert_eq!((tried.iter().sum::<usize>(), left), (501, 500));
        assert!(tried.iter().all(|count| *count <= AT_ONCE), "{tried:?}");
        assert_eq!(round(3, false, |number| number == 1), (vec![3], 1));
        assert_eq!(round(0, false, |_| true), (vec![0], 0));
    }

    #[test]
    fn more_are_tried_at_once_while_none_is_refused_again() {
        let (tried, left) = round(100, true, |_| false);
        assert_eq!((tried, left), (vec![8, 16, 32, 32, 13], 0));
        let (tried, _) = round(100, false, |number| number == 30);
        assert_eq!(tried, [8, 16, 32, 8, 16, 20], "after one was refused again");
    }
}
