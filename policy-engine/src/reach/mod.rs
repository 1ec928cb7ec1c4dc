//! Which pods can connect to which, on which ports: for all pods at once, with all tiers.
//!
//! ```text
//! pods ──► classes: equal rules, matched by the same peers, in the same blocks, same named ports
//! rules ──► stages, one per tier ──► row: the classes for which a stage differs from most
//! edge  = row of the source's egress ∩ row of the destination's ingress
//! ```
//!
//! The cost follows the number of classes and of edges that exist, not of pairs of pods. Reach
//! judges independently of [`crate::evaluate`] and of the compiled sets; property tests compare the
//! three.

mod atoms;
mod classes;
mod course;
mod difference;
mod edges;
mod external;
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
pub use ports::PortSet;
pub use query::Reach;
