//! Backends: each one writes what [`diff`](super::diff) planned, and reads back what is applied.
//!
//! Rules, sets and plans are values that no backend owns; a name of ours is the same in each. What
//! only one kind of kernel table has (a text, a tool, a lock) stays below its directory.

pub mod iptables;
