//! Sets of ports or addresses, kept as sorted ranges.
//!
//! ```text
//! union         {80-90}      ∪ {85-95, 97}  =  {80-95, 97}
//! difference    {80-95}      \ {85}         =  {80-84, 86-95}
//! intersection  {80-90, 97}  ∩ {85-97}      =  {85-90, 97}
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

/// A value with a predecessor and a successor: a port or an address.
pub trait Step: Copy + Ord {
    /// The lowest value.
    const MIN: Self;
    /// The highest value.
    const MAX: Self;

    /// The value one below; `None` for the lowest value.
    fn before(self) -> Option<Self>;

    /// The value one above; `None` for the highest value.
    fn after(self) -> Option<Self>;
}

macro_rules! step {
    ($($value:ty as $number:ty),+) => {$(
        impl Step for $value {
            const MIN: Self = Self::from_bits(<$number>::MIN);
            const MAX: Self = Self::from_bits(<$number>::MAX);

            fn before(self) -> Option<Self> {
                self.to_bits().checked_sub(1).map(Self::from_bits)
            }

            fn after(self) -> Option<Self> {
                self.to_bits().checked_add(1).map(Self::from_bits)
            }
        }
    )+};
}
step!(Ipv4Addr as u32, Ipv6Addr as u128);

impl Step for u16 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;

    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// A range with both ends included; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range<T> {
    /// Never above `last`.
    pub(crate) first: T,
    pub(crate) last: T,
}

impl<T: Step> Range<T> {
    /// The range of all values.
    pub const ALL: Self = Self { first: T::MIN, last: T::MAX };

    /// The range from `first` to `last`; `None` when it would be empty.
    #[must_use]
    pub fn between(first: T, last: T) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The range of one value.
    #[must_use]
    pub fn single(value: T) -> Self {
        Self { first: value, last: value }
    }

    /// The lowest value.
    #[must_use]
    pub fn first(self) -> T {
        self.first
    }

    /// The highest value.
    #[must_use]
    pub fn last(self) -> T {
        self.last
    }

    /// Whether `value` lies inside.
    #[must_use]
    pub fn contains(self, value: T) -> bool {
        (self.first..=self.last).contains(&value)
    }

    /// Whether no gap lies between this range and the start of `later`.
    fn touches(self, later: Self) -> bool {
        self.last.after().is_none_or(|next| later.first <= next)
    }
}

/// A set of values as ranges: ascending, disjoint, never adjacent. Equal sets are equal values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ranges<T>(Vec<Range<T>>);

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Step> Ranges<T> {
    /// Whether the set has no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set is exactly the values of one range.
    #[must_use]
    pub fn is(&self, range: Range<T>) -> bool {
        self.0 == [range]
    }

    /// Whether `value` is in the set.
    #[must_use]
    pub fn contains(&self, value: T) -> bool {
        self.overlapping(Range::single(value)).next().is_some()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, Range<T>> {
        self.0.iter()
    }

    /// Adds the values of a range.
    pub fn insert(&mut self, range: Range<T>) {
        // The ranges that overlap or touch the new one are joined with it.
        let start = self.0.partition_point(|own| !own.touches(range));
        let end = self.0.partition_point(|own| range.touches(*own));
        let joined = self.0[start..end].iter().fold(range, |all, own| Range {
            first: all.first.min(own.first),
            last: all.last.max(own.last),
        });
        self.0.splice(start..end, [joined]);
    }

    /// Adds the values of another set.
    pub fn add(&mut self, other: &Self) {
        match other.0.as_slice() {
            all if self.is_empty() => self.0.extend_from_slice(all),
            [range] => self.insert(*range),
            more => self.merge(more),
        }
    }

    fn merge(&mut self, more: &[Range<T>]) {
        self.0.extend_from_slice(more);
        // The stable sort takes linear time for two sorted runs.
        self.0.sort();
        self.0.dedup_by(|later, open| {
            let touches = open.touches(*later);
            if touches {
                open.last = open.last.max(later.last);
            }
            touches
        });
    }

    /// The values that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let common = |range: &Range<T>| {
            let Range { first, last } = *range;
            let overlapping = other.overlapping(*range);
            overlapping.map(move |o| Range { first: first.max(o.first), last: last.min(o.last) })
        };
        Self(self.0.iter().flat_map(common).collect())
    }

    /// The values that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len());
        for range in &self.0 {
            // The first value that is not decided yet; `None` above the highest value.
            let mut next = Some(range.first);
            for cut in other.overlapping(*range) {
                let before = next.zip(cut.first.before());
                rest.extend(before.and_then(|(first, last)| Range::between(first, last)));
                next = cut.last.after();
            }
            rest.extend(next.and_then(|first| Range::between(first, range.last)));
        }
        Self(rest)
    }

    /// The ranges that have values in common with `range`.
    fn overlapping(&self, range: Range<T>) -> impl Iterator<Item = &Range<T>> {
        let below = self.0.partition_point(|own| own.last < range.first);
        self.0.iter().skip(below).take_while(move |own| own.first <= range.last)
    }
}

