//! A real Kubernetes API for tests: kube-apiserver, etcd and kubectl, as `tests/kube/build.sh`
//! builds them or `KUBEBUILDER_ASSETS` has them.
//!
//! ```text
//! test ── kubectl, kube::Client ──► kube-apiserver ──► etcd
//!                                        ▲
//!             agents, controllers ───────┘ with the tokens of their ServiceAccounts
//! ```
//!
//! Nothing here is a mock. What a whole cluster has and this one lacks is the controller manager
//! and the scheduler: no ServiceAccount, Endpoints or node name appears by itself. [`Kubelet`]
//! stands in for the kubelets of a lab's nodes.

mod api_server;
mod binaries;
mod cluster_network_policy;
mod flags;
mod forward;
mod guard;
mod kubeconfig;
mod kubelet;
mod pki;
mod shared;

pub use api_server::{ApiServer, Options};
pub use cluster_network_policy::CLUSTER_NETWORK_POLICY_CRD;
pub use guard::Guarded;
pub use kubeconfig::plain_kubeconfig;
pub use kubelet::{ADDRESSES, Kubelet};
pub use shared::Shared;
