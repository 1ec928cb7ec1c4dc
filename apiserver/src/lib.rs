//! How Portcullis reads a Kubernetes API server: one client, one list, one watch for the agent, the
//! cluster controller and the CLI.
//!
//! ```text
//! Access ─► Client ─► Pages ────────────────► objects, read once (the CLI)
//!                └──► Watch ──► Event ──────► Sink (the agent, the cluster controller)
//!                       │ uses Pages where the server has no streaming lists
//!                       ├ presence: does the cluster have the kind?
//!                       ├ Failure:  why did a request fail?
//!                       └ outage:   when is it tried again (BackOff), what is logged?
//! ```
//!
//! This crate does not interpret objects.

pub mod back_off;
pub mod client;
pub mod failure;
pub mod pages;
pub mod watch;
