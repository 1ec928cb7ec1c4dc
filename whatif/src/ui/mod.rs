//! The live page of a cluster: what it shows, and who may read it.
//!
//! ```text
//! objects, NodePolicyReports ─► a thread ─┐
//! logs of the agents ─────────► a thread ─┴─► Feed ◄── GET news, each second ── the page
//!                                                      GET map:  a new read of the cluster
//! ```

pub mod feed;
pub mod server;
