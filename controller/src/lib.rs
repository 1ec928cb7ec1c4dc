//! The agent and the cluster controller.

pub mod watch;
