//! Kinds of denial: what a chain of ours logs and drops, as a short number in the log's prefix.
//!
//! One chain per kind, shared by all rulesets. The kernel's counters of that chain are the numbers
//! of the kind. The addresses and ports of a logged packet identify the connection.

mod chain;
mod counts;
mod kind;

pub(super) use self::chain::deny_rules;
pub use self::counts::Counts;
pub(super) use self::counts::{Reading, Totals};
pub use self::kind::{Cause, Denial, Outcome};
