//! The answer to `check`: one verdict, why, and what to do.

pub mod json;

mod advice;
mod excerpt;
mod text;

pub use text::{reasons, text};
