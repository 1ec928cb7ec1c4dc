//! The cluster controller.

pub mod findings;
