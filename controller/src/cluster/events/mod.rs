//! Events on policies of all kinds and on Nodes: which finding is reported when, and how it is written.
//!
//! ```text
//! findings ─► Ledger (old enough? reported already? a token left?) ─► ObjectFinding ─► write ─► API server
//! ```
//!
//! The name of an Event is a hash of its text and of the uid and generation of its policy. So two
//! leaders cannot write the same Event: the API server answers the second one that it exists. A new
//! leader writes all findings; none is lost, and none is written twice. (`kube_runtime`'s Recorder
//! takes findings that differ only in their text for one, and replaces the new text by the old
//! one.)

pub mod ledger;
pub mod write;
