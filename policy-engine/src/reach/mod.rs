//! Which pods can connect to which, on which ports: for all pods at once, with all tiers.
//!
//! ```text
//! pods ──► classes: equal rules, matched by the same peers, in the same blocks, same named ports
//! rules ──► stages, one per tier ──► row of a class: its peers, as sets by the ports
//! row   = ingress of the destination ∩ egress of all sources, both as sets
//! ```
//!
//! The cost follows the number of classes and what their rules mention, not pairs of pods. Reach
//! judges independently of [`crate::evaluate`] and of the compiled sets; property tests compare the
//! three.

mod atoms;
mod blocks;
mod classes;
mod course;
mod difference;
mod edges;
mod external;
mod id_set;
mod pair;
mod parts;
mod points;
mod ports;
mod query;
mod rows;
mod rules;
mod sets;
mod subjects;
#[cfg(test)]
mod tests;

pub use classes::{Class, ClassId};
pub use difference::{Difference, Group, GroupId, Pair, Piece, outside_difference};
pub use edges::{Edge, Edges};
pub use external::Outside;
pub use id_set::IdSet;
pub use pair::{Contribution, PodPair};
pub use ports::PortSet;
pub use query::Reach;
pub use rows::{Row, Rows};
pub use sets::PortsId;
