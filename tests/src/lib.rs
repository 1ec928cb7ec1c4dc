//! What proves Portcullis on a real kernel, and shows it.
//!
//! [`cases`] reads policies with their stated reachability from `tests/cases`;
//! [`lab`] builds nodes and pods as network namespaces and probes them with real packets;
//! [`cluster`] adds a real agent to each node, and [`play`] plays cases on it;
//! [`kube`] runs a real API server beside it;
//! [`demo`] shows the examples on it;
//! [`interpreter`] reads `iptables-save` and `ipset save` text and judges packets by it;
//! [`stream`] measures when a change reaches packets;
//! [`worlds`] makes random objects for property tests, [`judging`] what these ask of them.

pub mod cases;
pub mod cluster;
pub mod demo;
pub mod interpreter;
pub mod judging;
pub mod kube;
pub mod lab;
pub mod play;
pub mod stream;
pub mod worlds;
