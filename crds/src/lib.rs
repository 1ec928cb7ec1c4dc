//! The only place where Kubernetes API objects become values of the policy engine.
//!
//! ```text
//! text ──► manifest::Manifest ──► Document ──┐
//!                                            ├─► convert ──► model::Change + Diagnostics
//! k8s_openapi objects of an API server ──────┘
//! ```
//!
//! Pure: text and objects in, values and diagnostics out; no files, no network, no clock.
//!
//! An object that cannot be understood is still in force, as the most closed thing that it can
//! mean, and a [`diagnostic::Diagnostic`] says so. This happens at the smallest unit: a peer, a
//! port, a rule, a selector.
//!
//! | module | what lives there |
//! |---|---|
//! | [`manifest`] | YAML and JSON text → documents that know the line of each field |
//! | [`convert`] | a document or a typed object → a change for the engine |
//! | [`diagnostic`] | what is wrong, where, and what is in force instead |
//! | [`api`] | our own kinds, from which `deploy/crds/` is generated |
//! | [`cidr`] | addresses and networks as Kubernetes has accepted them over the years |

pub mod api;
pub mod cidr;
pub mod convert;
pub mod diagnostic;
pub mod manifest;

mod decode;
mod path;
mod report;
