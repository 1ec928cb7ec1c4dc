//! The answer to `test`: for people, and as JSON, TAP and `JUnit` for programs.

mod report;
mod text;

pub use report::{TestReport, junit, tap};
pub use text::text;
