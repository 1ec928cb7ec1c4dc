//! A throwaway Kubernetes cluster on one machine: the real API server, controller manager,
//! scheduler, kubelets, containerd, kube-proxy and CNI plugins, in network namespaces.
//!
//! ```text
//!   lab: namespaces   fabric ───────────── eth0 n1      eth0 n2      internet host
//!                       │                     │            │
//!   processes    kube-apiserver, etcd     containerd   containerd      each node in mount, UTS,
//!                controller manager       kube-proxy   kube-proxy      IPC and PID namespaces of
//!                scheduler                kubelet      kubelet         its own
//!                                            └─ pods      └─ pods
//! ```
//!
//! [`Cluster`] starts and ends all of it; tests, benchmarks and `make cluster` use the same one.
//! [`binaries`] finds or builds what runs on it. What is not here: SCTP sockets and IPVS, which
//! the kernel must have, and anything that needs the internet.

pub mod binaries;
mod cluster;
mod cni;
mod control_plane;
mod node;
pub mod options;
mod pods;
pub mod probe;
mod state;

pub use cluster::Cluster;
pub use node::Node;
pub use options::Options;
pub use state::sweep_stale;
