//! The place of each field of a document.

use std::collections::BTreeMap;

use crate::path::Step;

/// A line and a column, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// The place of a node and of everything below it: the shape of the value, without the values.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) place: Place,
    pub(crate) inner: Inner,
}

/// The places below a node.
#[derive(Clone, Debug)]
pub(crate) enum Inner {
    /// No places: the node has no parts, or their places are not known.
    Leaf,
    /// The items of a list.
    Items(Vec<Mark>),
    /// The fields of a mapping, each with the place of its key.
    Fields {
        fields: BTreeMap<Box<str>, (Place, Mark)>,
        /// Keys that are given more than once, each with the place of the repetition.
        repeated: Vec<(Box<str>, Place)>,
    },
}

impl Mark {
    /// A node without places below it.
    pub(crate) fn leaf(place: Place) -> Self {
        Self { place, inner: Inner::Leaf }
    }

    /// The place of the field at `steps`, or of the nearest existing field around it.
    pub(crate) fn locate(&self, steps: &[Step]) -> Place {
        let mut place = self.place;
        let mut here = self;
        for step in steps {
            let Some((at, mark)) = here.child(step) else { break };
            place = at;
            here = mark;
        }
        place
    }

    /// The node at `steps`.
    pub(crate) fn get(&self, steps: &[Step]) -> Option<&Mark> {
        steps.iter().try_fold(self, |here, step| Some(here.child(step)?.1))
    }

    /// The place where `key` of this mapping is given for the second time.
    pub(crate) fn repetition(&self, key: &str) -> Option<Place> {
        match &self.inner {
            Inner::Fields { repeated, .. } => {
                repeated.iter().find(|(name, _)| name.as_ref() == key).map(|(_, place)| *place)
            }
            Inner::Leaf | Inner::Items(_) => None,
        }
    }

    /// Every key that is given more than once here or below.
    pub(crate) fn repetitions(&self) -> Vec<(Vec<Step>, Place)> {
        let mut found = Vec::new();
        self.collect(&mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, way: &mut Vec<Step>, found: &mut Vec<(Vec<Step>, Place)>) {
        let mut visit = |step, mark: &Self, found: &mut _| {
            way.push(step);
            mark.collect(way, found);
            way.pop();
        };
        match &self.inner {
            Inner::Leaf => {}
            Inner::Items(items) => {
                for (at, item) in items.iter().enumerate() {
                    visit(Step::Index(at), item, found);
                }
            }
            Inner::Fields { fields, repeated } => {
                for (key, (_, mark)) in fields {
                    visit(Step::Key(key.to_string()), mark, found);
                }
                for (key, place) in repeated {
                    let mut steps = way.clone();
                    steps.push(Step::Key(key.to_string()));
                    found.push((steps, *place));
                }
            }
        }
    }

    fn child(&self, step: &Step) -> Option<(Place, &Mark)> {
        match (&self.inner, step) {
            (Inner::Items(items), Step::Index(at)) => items.get(*at).map(|mark| (mark.place, mark)),
            (Inner::Fields { fields, .. }, Step::Key(key)) => {
                fields.get(key.as_str()).map(|(place, mark)| (*place, mark))
            }
            _ => None,
        }
    }
}
