//! Things with labels, grouped by their labels and found by selectors.

use std::collections::HashMap;

use policy_engine::labels::{Labels, Str};
use policy_engine::selector::Selector;

/// Groups of equal labels, each with what its members have together.
#[derive(Debug)]
pub(super) struct Index<T> {
    groups: Vec<T>,
    labels: Vec<Labels>,
    by_label: HashMap<Str, HashMap<Str, Vec<usize>>>,
}

impl<T: Default> Index<T> {
    /// Groups `items` by labels; `join` adds one item to what its group has.
    pub(super) fn new<I>(
        items: impl IntoIterator<Item = (Labels, I)>,
        mut join: impl FnMut(&mut T, I),
    ) -> Self {
        let mut groups: HashMap<Labels, T> = HashMap::new();
        for (labels, item) in items {
            join(groups.entry(labels).or_default(), item);
        }
        let (labels, groups): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let mut by_label: HashMap<Str, HashMap<Str, Vec<usize>>> = HashMap::new();
        for (at, labels) in labels.iter().enumerate() {
            for (key, value) in labels.iter() {
                let values = by_label.entry(key.clone()).or_default();
                values.entry(value.clone()).or_default().push(at);
            }
        }
        Self { groups, labels, by_label }
    }

    /// What every group has, in no order.
    pub(super) fn groups(&self) -> impl Iterator<Item = &T> {
        self.groups.iter()
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The groups that a selector matches, in no order.
    pub(super) fn matching<'i>(&'i self, selector: &'i Selector) -> impl Iterator<Item = &'i T> {
        self.places(selector).map(|(_, group)| group)
    }

    /// The same, each with its place among the groups.
    pub(super) fn places<'i>(
        &'i self,
        selector: &'i Selector,
    ) -> impl Iterator<Item = (usize, &'i T)> {
        // One label that every match must have cuts the search down to those that have it.
        let (few, all) = match selector.required_label() {
            Some((key, value)) => {
                let few = self.by_label.get(key).and_then(|values| values.get(value));
                (few.map(Vec::as_slice).unwrap_or_default(), 0..0)
            }
            None => (Default::default(), 0..self.groups.len()),
        };
        few.iter().copied().chain(all).filter_map(|at| {
            let labels = self.labels.get(at)?;
            if selector.matches(labels) { Some((at, self.groups.get(at)?)) } else { None }
        })
    }
}
