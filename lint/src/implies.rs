//! Whether one selector, peer or port list contains another one, for all possible pods.
//!
//! Decided by meaning, not by text: `app in (a)` is in `app in (a, b)`, in `app` and in `app!=c`.
//! Always sound; complete for selectors, and for ports except named ones.

use std::collections::BTreeSet;

use policy_engine::labels::Str;
use policy_engine::policy::{Namespaces, PodPeer, PortMatch, Ports};
use policy_engine::port::{PortRange, Protocol};
use policy_engine::selector::{Operator, Requirement, Selector};
use policy_engine::world::World;

/// The label by which every namespace has its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Whether `wide` matches every object that `narrow` matches.
pub(super) fn selector(narrow: &Selector, wide: &Selector) -> bool {
    wide.requirements().all(|wanted| {
        let given = narrow.requirements().filter(|given| given.key == wanted.key);
        States::of(given).are_in(&States::of([wanted]))
    })
}

/// Whether `wide` matches every pod that `narrow` matches, with the namespaces of `world`.
pub(super) fn peer(world: &World, narrow: &PodPeer, wide: &PodPeer) -> bool {
    selector(&narrow.pods, &wide.pods)
        && match (&narrow.namespaces, &wide.namespaces) {
            (Namespaces::Named(one), Namespaces::Named(other)) => one == other,
            (Namespaces::Named(name), Namespaces::Selected(wide)) => {
                world.namespaces().get(name).is_some_and(|found| wide.matches(&found.labels))
            }
            (Namespaces::Selected(narrow), Namespaces::Selected(wide)) => selector(narrow, wide),
            (Namespaces::Own, other) | (other, Namespaces::Own) => {
                *other == Namespaces::Own && narrow.namespaces == wide.namespaces
            }
            (Namespaces::Selected(narrow), Namespaces::Named(name)) => {
                let mut all = world.namespaces().iter();
                selector(narrow, &Selector::label(NAMESPACE_NAME, name))
                    && all.all(|(known, found)| known == name || !narrow.matches(&found.labels))
            }
        }
}

/// A port or protocol that a list of ports can allow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Ask {
    /// A port by number.
    Number(Protocol, u16),
    /// A port by name, whatever number it has.
    Name(Protocol, Str),
    /// A protocol without ports.
    Other,
}

/// The values with which to compare `ports` with other lists: the first port of every range that
/// all of `others` treat alike.
pub(super) fn asks<'p>(ports: &'p Ports, others: impl Iterator<Item = &'p Ports>) -> BTreeSet<Ask> {
    let mut asks: BTreeSet<Ask> = BTreeSet::from([Ask::Other]);
    for list in [ports].into_iter().chain(others) {
        let Ports::Listed(items) = list else { continue };
        for item in items {
            let PortMatch::Numbers(protocol, range) = item else { continue };
            asks.insert(Ask::Number(*protocol, range.first().max(1)));
            asks.extend(range.last().checked_add(1).map(|next| Ask::Number(*protocol, next)));
        }
    }
    if let Ports::Listed(items) = ports {
        asks.extend(items.iter().filter_map(|item| match item {
            PortMatch::Named(protocol, name) => Some(Ask::Name(*protocol, name.clone())),
            PortMatch::Numbers(..) | PortMatch::Invalid => None,
        }));
    }
    asks.extend(Protocol::ALL.map(|protocol| Ask::Number(protocol, 1)));
    asks.retain(|ask| allows(ports, ask));
    asks
}

/// Whether a list of ports allows a value.
pub(super) fn allows(ports: &Ports, ask: &Ask) -> bool {
    let Ports::Listed(items) = ports else { return true };
    items.iter().any(|item| match (item, ask) {
        (PortMatch::Numbers(protocol, range), Ask::Number(asked, number)) => {
            protocol == asked && range.contains(*number)
        }
        (PortMatch::Numbers(protocol, range), Ask::Name(asked, _)) => {
            let all = range.first() <= PortRange::FROM_ONE.first() && range.last() == u16::MAX;
            protocol == asked && all
        }
        (PortMatch::Named(protocol, name), Ask::Name(asked, wanted)) => {
            protocol == asked && name == wanted
        }
        (PortMatch::Named(..), Ask::Number(..))
        | (PortMatch::Numbers(..) | PortMatch::Named(..), Ask::Other)
        | (PortMatch::Invalid, _) => false,
    })
}

