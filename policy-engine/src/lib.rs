//! NetworkPolicy as pure values: no I/O, no clock, no async, no log.
//!
//! ```text
//! Change ──► Engine::apply ──► Engine::flush ──► Update + Compiled     (incremental, shared)
//!                  │
//!                World ──► evaluate(flow) ──► Verdict                  (naive, independent)
//!                World ──► explain(flow)  ──► Verdict + near misses
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | [`labels`], [`selector`], [`port`], [`cidr`] | the parts that everything is made of |
//! | [`model`], [`policy`] | pods, namespaces, nodes, policies, and [`model::Change`] |
//! | [`compiled`], [`id`] | what a dataplane gets |

pub mod cidr;
pub mod compiled;
pub mod id;
pub mod labels;
pub mod model;
pub mod policy;
pub mod port;
pub mod selector;
