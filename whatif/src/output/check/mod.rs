//! The answer to `check`: one verdict, the reasons for it, and advice.

pub mod json;

mod advice;
mod excerpt;
mod text;

pub use text::{reasons, text};
