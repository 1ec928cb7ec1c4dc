//! Other software on a node that voids or contests the enforcement of policies. Pure: judges facts.
//!
//! ```text
//! examine ─► Facts ─► judge ─► Judgement: conflicts and notes ─► status, preflight
//! ```
//!
//! | file | content |
//! |---|---|
//! | [`facts`] | the facts about the node, as values |
//! | `judgement` | the conflicts by name, and the result of judging |
//! | `enforcer` | other programs that enforce NetworkPolicy, by their objects in the kernel |
//! | `datapath` | datapaths on which packets of pods do not reach iptables |

mod datapath;
mod enforcer;
pub mod facts;
mod judgement;
#[cfg(test)]
mod tests;

pub(super) use self::datapath::IPVS_LINKS;
use self::facts::Facts;
pub use self::judgement::{Conflict, Detected, Judgement};
use super::preflight::Severity;

/// Judges the facts of one node.
#[must_use]
pub fn judge(facts: &Facts) -> Judgement {
    let mut judgement = Judgement::default();
    datapath::judge(facts, &mut judgement);
    enforcer::judge(facts, &mut judgement);
    for failure in &facts.failures {
        let what = format!("conflicts may be overlooked: {failure}");
        judgement.note(Severity::Warning, what, "");
    }
    judgement.conflicts.sort_by_key(|detected| detected.conflict);
    judgement
}
