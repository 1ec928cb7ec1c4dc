//! The answer to `map`, `who` and `reach`: many pairs at once.

pub mod frontends;
pub mod graph;
pub mod hosts;
pub mod json;
pub mod matrix;
pub mod table;

mod groups;
mod rows;
mod svg;
mod text;

pub use rows::About;
pub use svg::svg;
pub use text::{namespaces, text};
