//! Shortens lists of many names.

use std::collections::BTreeSet;
use std::iter;

use policy_engine::reach::IdSet;

use crate::model::{Unit, Units};

/// How many names are written out before the rest is counted.
const SHOWN: usize = 6;

/// The word for all units.
const EVERYONE: &str = "every pod";

/// Finds short words for whole namespaces and for all pods.
pub(crate) struct Names<'u> {
    /// All units in order; those of a namespace follow each other.
    all: Vec<&'u Unit>,
    /// By unit: the number of its namespace.
    namespace: Vec<usize>,
    /// By namespace: how many units it has.
    sizes: Vec<usize>,
    of_class: Vec<Vec<usize>>,
    /// Whether each class is one unit, in the same order: then a set of classes is a set of units.
    are_classes: bool,
    wide: bool,
}

impl<'u> Names<'u> {
    pub(crate) fn new(everyone: &'u Units, wide: bool) -> Self {
        let mut all: Vec<&Unit> = everyone.of_class.iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        let each = all.chunk_by(|one, next| one.namespace == next.namespace);
        let sizes: Vec<usize> = each.map(<[_]>::len).collect();
        let numbered = sizes.iter().enumerate();
        let namespace = numbered.flat_map(|(number, size)| iter::repeat_n(number, *size)).collect();
        let number = |unit: &Unit| all.binary_search(&unit).ok();
        let of_class = everyone.of_class.iter();
        let of_class: Vec<Vec<usize>> =
            of_class.map(|units| units.iter().filter_map(number).collect()).collect();
        let are_classes = of_class.len() == all.len()
            && of_class.iter().enumerate().all(|(class, units)| *units == [class]);
        Self { all, namespace, sizes, of_class, are_classes, wide }
    }

    /// The names of all units of some classes.
    pub(crate) fn of_classes(&self, classes: &IdSet) -> String {
        if !self.wide && classes.len() == self.of_class.len() {
            return EVERYONE.to_owned();
        }
        if self.are_classes {
            return self.words(classes.iter(), Vec::new());
        }
        let mut units: Vec<usize> = Vec::with_capacity(self.all.len());
        for units_of_class in classes.iter().filter_map(|class| self.of_class.get(class)) {
            units.extend_from_slice(units_of_class);
        }
        if !units.is_sorted_by(|one, next| one < next) {
            units.sort_unstable();
            units.dedup();
        }
        self.words(units.into_iter(), Vec::new())
    }

    /// `every pod`, `shop/*`, or names; without `-o wide` the first few of them.
    pub(crate) fn of(&self, units: &BTreeSet<&Unit>) -> String {
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for unit in units {
            match self.all.binary_search(unit) {
                Ok(number) => known.push(number),
                Err(_) => others.push(short(&unit.name)),
            }
        }
        self.words(known.into_iter(), others)
    }

    /// The names of units, ascending, after some words. Visits each unit once: many rows have
    /// thousands of units.
    fn words(&self, units: impl Iterator<Item = usize>, mut words: Vec<String>) -> String {
        let name = |unit: usize| short(&self.all[unit].name);
        if self.wide {
            words.extend(units.map(name));
            return words.join(", ");
        }
        let begin = words.len();
        let (mut count, mut number) = (begin, 0);
        let mut units = units.peekable();
        // The first units of a namespace, as many as are written out.
        let mut first = Vec::with_capacity(SHOWN + 1);
        while let Some(unit) = units.next() {
            let space = self.namespace[unit];
            first.clear();
            first.push(unit);
            let mut together = 1;
            while let Some(unit) = units.next_if(|unit| self.namespace[*unit] == space) {
                together += 1;
                if first.len() <= SHOWN {
                    first.push(unit);
                }
            }
            number += together;
            let whole = together == self.sizes[space] && together > 1;
            count += if whole { 1 } else { together };
            let room = (SHOWN + 1).saturating_sub(words.len());
            if whole && room > 0 {
                words.push(format!("{}/*", self.all[unit].namespace));
            } else {
                words.extend(first.iter().take(room).map(|unit| name(*unit)));
            }
        }
        if begin == 0 && number == self.all.len() {
            return EVERYONE.to_owned();
        }
        words.truncate(SHOWN + 1);
        let more = count - words.len();
        if more > 0 {
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }
}

/// A long name without its middle: its end identifies it as well as its beginning.
pub(crate) fn middle(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let half = most.saturating_sub(1) / 2;
    let (begin, end) = (text.chars().take(half), text.chars().skip(count - half));
    begin.chain(['…']).chain(end).collect()
}

/// A reference without the kind `pod`, which `check` can read.
pub(crate) fn short(name: &str) -> String {
    name.replacen("/pod/", "/", 1)
}
