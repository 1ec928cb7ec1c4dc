//! The only place where Kubernetes API objects become values of the policy engine.
//!
//! ```text
//! text ──► manifest::Manifest ──► Document ──┐
//!                                            ├─► convert ──► model::Change + Diagnostics
//! JSON of an API server ──► lean::Lean ──────┘
//! ```
//!
//! Pure: from text and objects to values and diagnostics; no files, no network, no clock.
//!
//! An object that cannot be understood is still enforced, with the most restrictive meaning that it
//! can have, and a [`diagnostic::Diagnostic`] reports this. The unit is as small as possible: a
//! peer, a port, a rule, a selector.
//!
//! | module | what lives there |
//! |---|---|
//! | [`manifest`] | YAML and JSON text → documents that know the line of each field |
//! | [`lean`] | objects of an API server, cut down while they are decoded |
//! | [`convert`] | a document or a lean object → a change for the engine |
//! | [`intern`] | what many objects repeat, kept once |
//! | [`diagnostic`], [`path`] | what is wrong, in which field, and what is enforced instead |
//! | [`api`] | our own kinds, from which `deploy/crds/` is generated |
//! | [`cidr`] | addresses and networks as Kubernetes has accepted them over the years |

pub mod api;
pub mod cidr;
pub mod convert;
pub mod diagnostic;
pub mod intern;
pub mod lean;
pub mod manifest;
pub mod path;

mod decode;
mod report;
mod yaml;
