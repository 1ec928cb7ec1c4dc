//! The answer to `map`, `who` and `reach`: many pairs at once.

pub mod graph;
pub mod json;
pub mod matrix;
pub mod table;

mod text;

pub use text::{About, namespaces, text};
