//! Backends: each one writes what [`diff`](super::diff) planned, and reads back what is applied.
//!
//! Rules, sets and plans are values that no backend owns; a name of ours is the same in each.
//! Texts, tools and locks of only one backend are in its directory. `Kernel` is the backend that a
//! node uses.

mod error;
mod executed;
pub mod iptables;
mod kernel;
pub mod nftables;

pub use self::error::Error;
pub(in crate::dataplane) use self::executed::Executed;
pub(in crate::dataplane) use self::kernel::{Kernel, Place};
