//! The cluster controller.

pub mod findings;
pub mod lease;
