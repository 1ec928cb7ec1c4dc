//! The HTTP servers of both long-running programs, for probes and metrics.

pub mod http;
mod plain;
pub mod process;
pub mod pulse;
pub mod watch_age;
