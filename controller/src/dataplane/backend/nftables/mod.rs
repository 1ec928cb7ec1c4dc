//! nftables: a table of our own in each family, over netlink. No tool is run.
//!
//! ```text
//! Plan ─ transaction ─► messages ─ kernel ─► netlink        one transaction for each family
//!          └ encode ─ expression: rules;  sets: elements;  message: their bytes
//! netlink ─ read ─► Applied
//! ```
//!
//! A chain, set or rule of the plan is one of nftables with the same name. So the desired state,
//! the difference and the report are the same values as for every backend.

pub(in crate::dataplane) mod boot;
mod encode;
mod expression;
mod kernel;
mod message;
mod probe;
mod read;
mod sets;
mod transaction;
pub(in crate::dataplane) mod two_tags;

pub(in crate::dataplane) use self::kernel::Kernel;
pub use self::message::{TABLE, bridge_table, table, tables};
pub(in crate::dataplane) use self::probe::{lacking, probe, try_log};
