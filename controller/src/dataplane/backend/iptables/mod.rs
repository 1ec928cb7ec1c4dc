//! iptables and ipset: text for their tools, the tools, and netlink for members of sets.
//!
//! ```text
//! Plan ─ script ─► steps ─ kernel ─► restore (chains), isolate ─► process (ipset), members (netlink)
//!          └ text, sets: the spelling of rules and elements
//! iptables-save, ipset save ─ read ─► Applied
//! ```
//!
//! Rules are read back by comparison: what is spelled like a desired rule is that rule, anything
//! else is [`Verdict::Unknown`](crate::dataplane::rule::Verdict::Unknown). So a new match needs a
//! spelling and no parser.

#![expect(clippy::disallowed_types, reason = "the backend is what changes the kernel's tables")]

pub mod cleanup;
mod isolate;
mod kernel;
mod members;
pub mod printed;
pub mod probe;
mod process;
mod read;
mod restore;
pub mod script;
pub mod sets;
pub mod text;
pub mod variant;

pub(in crate::dataplane) use self::kernel::Kernel;
pub(in crate::dataplane) use self::process::run as run_tool;
pub(in crate::dataplane) use self::read::{counted_rules, hooks_of};
pub use self::variant::{Place, Variant};
