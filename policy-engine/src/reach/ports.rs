//! Sets of ports: what is allowed between two endpoints.

use std::collections::BTreeMap;

use crate::flow::Traffic;
use crate::port::{PortRange, Protocol};
use crate::ranges::Ranges;

/// Destination ports of every protocol, and whether protocols without ports are in the set.
///
/// Equal sets are equal values. No set has port 0: no connection can be opened to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PortSet {
    /// No ranges are empty.
    ranges: BTreeMap<Protocol, Ranges<u16>>,
    other: bool,
}

impl PortSet {
    /// Every port of every protocol, and all protocols without ports.
    #[must_use]
    pub fn everything() -> Self {
        let all = Protocol::ALL.map(|protocol| (protocol, PortRange::FROM_ONE.into()));
        Self { ranges: all.into(), other: true }
    }

    /// The ports of one protocol.
    #[must_use]
    pub fn range(protocol: Protocol, range: PortRange) -> Self {
        let mut set = Self::default();
        set.insert(protocol, range);
        set
    }

    /// The protocol and port of a flow.
    #[must_use]
    pub fn of(traffic: Traffic) -> Self {
        match traffic {
            Traffic::Port(protocol, port) => Self::range(protocol, PortRange::single(port)),
            Traffic::Other => Self { other: true, ..Self::default() },
        }
    }

    /// Whether the set has neither ports nor protocols without ports.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.other
    }

    /// Whether the set equals [`PortSet::everything`].
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.other && Protocol::ALL.iter().all(|protocol| self.is_whole(*protocol))
    }

    /// Whether the set has every port of `protocol`.
    #[must_use]
    pub fn is_whole(&self, protocol: Protocol) -> bool {
        self.ranges.get(&protocol).is_some_and(|ranges| ranges.is(PortRange::FROM_ONE))
    }

    /// Whether the set has the protocols without ports (ICMP).
    #[must_use]
    pub fn has_other(&self) -> bool {
        self.other
    }

    /// Whether the set has a flow's protocol and port.
    #[must_use]
    pub fn contains(&self, traffic: Traffic) -> bool {
        match traffic {
            Traffic::Other => self.other,
            Traffic::Port(protocol, port) => {
                self.ranges.get(&protocol).is_some_and(|ranges| ranges.contains(port))
            }
        }
    }

    /// All ranges in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        self.ranges.iter().flat_map(|(protocol, ranges)| ranges.iter().map(|r| (*protocol, *r)))
    }

    /// Adds ports of one protocol.
    pub fn insert(&mut self, protocol: Protocol, range: PortRange) {
        if let Ok(range) = PortRange::new(range.first().max(1), range.last()) {
            self.ranges.entry(protocol).or_default().insert(range);
        }
    }

    /// Adds the ports and protocols of another set.
    pub fn add(&mut self, other: &Self) {
        self.other |= other.other;
        for (protocol, ranges) in &other.ranges {
            self.ranges.entry(*protocol).or_default().add(ranges);
        }
    }

    /// The ports and protocols that are in this set, in `other` or in both.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// The ports and protocols that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let common = |(protocol, ranges): (&Protocol, &Ranges<u16>)| {
            let ranges = ranges.intersection(other.ranges.get(protocol)?);
            (!ranges.is_empty()).then_some((*protocol, ranges))
        };
        let ranges = self.ranges.iter().filter_map(common).collect();
        Self { ranges, other: self.other && other.other }
    }

    /// The ports and protocols that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let rest = |(protocol, ranges): (&Protocol, &Ranges<u16>)| {
            let cut = other.ranges.get(protocol);
            let ranges = cut.map_or_else(|| ranges.clone(), |cut| ranges.difference(cut));
            (!ranges.is_empty()).then_some((*protocol, ranges))
        };
        let ranges = self.ranges.iter().filter_map(rest).collect();
        Self { ranges, other: self.other && !other.other }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(ranges: &[(u16, u16)]) -> PortSet {
        let mut set = PortSet::default();
        for (first, last) in ranges {
            set.insert(Protocol::Tcp, PortRange::new(*first, *last).unwrap());
        }
        set
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(tcp(&[(82, 90), (80, 81)]), tcp(&[(80, 90)]));
        assert_eq!(tcp(&[(0, 65535)]), tcp(&[(1, 65535)]), "port 0 is none");
        assert!(tcp(&[(0, 0)]).iter().next().is_none());
    }

    #[test]
    fn everything_is_every_port_and_protocols_without_ports() {
        let mut set = PortSet::of(Traffic::Other);
        for protocol in Protocol::ALL {
            assert!(!set.is_everything());
            set.insert(protocol, PortRange::ALL);
        }
        assert!(set.is_everything());
        assert_eq!(set, PortSet::everything());
    }

    fn small() -> impl Strategy<Value = PortSet> {
        prop::collection::vec((0..20_u16, 0..4_u16), 0..5).prop_map(|ranges| {
            let ranges: Vec<_> =
                ranges.iter().map(|(first, more)| (*first, first + more)).collect();
            tcp(&ranges)
        })
    }

    proptest! {
        #[test]
        fn operations_agree_with_counting(a in small(), b in small()) {
            for port in 1..30 {
                let traffic = Traffic::Port(Protocol::Tcp, port);
                let (in_a, in_b) = (a.contains(traffic), b.contains(traffic));
                prop_assert_eq!(a.clone().union(&b).contains(traffic), in_a || in_b);
                prop_assert_eq!(a.intersection(&b).contains(traffic), in_a && in_b);
                prop_assert_eq!(a.difference(&b).contains(traffic), in_a && !in_b);
            }
            let parts = a.difference(&b).union(&a.intersection(&b));
            prop_assert_eq!(parts, a, "equal sets are equal values");
        }
    }
}
