//! Points: the addresses of places that policies distinguish, and what matches them.
//!
//! A place is a class, or a group of a difference, which has no class in a world without its pods.
//! A row has one value per place. Most places have one point.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::atoms::{Atom, Atoms};
use super::classes::{Class, ClassId};
use super::id_set::IdSet;
use super::ports::PortSet;
use crate::cidr::{CidrSet, Family};
use crate::labels::Str;
use crate::model::NamedPort;
use crate::port::{PortRange, Protocol};

/// The number of a point.
pub(super) type PointId = usize;

/// All points, and which of them a peer matches.
pub(super) struct Points<'r> {
    classes: &'r [Class],
    /// The class of each place.
    pub(super) class_of: Vec<Option<ClassId>>,
    /// The place of each point.
    place_of: Vec<usize>,
    /// The first point of each place; at the end the number of points.
    first: Vec<PointId>,
    /// Whether each place has one point.
    are_places: bool,
    /// The set of all points.
    pub(super) all: IdSet,
    /// The points by family; `None` for those without an address.
    of_family: BTreeMap<Option<Family>, IdSet>,
    /// The points that pod peers and blocks match.
    matched: BTreeMap<Atom, IdSet>,
    /// By name of a port: its numbers, and the points at which the port has each number.
    named: BTreeMap<(Protocol, Str), Vec<(PortSet, IdSet)>>,
}

impl<'r> Points<'r> {
    pub(super) fn new(classes: &'r [Class], atoms: &Atoms, places: Vec<Option<ClassId>>) -> Self {
        let (mut place_of, mut first) = (Vec::new(), vec![0]);
        let mut addresses: Vec<(IpAddr, PointId)> = Vec::new();
        let mut families: BTreeMap<Option<Family>, Vec<PointId>> = BTreeMap::new();
        let mut matched: BTreeMap<Atom, Vec<PointId>> = BTreeMap::new();
        let mut named: BTreeMap<(Protocol, &Str), BTreeMap<PortSet, Vec<PointId>>> =
            BTreeMap::new();
        for (place, class) in places.iter().enumerate() {
            let class = class.map(|id| &classes[id]);
            for (at, address) in class.into_iter().flat_map(Class::points) {
                let point = place_of.len();
                place_of.push(place);
                families.entry(address.map(Family::of)).or_default().push(point);
                addresses.extend(address.map(|address| (address, point)));
                // Only blocks match a contested address, and ports by name do not count there.
                let class = class.filter(|class| !class.contested[at]);
                for peer in class.into_iter().flat_map(|class| &class.peers) {
                    matched.entry(Atom::Pods(*peer)).or_default().push(point);
                }
                for (name, numbers) in by_name(class.map_or(&[], |class| &class.ports)) {
                    named.entry(name).or_default().entry(numbers).or_default().push(point);
                }
            }
            first.push(place_of.len());
        }
        addresses.sort_unstable();
        let mut matched: BTreeMap<Atom, IdSet> = matched
            .into_iter()
            .map(|(atom, points)| (atom, points.into_iter().collect()))
            .collect();
        for (id, block) in atoms.blocks() {
            let spans = CidrSet::from(block);
            let inside = spans.spans().flat_map(|(from, behind)| {
                let start = addresses.partition_point(|(address, _)| *address < from);
                let end = behind.map_or_else(
                    || {
                        addresses.partition_point(|(address, _)| {
                            Family::of(*address) <= Family::of(from)
                        })
                    },
                    |behind| addresses.partition_point(|(address, _)| *address < behind),
                );
                addresses.get(start..end).unwrap_or_default().iter().map(|(_, point)| *point)
            });
            matched.insert(Atom::Block(id), inside.collect());
        }
        let numbered =
            |(numbers, points): (PortSet, Vec<PointId>)| (numbers, points.into_iter().collect());
        let named = named.into_iter().map(|((protocol, name), numbers)| {
            ((protocol, name.clone()), numbers.into_iter().map(numbered).collect())
        });
        let families = families.into_iter();
        Self {
            classes,
            class_of: places,
            are_places: first.is_sorted_by(|one, next| one + 1 == *next),
            all: (0..place_of.len()).collect(),
            place_of,
            first,
            of_family: families.map(|(f, points)| (f, points.into_iter().collect())).collect(),
            matched,
            named: named.collect(),
        }
    }

    /// The points of a place.
    pub(super) fn of_place(&self, place: usize) -> std::ops::Range<PointId> {
        match self.first.get(place..).unwrap_or_default() {
            [first, end, ..] => *first..*end,
            _ => 0..0,
        }
    }

    /// The class of a point, with the index of the address in it.
    fn class(&self, point: PointId) -> Option<(&'r Class, usize)> {
        let place = *self.place_of.get(point)?;
        let class = self.class_of[place]?;
        Some((&self.classes[class], point - self.first[place]))
    }

    /// The places of points.
    pub(super) fn places(&self, points: &IdSet) -> IdSet {
        if self.are_places {
            return points.clone();
        }
        points.iter().map(|point| self.place_of[point]).collect()
    }

    /// The points that can connect with a point: those of its family, and those without an address.
    /// A point without an address can connect with all points.
    pub(super) fn meeting(&self, point: PointId) -> IdSet {
        let address = self.class(point).and_then(|(class, at)| class.addresses[at]);
        let Some(family) = address.map(Family::of) else { return self.all.clone() };
        let known = [Some(family), None];
        IdSet::of_all(known.iter().filter_map(|family| self.of_family.get(family)))
    }

    /// Whether every point can connect with every other.
    pub(super) fn all_meet(&self) -> bool {
        self.of_family.len() < 2
    }

    /// The points that a peer matches; no rule for pods matches by nodes.
    pub(super) fn matched(&self, atom: Atom) -> Option<&IdSet> {
        match atom {
            Atom::Any => Some(&self.all),
            Atom::Pods(_) | Atom::Nodes(_) | Atom::Block(_) => self.matched.get(&atom),
        }
    }

    /// The numbers of a port by name, and the points at which it has them.
    pub(super) fn named(&self, name: &(Protocol, Str)) -> &[(PortSet, IdSet)] {
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// The pod peers that match a point, and the ports that it has by name.
    pub(super) fn content(&self, point: PointId) -> (&'r [usize], &'r [NamedPort]) {
        match self.class(point) {
            Some((class, at)) if !class.contested[at] => (&class.peers, &class.ports),
            Some(_) | None => (&[], &[]),
        }
    }
}

/// Named ports by protocol and name: a pod may have a name twice.
fn by_name(ports: &[NamedPort]) -> BTreeMap<(Protocol, &Str), PortSet> {
    let mut found: BTreeMap<(Protocol, &Str), PortSet> = BTreeMap::new();
    for port in ports {
        let numbers = found.entry((port.protocol, &port.name)).or_default();
        numbers.insert(port.protocol, PortRange::single(port.number));
    }
    found
}
