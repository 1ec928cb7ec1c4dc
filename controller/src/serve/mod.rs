//! What both long-running programs serve over HTTP: probes and metrics.

pub mod http;
mod plain;
pub mod process;
pub mod pulse;