/// The possible states of a label: missing or present, and its values.
struct States {
    missing: bool,
    values: Values,
}

enum Values {
    Only(BTreeSet<Str>),
    AllBut(BTreeSet<Str>),
}

impl States {
    /// The states of a label that meet all requirements about it.
    fn of<'r>(requirements: impl IntoIterator<Item = &'r Requirement>) -> Self {
        let mut states = Self { missing: true, values: Values::AllBut(BTreeSet::new()) };
        for requirement in requirements {
            let (missing, values) = match &requirement.operator {
                Operator::In(values) => (false, Values::Only(values.iter().cloned().collect())),
                Operator::NotIn(values) => (true, Values::AllBut(values.iter().cloned().collect())),
                Operator::Exists => (false, Values::AllBut(BTreeSet::new())),
                Operator::DoesNotExist => (true, Values::Only(BTreeSet::new())),
            };
            states = Self {
                missing: states.missing && missing,
                values: states.values.intersection(&values),
            };
        }
        states
    }

    fn are_in(&self, wide: &Self) -> bool {
        (!self.missing || wide.missing) && self.values.are_in(&wide.values)
    }
}

impl Values {
    fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Only(one), Self::Only(two)) => Self::Only(one & two),
            (Self::Only(only), Self::AllBut(not)) | (Self::AllBut(not), Self::Only(only)) => {
                Self::Only(only - not)
            }
            (Self::AllBut(one), Self::AllBut(two)) => Self::AllBut(one | two),
        }
    }

    fn are_in(&self, wide: &Self) -> bool {
        match (self, wide) {
            (Self::Only(few), Self::Only(many)) => few.is_subset(many),
            (Self::Only(few), Self::AllBut(not)) => few.is_disjoint(not),
            // There are more values than any list contains.
            (Self::AllBut(_), Self::Only(_)) => false,
            (Self::AllBut(one), Self::AllBut(two)) => two.is_subset(one),
        }
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::sorted::SortedSet;

    use super::*;

    fn only(operator: Operator) -> Selector {
        Selector::from_iter([Requirement { key: "k".into(), operator }])
    }

    fn values(list: &[&str]) -> SortedSet<Str> {
        list.iter().map(|value| Str::from(*value)).collect()
    }

    #[test]
    fn selectors_are_compared_by_what_they_match() {
        let a = only(Operator::In(values(&["a"])));
        let either = only(Operator::In(values(&["a", "b"])));
        let not_c = only(Operator::NotIn(values(&["c"])));
        let exists = only(Operator::Exists);
        let absent = only(Operator::DoesNotExist);
        let everything = Selector::everything();
        for wide in [&a, &either, &not_c, &exists, &everything] {
            assert!(selector(&a, wide), "{wide:?}");
        }
        assert!(selector(&absent, &not_c) && !selector(&not_c, &absent));
        assert!(!selector(&either, &a) && !selector(&exists, &either));
        assert!(!selector(&everything, &exists) && !selector(&exists, &not_c));
    }

    #[test]
    fn a_range_that_others_cover_together_asks_for_nothing_else() {
        let range = |first, last| {
            let range = PortRange::new(first, last).unwrap();
            Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, range)])
        };
        let (whole, low, high) = (range(10, 30), range(10, 19), range(20, 40));
        let all = asks(&whole, [&low, &high].into_iter());
        assert!(all.iter().all(|ask| allows(&low, ask) || allows(&high, ask)), "{all:?}");
        let short = range(20, 29);
        let all = asks(&whole, [&low, &short].into_iter());
        assert!(!all.iter().all(|ask| allows(&low, ask) || allows(&short, ask)), "{all:?}");
    }
}
