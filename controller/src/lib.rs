//! The node agent.

pub mod dataplane;
pub mod watch;
