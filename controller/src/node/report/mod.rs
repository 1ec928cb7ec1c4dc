//! The node's `NodePolicyReport`: its contents, and when and how it is written.
//!
//! ```text
//! agent ─ watch channel: the latest Status ─► writer, on its own thread
//!                                               ├─ pace: is it time?
//!                                               ├─ render: the contents
//!                                               └─ server-side apply, field manager portcullis-node
//! ```
//!
//! People and the cluster controller read the report; enforcement does not depend on it. Writing it
//! neither blocks nor delays the agent, and a failure to write it ends no process.

pub mod pace;
pub mod render;
pub mod writer;
