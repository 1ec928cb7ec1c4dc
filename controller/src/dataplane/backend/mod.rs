//! Backends: each one writes what [`diff`](super::diff) planned, and reads back what is applied.
//!
//! Rules, sets and plans are values that no backend owns; a name of ours is the same in each. What
//! only one kind of kernel table has (a text, a tool, a lock) stays below its directory. `Kernel` is
//! the one that a node uses.

mod error;
mod executed;
pub mod iptables;
mod kernel;
pub mod nftables;

pub use self::error::Error;
pub(in crate::dataplane) use self::executed::Executed;
pub(in crate::dataplane) use self::kernel::{Kernel, Place};
