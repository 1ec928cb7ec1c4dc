//! nftables: a table of our own in each family, over netlink. No tool is run.
//!
//! ```text
//! Plan ─ transaction ─► messages ─ kernel ─► netlink        one transaction for each family
//!          └ encode ─ expression: rules;  sets: elements;  message: their bytes
//! netlink ─ read ─► Applied
//! ```
//!
//! A chain, set or rule of the plan is one of nftables with the same name. So what is desired, its
//! difference and its report are those of every backend.

mod encode;
mod expression;
mod kernel;
mod message;
mod probe;
mod read;
mod sets;
mod transaction;

pub(in crate::dataplane) use self::kernel::Kernel;
pub use self::message::{TABLE, tables};
pub(in crate::dataplane) use self::probe::{lacking, probe, try_log};
