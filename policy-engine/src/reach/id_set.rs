//! Sets of numbers, such as the numbers of classes, groups or addresses.

/// A set of numbers, as words of 64 bits. Words without a number are left out, so a small set is
/// small, and operations on large sets take a step for 64 numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct IdSet {
    /// Ascending by index; no word is 0.
    words: Vec<(u32, u64)>,
}

impl IdSet {
    /// Whether there is no number in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|(_, bits)| bits.count_ones() as usize).sum()
    }

    /// Whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        let (index, bit) = place(number);
        let found = self.words.binary_search_by_key(&index, |(index, _)| *index);
        found.is_ok_and(|at| self.words[at].1 & bit != 0)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().flat_map(|(index, bits)| {
            let (first, mut rest) = (*index as usize * 64, *bits);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(first + bit)
            })
        })
    }

    /// The numbers that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (few, many) = if self.words.len() < other.words.len() {
            (&self.words, &other.words)
        } else {
            (&other.words, &self.words)
        };
        let mut words = Vec::new();
        let mut rest = many.as_slice();
        for (index, bits) in few {
            rest = rest.get(skipped(rest, *index, few.len(), many.len())..).unwrap_or_default();
            let Some((at, others)) = rest.first() else { break };
            if at == index && bits & others != 0 {
                words.push((*index, bits & others));
            }
        }
        Self { words }
    }

    /// The numbers that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = other.words.as_slice();
        let mut words = Vec::with_capacity(self.words.len());
        for (index, bits) in &self.words {
            let skip = skipped(rest, *index, self.words.len(), other.words.len());
            rest = rest.get(skip..).unwrap_or_default();
            let cut = rest.first().filter(|(at, _)| at == index).map_or(0, |(_, cut)| *cut);
            if bits & !cut != 0 {
                words.push((*index, bits & !cut));
            }
        }
        Self { words }
    }

    /// The numbers that are in this set, in `other` or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of_all([self, other])
    }

    /// The numbers that are in any of the sets. Takes as long as sorting their words.
    pub fn of_all<'s>(sets: impl IntoIterator<Item = &'s Self>) -> Self {
        let mut words: Vec<(u32, u64)> = Vec::new();
        let mut number = 0;
        for set in sets {
            words.extend_from_slice(&set.words);
            number += 1;
        }
        if number > 1 {
            words = joined(words);
        }
        Self { words }
    }
}

impl FromIterator<usize> for IdSet {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        Self { words: joined(numbers.into_iter().map(place).collect()) }
    }
}

/// The words in order, those with the same index as one.
fn joined(mut words: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
    // The stable sort takes linear time for sorted runs.
    words.sort_by_key(|(index, _)| *index);
    words.dedup_by(|(later, bits), (index, all)| {
        let same = later == index;
        if same {
            *all |= *bits;
        }
        same
    });
    words
}

/// How many of the words are below `index`. They are searched if there are far more of them than of
/// those they are compared with.
fn skipped(words: &[(u32, u64)], index: u32, few: usize, many: usize) -> usize {
    if few * 8 < many {
        words.partition_point(|(at, _)| *at < index)
    } else {
        words.iter().take_while(|(at, _)| *at < index).count()
    }
}

/// The word of a number, and its bit.
fn place(number: usize) -> (u32, u64) {
    let index = u32::try_from(number / 64).expect("there are fewer than 2^38 numbers");
    (index, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(0..400_usize, 0..40)
    }

    fn set(numbers: &BTreeSet<usize>) -> IdSet {
        numbers.iter().rev().copied().collect()
    }

    proptest! {
        #[test]
        fn operations_agree_with_ordinary_sets(a in numbers(), b in numbers(), c in 0..400_usize) {
            let (left, right) = (set(&a), set(&b));
            let agrees = |found: IdSet, all: BTreeSet<usize>| {
                prop_assert_eq!(found.iter().collect::<BTreeSet<_>>(), all.clone());
                prop_assert_eq!(found.len(), all.len());
                prop_assert_eq!(found, set(&all), "equal sets are equal values");
                Ok(())
            };
            agrees(left.union(&right), &a | &b)?;
            agrees(left.intersection(&right), &a & &b)?;
            agrees(left.difference(&right), &a - &b)?;
            agrees(left.difference(&[c].into_iter().collect()), &a - &[c].into())?;
            prop_assert_eq!(left.contains(c), a.contains(&c));
            prop_assert_eq!(left.is_empty(), a.is_empty());
        }
    }
}
