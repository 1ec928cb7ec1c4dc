//! The node's `NodePolicyReport`: what it says, and when and how it is written.
//!
//! ```text
//! agent ─ watch channel: the latest Status ─► writer, on a thread of its own
//!                                               ├─ pace: is it time?
//!                                               ├─ render: what to say
//!                                               └─ server-side apply, field manager portcullis-node
//! ```
//!
//! A report is for people and for the cluster controller; nothing that is enforced depends on it.
//! Writing it neither blocks nor delays the agent, and no failure here ends anything.

pub mod pace;
pub mod render;
pub mod writer;
