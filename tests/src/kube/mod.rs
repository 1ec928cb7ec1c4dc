//! A real Kubernetes API for tests: kube-apiserver, etcd and kubectl, as `tests/kube/build.sh`
//! builds them or `KUBEBUILDER_ASSETS` has them.
//!
//! ```text
//! test ── kubectl, kube::Client ──► kube-apiserver ──► etcd
//!                                        ▲
//!             agents, controllers ───────┘ with the tokens of their ServiceAccounts
//! ```
//!
//! Nothing here is a mock. What a whole cluster has and this one lacks is the controller manager,
//! the scheduler and the kubelet: no ServiceAccount, Endpoints or node name appears by itself.

mod api_server;
mod forward;
mod guard;
mod kubeconfig;
mod pki;

pub use api_server::{ApiServer, Options};