impl<T: Step> From<Range<T>> for Ranges<T> {
    fn from(range: Range<T>) -> Self {
        Self(vec![range])
    }
}

impl<T: Step> FromIterator<Range<T>> for Ranges<T> {
    /// The values of all ranges, which may overlap and be in any order. Takes as long as sorting.
    fn from_iter<I: IntoIterator<Item = Range<T>>>(ranges: I) -> Self {
        let mut all = Self::default();
        all.merge(&ranges.into_iter().collect::<Vec<_>>());
        all
    }
}

impl<'r, T: Step> IntoIterator for &'r Ranges<T> {
    type Item = &'r Range<T>;
    type IntoIter = std::slice::Iter<'r, Range<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(list: &[(u16, u16)]) -> Ranges<u16> {
        let mut ranges = Ranges::default();
        for (first, last) in list {
            ranges.insert(Range { first: *first, last: *last });
        }
        ranges
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        assert_eq!(ranges(&[(5, 9), (1, 2), (3, 4)]), ranges(&[(1, 9)]));
        assert_eq!(ranges(&[(5, 9), (1, 3)]).iter().count(), 2);
        assert!(ranges(&[(0, 9), (8, u16::MAX)]).is(Range::ALL));
    }

    #[test]
    fn what_all_values_leave_is_empty() {
        let all = Ranges::from(Range::<Ipv4Addr>::ALL);
        let some = Ranges::from(Range::single(Ipv4Addr::BROADCAST));
        assert!(some.difference(&all).is_empty() && all.difference(&all).is_empty());
        assert_eq!(all.difference(&some).iter().count(), 1);
        assert_eq!(some.intersection(&all), some);
    }

    /// Few values at each end of the type, so that a test can check each of them.
    const FEW: u16 = 24;

    fn values() -> impl Iterator<Item = u16> {
        (0..FEW).chain(u16::MAX - FEW..=u16::MAX)
    }

    fn some() -> impl Strategy<Value = Vec<(u16, u16)>> {
        let range = (0..FEW, 0..5_u16, any::<bool>()).prop_map(|(first, more, high)| {
            let first = if high { u16::MAX - first } else { first };
            (first, first.saturating_add(more))
        });
        prop::collection::vec(range, 0..6)
    }

    proptest! {
        #[test]
        fn operations_agree_with_asking_for_each_value(left in some(), right in some()) {
            let (a, b) = (ranges(&left), ranges(&right));
            let mut union = a.clone();
            union.add(&b);
            let (both, rest) = (a.intersection(&b), a.difference(&b));
            for value in values() {
                let within = |list: &[(u16, u16)]| {
                    list.iter().any(|(first, last)| (*first..=*last).contains(&value))
                };
                let (in_a, in_b) = (within(&left), within(&right));
                prop_assert_eq!((a.contains(value), b.contains(value)), (in_a, in_b));
                prop_assert_eq!(union.contains(value), in_a || in_b);
                prop_assert_eq!(both.contains(value), in_a && in_b);
                prop_assert_eq!(rest.contains(value), in_a && !in_b);
            }
            let collected = left.iter().map(|(first, last)| Range { first: *first, last: *last });
            prop_assert_eq!(&collected.collect::<Ranges<u16>>(), &a);
            for set in [&a, &b, &union, &both, &rest] {
                let sorted = set.0.is_sorted_by(|one, next| !one.touches(*next));
                prop_assert!(sorted && set.iter().all(|range| range.first <= range.last));
            }
            let mut again = rest;
            again.add(&both);
            prop_assert_eq!(again, a, "equal sets are equal values");
        }
    }
}
