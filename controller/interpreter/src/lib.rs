//! Judges packets by the text of `iptables-save` and `ipset save`, or of `nft -j list table`.
//!
//! ```text
//! iptables-save ──► words ──► rule ──► tables ─┐
//!                                              ├─► judge(chain, packet) ──► Judgement
//! ipset save    ──► words ──────────► sets ────┤
//! nft -j list   ──► nft ──────► tables, sets ──┘
//! ```
//!
//! It is an independent road to a verdict: tests compare its answer with the engine's and with
//! the kernel's. So it shares no code with what renders rules, touches no kernel, and is strict:
//! text that it does not understand is an error that names the line, never a rule left out.

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
