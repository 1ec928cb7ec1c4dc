//! NetworkPolicy as pure values: no I/O, no clock, no async, no log.
//!
//! ```text
//! Change ──► Engine::apply ──► Engine::flush ──► Update + Compiled     (incremental, shared)
//!                  │
//!                World ──► evaluate(flow) ──► Verdict                   (naive, independent)
//!                World ──► Reach          ──► all ports between all pods       (by classes)
//!                World ──► explain(flow)  ──► Verdict + near misses
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | [`labels`], [`selector`], [`direction`] | labels, label selectors and the two directions |
//! | [`ranges`], [`port`], [`cidr`] | sets of ports and addresses, as sorted ranges |
//! | [`object`] | the names of objects of all kinds |
//! | [`policy`], [`tier`] | policies of all kinds, and the order in which they are evaluated |
//! | [`model`] | pods, namespaces, nodes, and [`model::Change`] |
//! | [`world`] | all objects as they are now; which pod has an address |
//! | [`flow`], [`evaluate`], [`explain`] | flows; the naive reading; why a flow is denied |
//! | [`allow_set`] | rules merged into disjoint ports with one union of peers each |
//! | [`budget`] | bounds on what the rules of one pod can cost |
//! | [`ruleset`] | an allow-set as rules and the address sets that they refer to |
//! | [`reach`] | which pods can connect to which, on which ports, by classes of pods |
//! | [`engine`] | the incremental compiler |
//! | [`compiled`], [`id`] | the result that a dataplane applies |
//! | [`words`] | how lists, ports, decisions and selectors read in messages |

pub mod addresses;
pub mod allow_set;
pub mod budget;
pub mod cidr;
pub mod compiled;
pub mod direction;
pub mod engine;
pub mod evaluate;
pub mod explain;
pub mod flow;
pub mod id;
pub mod labels;
pub mod model;
pub mod object;
pub mod policy;
pub mod port;
pub mod ranges;
pub mod reach;
pub mod ruleset;
pub mod selector;
pub mod sorted;
pub mod tier;
pub mod words;
mod work;
pub mod world;
