//! Judges packets by the text of `iptables-save` and `ipset save`, or of `nft -j list table`.
//!
//! ```text
//! iptables-save ──► words ──► rule ──► tables ─┐
//!                                              ├─► judge(chain, packet) ──► Judgement
//! ipset save    ──► words ──────────► sets ────┤
//! nft -j list   ──► nft ──────► tables, sets ──┘
//! ```
//!
//! It computes verdicts independently: tests compare them with those of the engine and of the
//! kernel. So it shares no code with the renderer of rules, does no I/O, and is strict: text that
//! it does not understand is an error that names the line, and never a rule that is left out.

pub mod error;
pub mod judge;
mod limits;
mod matches;
mod nft;
mod options;
pub mod packet;
mod rule;
pub mod sets;
pub mod tables;
mod targets;
mod words;

pub use error::{JudgeError, ParseError, Problem};
pub use judge::{Hit, Judgement, RateLimit, Verdict};
pub use nft::NftRule;
pub use packet::{ConntrackState, Family, Packet, TcpFlags, Transport};
pub use sets::Sets;
pub use tables::{Table, Tables};
