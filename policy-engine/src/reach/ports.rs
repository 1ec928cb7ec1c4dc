//! Sets of ports: what is allowed between two sides.

use std::collections::BTreeMap;

use crate::flow::Traffic;
use crate::port::{PortRange, Protocol};

/// Destination ports of every protocol, and whether protocols without ports are among them.
///
/// Equal sets are equal values. Port 0 is none: nothing can be opened to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PortSet {
    /// Per protocol: ascending, disjoint, never adjacent, not empty.
    ranges: BTreeMap<Protocol, Vec<PortRange>>,
    other: bool,
}

impl PortSet {
    /// Every port of every protocol, and all protocols without ports.
    #[must_use]
    pub fn everything() -> Self {
        let all = Protocol::ALL.into_iter().map(|protocol| (protocol, vec![ALL]));
        Self { ranges: all.collect(), other: true }
    }

    /// The ports of one protocol.
    #[must_use]
    pub fn range(protocol: Protocol, range: PortRange) -> Self {
        let mut set = Self::default();
        set.insert(protocol, range);
        set
    }

    /// What a flow asks for.
    #[must_use]
    pub fn of(traffic: Traffic) -> Self {
        match traffic {
            Traffic::Port(protocol, port) => Self::range(protocol, PortRange::single(port)),
            Traffic::Other => Self { other: true, ..Self::default() },
        }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.other
    }

    /// Whether everything is in it.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.other && Protocol::ALL.iter().all(|protocol| self.is_whole(*protocol))
    }

    /// Whether every port of `protocol` is in it.
    #[must_use]
    pub fn is_whole(&self, protocol: Protocol) -> bool {
        self.ranges.get(&protocol).is_some_and(|ranges| *ranges == [ALL])
    }

    /// Whether protocols without ports (ICMP) are in it.
    #[must_use]
    pub fn has_other(&self) -> bool {
        self.other
    }

    /// Whether a flow's protocol and port are in it.
    #[must_use]
    pub fn contains(&self, traffic: Traffic) -> bool {
        match traffic {
            Traffic::Other => self.other,
            Traffic::Port(protocol, port) => self.of_protocol(protocol).any(|r| r.contains(port)),
        }
    }

    /// All ranges in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        self.ranges.iter().flat_map(|(protocol, ranges)| ranges.iter().map(|r| (*protocol, *r)))
    }

    /// Adds ports of one protocol.
    pub fn insert(&mut self, protocol: Protocol, range: PortRange) {
        let Ok(range) = PortRange::new(range.first().max(1), range.last()) else { return };
        let ranges = self.ranges.entry(protocol).or_default();
        ranges.push(range);
        if ranges.len() > 1 {
            *ranges = joined(std::mem::take(ranges));
        }
    }

    /// Adds what is in `other`.
    pub fn add(&mut self, other: &Self) {
        self.other |= other.other;
        for (protocol, range) in other.iter() {
            self.insert(protocol, range);
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { other: self.other && other.other, ..Self::default() };
        for (protocol, left) in self.iter() {
            for right in other.of_protocol(protocol) {
                let (first, last) =
                    (left.first().max(right.first()), left.last().min(right.last()));
                if let Ok(range) = PortRange::new(first, last) {
                    both.insert(protocol, range);
                }
            }
        }
        both
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Self { other: self.other && !other.other, ..Self::default() };
        for (protocol, range) in self.iter() {
            let mut next = u32::from(range.first());
            for cut in other.of_protocol(protocol).filter(|cut| cut.last() >= range.first()) {
                if cut.first() > range.last() {
                    break;
                }
                push(&mut rest, protocol, next, u32::from(cut.first()));
                next = next.max(u32::from(cut.last()) + 1);
            }
            push(&mut rest, protocol, next, u32::from(range.last()) + 1);
        }
        rest
    }

    fn of_protocol(&self, protocol: Protocol) -> impl Iterator<Item = PortRange> {
        self.ranges.get(&protocol).into_iter().flatten().copied()
    }
}

const ALL: PortRange = PortRange::FROM_ONE;

/// Adds the ports from `first` up to, and without, `end`.
fn push(set: &mut PortSet, protocol: Protocol, first: u32, end: u32) {
    let bounds = (u16::try_from(first), u16::try_from(end.saturating_sub(1)));
    if let ((Ok(first), Ok(last)), true) = (bounds, first < end)
        && let Ok(range) = PortRange::new(first, last)
    {
        set.insert(protocol, range);
    }
}

/// The same ports as ascending ranges that do not touch.
fn joined(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut result: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if let Some(open) = result.last_mut()
            && u32::from(range.first()) <= u32::from(open.last()) + 1
            && let Ok(longer) = PortRange::new(open.first(), open.last().max(range.last()))
        {
            *open = longer;
        } else {
            result.push(range);
        }
    }
    result
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
