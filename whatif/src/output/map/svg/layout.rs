//! The positions in the picture: ends are on a circle, and each namespace is an arc of it.

use std::f64::consts::{PI, TAU};

use super::bundle::{Bundle, End};

/// The room for one label along the circle.
const SLOT: f64 = 15.0;

/// The room for labels around the circle.
const MARGIN: f64 = 270.0;

/// The room for the legend.
const TOP: f64 = 110.0;

/// The least radius.
const RADIUS: f64 = 170.0;

/// How far inside of the circle arrows begin.
const INSIDE: f64 = 16.0;

/// How far from the center arrows of two namespaces come together.
const WAIST: f64 = 0.35;

/// A point of the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// A text beside the circle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) center: Point,
    /// The rotation in degrees.
    pub(super) turn: f64,
    pub(super) x: f64,
    pub(super) anchor: &'static str,
}

/// The angles of all ends.
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    radius: f64,
    leaves: Vec<f64>,
    headings: Vec<f64>,
    /// The angle at which each namespace begins, and at which it ends.
    spaces: Vec<(f64, f64)>,
    /// Which namespace each leaf is in.
    space_of: Vec<usize>,
}

impl Layout {
    pub(super) fn new(bundle: &Bundle) -> Self {
        // Between two namespaces one slot is free, and one is for the name.
        let slots = number(bundle.leaves.len() + 2 * bundle.spaces.len()).max(1.0);
        let radius = (slots * SLOT / TAU).max(RADIUS);
        let angle = |slot: f64| slot / slots * TAU - PI / 2.0;
        let (mut leaves, mut headings, mut spaces) = (Vec::new(), Vec::new(), Vec::new());
        let mut slot = 0.0;
        for space in &bundle.spaces {
            slot += 1.0;
            headings.push(angle(slot));
            let begin = angle(slot + 0.5);
            for _ in space.leaves.0..space.leaves.1 {
                slot += 1.0;
                leaves.push(angle(slot));
            }
            spaces.push((begin, angle(slot + 0.5)));
            slot += 1.0;
        }
        let space_of = bundle.leaves.iter().map(|leaf| leaf.space).collect();
        let width = 2.0 * (radius + MARGIN);
        Self { width, height: width + TOP, radius, leaves, headings, spaces, space_of }
    }

    /// The place of an end.
    pub(super) fn at(&self, end: End) -> Point {
        match end {
            End::Leaf(_) => self.point(self.radius, self.angle(end)),
            End::Space(_) => self.point(self.radius - INSIDE, self.angle(end)),
        }
    }

    /// The arc of a namespace, as the data of a path.
    pub(super) fn arc(&self, space: usize) -> String {
        let radius = self.radius - INSIDE / 2.0;
        let (begin, end) = self.spaces[space];
        let (from, to) = (self.point(radius, begin), self.point(radius, end));
        let large = u8::from(end - begin > PI);
        format!(
            "M{:.1} {:.1} A{radius:.1} {radius:.1} 0 {large} 1 {:.1} {:.1}",
            from.x, from.y, to.x, to.y
        )
    }

    /// An arrow, as the data of a path. Those between the same namespaces run side by side.
    pub(super) fn curve(&self, from: End, to: End) -> String {
        let inside = self.radius - INSIDE;
        let (begin, end) =
            (self.point(inside, self.angle(from)), self.point(inside, self.angle(to)));
        let (one, other) = (self.space(from), self.space(to));
        let (first, second) = if one == other {
            let middle = f64::midpoint(self.angle(from), self.angle(to));
            // The farther apart two ends are, the deeper is the bow between them.
            let apart = (self.angle(from) - self.angle(to)).abs();
            let depth = (1.0 - 0.6 * apart.min(1.0)) * inside - 20.0;
            (self.point(depth, middle), self.point(depth, middle))
        } else {
            let waist = |space| self.point(self.radius * WAIST, self.angle(End::Space(space)));
            (waist(one), waist(other))
        };
        format!(
            "M{:.1} {:.1} C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
            begin.x, begin.y, first.x, first.y, second.x, second.y, end.x, end.y
        )
    }

    /// The label of a leaf.
    pub(super) fn label(&self, leaf: usize) -> Place {
        self.place(self.leaves[leaf])
    }

    /// The position of the name of a namespace.
    pub(super) fn heading(&self, space: usize) -> Place {
        self.place(self.headings[space])
    }

    fn place(&self, angle: f64) -> Place {
        let (center, distance) = (self.point(0.0, 0.0), self.radius + 10.0);
        if angle.cos() < 0.0 {
            // On the left, the text is turned so that it is not upside down.
            let turn = (angle + PI).to_degrees();
            return Place { center, turn, x: -distance, anchor: "end" };
        }
        Place { center, turn: angle.to_degrees(), x: distance, anchor: "start" }
    }

    fn space(&self, end: End) -> usize {
        match end {
            End::Leaf(leaf) => self.space_of[leaf],
            End::Space(space) => space,
        }
    }

    fn angle(&self, end: End) -> f64 {
        match end {
            End::Leaf(leaf) => self.leaves[leaf],
            End::Space(space) => {
                let (begin, end) = self.spaces[space];
                f64::midpoint(begin, end)
            }
        }
    }

    fn point(&self, radius: f64, angle: f64) -> Point {
        let (x, y) = (self.width / 2.0, TOP + self.width / 2.0);
        Point { x: x + radius * angle.cos(), y: y + radius * angle.sin() }
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
