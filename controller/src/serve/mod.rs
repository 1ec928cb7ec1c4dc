//! What both long-running programs serve over HTTP: probes and metrics.

pub mod http;
pub mod pulse;
