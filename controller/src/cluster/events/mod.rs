//! Events on policies of all kinds and on Nodes: which finding is reported when, and how it is written.
//!
//! ```text
//! findings ─► Ledger (old enough? reported already? a token left?) ─► ObjectFinding ─► write ─► API server
//! ```
//!
//! The name of an Event is a hash of what it says about which generation of which policy. So the
//! API server itself keeps two leaders from writing the same Event: the second is told that it is
//! there. That also is what a new leader does with all findings: nothing is lost and nothing is
//! written twice. (`kube_runtime`'s Recorder takes findings that differ only in their text for one,
//! and replaces the new text by the old one.)

pub mod ledger;
pub mod write;
