//! The rules that apply to a pod in one direction: stages in the order in which they are evaluated.

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::{Atom, Atoms};
use super::course::Course;
use super::ports::PortSet;
use crate::allow_set::NamedPeers;
use crate::direction::Direction;
use crate::labels::Str;
use crate::model::NamedPort;
use crate::policy::{Peer, Peers, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::tier::{Action, Tier};

/// The number of a [`Stage`]: its index among all stages.
pub(super) type StageId = usize;

/// The number of [`Rules`]: their index among all rules.
pub(super) type RulesId = usize;

/// All stages that decide in one direction. What the last stage leaves undecided is allowed.
pub(super) type Rules = Vec<StageId>;

/// One tier, for one pod in one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// The first step that matches decides; the next stage decides about what no step matches.
    /// Rules in a row with the same action are one step: which of them matches makes no difference.
    Ordered(Vec<(Action, Matches)>),
    /// The tier isolates the pod: it allows what matches and denies everything else.
    Isolating(Tier, Matches),
}

/// Peers, each with the ports on which it matches. A match of any part matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Matches(BTreeMap<Atom, WantedPorts>);

/// Destination ports, by number and by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct WantedPorts {
    pub(super) numbers: PortSet,
    /// For egress only: each destination pod resolves them.
    pub(super) names: BTreeSet<(Protocol, Str)>,
}

/// The values that the meaning of a rule depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) direction: Direction,
    /// The named ports of the pod that the rules apply to: they resolve the names in ingress rules.
    pub(super) ports: &'a [NamedPort],
    /// For which peers a port by name counts.
    pub(super) named: NamedPeers,
}

impl Stage {
    /// Decides about the ports of a peer that `atoms`, with [`Atom::Any`], match.
    pub(super) fn apply(&self, course: &mut Course, atoms: &[Atom], named: &[NamedPort]) {
        match self {
            Self::Ordered(steps) => {
                for (action, matches) in steps {
                    course.step(*action, &matches.ports(atoms, named));
                }
                course.leave();
            }
            Self::Isolating(_, matches) => course.isolate(&matches.ports(atoms, named)),
        }
    }

    /// All peers that it mentions.
    pub(super) fn atoms(&self) -> BTreeSet<Atom> {
        self.matches().flat_map(|matches| matches.0.keys().copied()).collect()
    }

    /// The tier, when it isolates.
    pub(super) fn isolating(&self) -> Option<Tier> {
        match self {
            Self::Ordered(_) => None,
            Self::Isolating(tier, _) => Some(*tier),
        }
    }

    /// What it allows, if it isolates.
    pub(super) fn isolating_matches(&self) -> Option<&Matches> {
        match self {
            Self::Ordered(_) => None,
            Self::Isolating(_, matches) => Some(matches),
        }
    }

    fn matches(&self) -> impl Iterator<Item = &Matches> {
        let (steps, isolating) = match self {
            Self::Ordered(steps) => (steps.as_slice(), None),
            Self::Isolating(_, matches) => (&[] as &[_], Some(matches)),
        };
        steps.iter().map(|(_, matches)| matches).chain(isolating)
    }
}

impl Matches {
    /// Whether it matches no peer at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what a rule matches.
    pub(super) fn add(&mut self, rule: &Rule, reading: &Reading<'_>, atoms: &mut Atoms) {
        let whole = WantedPorts::of(&rule.ports, reading, true);
        let unnamed = WantedPorts::of(&rule.ports, reading, false);
        if whole.is_empty() {
            return;
        }
        atoms.mention(&whole.names);
        atoms.each(&rule.peers, |atom| {
            let wanted = match atom {
                Atom::Nodes(_) | Atom::Block(_) if reading.named == NamedPeers::ByLabels => {
                    &unnamed
                }
                Atom::Any | Atom::Pods(_) | Atom::Nodes(_) | Atom::Block(_) => &whole,
            };
            if !wanted.is_empty() {
                self.0.entry(atom).or_default().add(wanted);
            }
        });
    }

    /// Adds what `other` matches.
    pub(super) fn extend(&mut self, other: Self) {
        for (atom, wanted) in other.0 {
            self.0.entry(atom).or_default().add(&wanted);
        }
    }

    /// The ports on which it matches a peer that `atoms` match. `named` are the named ports of the
    /// destination.
    fn ports(&self, atoms: &[Atom], named: &[NamedPort]) -> PortSet {
        let mut ports = PortSet::default();
        for wanted in atoms.iter().filter_map(|atom| self.0.get(atom)) {
            wanted.resolve(named, &mut ports);
        }
        ports
    }

    /// Every peer with the ports on which it matches.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Atom, &WantedPorts)> {
        self.0.iter().map(|(atom, wanted)| (*atom, wanted))
    }

    /// The parts that match peers by address alone: the ports for every peer, then for each block.
    pub(super) fn of_addresses(&self) -> impl Iterator<Item = (Atom, &PortSet)> {
        let of_pods = |atom: &Atom| matches!(atom, Atom::Pods(_) | Atom::Nodes(_));
        let all = self.0.iter().filter(move |(atom, _)| !of_pods(atom));
        all.map(|(atom, wanted)| (*atom, &wanted.numbers))
    }
}

/// The ports on which a rule matches a destination with the named ports of `reading`, by those of its
/// peers for which `matches` is true.
pub(super) fn ports_at(
    rule: &Rule,
    reading: &Reading<'_>,
    matches: impl Fn(&Peer) -> bool,
) -> PortSet {
    let mut found = PortSet::default();
    let mut add = |with_names| {
        WantedPorts::of(&rule.ports, reading, with_names).resolve(reading.ports, &mut found);
    };
    match &rule.peers {
        Peers::Any => add(true),
        Peers::Listed(items) => {
            for item in items.iter().filter(|item| matches(item)) {
                add(matches!(item, Peer::Pods(_)) || reading.named == NamedPeers::All);
            }
        }
    }
    found
}

impl WantedPorts {
    fn of(ports: &Ports, reading: &Reading<'_>, with_names: bool) -> Self {
        let mut wanted = Self::default();
        let Ports::Listed(items) = ports else {
            return Self { numbers: PortSet::everything(), ..wanted };
        };
        for item in items {
            match (item, reading.direction) {
                (PortMatch::Invalid, _) => {}
                (PortMatch::Numbers(protocol, range), _) => {
                    wanted.numbers.insert(*protocol, *range);
                }
                (PortMatch::Named(..), _) if !with_names => {}
                (PortMatch::Named(protocol, name), Direction::Ingress) => {
                    let ports = reading.ports.iter();
                    ports
                        .filter(|port| port.name == *name && port.protocol == *protocol)
                        .map(|port| PortRange::single(port.number))
                        .for_each(|number| wanted.numbers.insert(*protocol, number));
                }
                (PortMatch::Named(protocol, name), Direction::Egress) => {
                    wanted.names.insert((*protocol, name.clone()));
                }
            }
        }
        wanted
    }

    /// Adds the ports that these are at a destination with the named ports `named`.
    pub(super) fn resolve(&self, named: &[NamedPort], ports: &mut PortSet) {
        ports.add(&self.numbers);
        for port in named {
            if self.names.contains(&(port.protocol, port.name.clone())) {
                ports.insert(port.protocol, PortRange::single(port.number));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.names.is_empty()
    }

    fn add(&mut self, other: &Self) {
        self.numbers.add(&other.numbers);
        self.names.extend(other.names.iter().cloned());
    }
}
