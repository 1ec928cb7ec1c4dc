//! What proves Portcullis on a real kernel, and shows it.
//!
//! [`cases`] reads policies with their stated reachability from `tests/cases`;
//! [`cluster`] runs a real agent on each node of a lab, and [`play`] plays cases on it;
//! [`kube`] runs a real API server beside it;
//! [`stream`] measures when a change reaches packets;
//! [`shop`] is a small cluster that faults are tried on, and [`tool`] has its tools misbehave;
//! [`faults`] tries all faults and prints a table of what happens to packets;
//! [`random`] makes numbers of a seed, [`worlds`] random objects for property tests, [`judging`] what these ask of them.
//!
//! The lab, the demo and the cluster of real nodes are crates of their own below
//! this directory.

pub mod cases;
pub mod cluster;
pub mod faults;
pub mod judging;
pub mod kube;
pub mod play;
pub mod random;
pub mod shop;
pub mod stream;
pub mod tool;
pub mod worlds;

/// Whether the agents of this run enforce by nftables: `PORTCULLIS_BACKEND`, which they inherit, says so.
#[must_use]
pub fn enforces_by_nftables() -> bool {
    std::env::var("PORTCULLIS_BACKEND").is_ok_and(|backend| backend == "nftables")
}
