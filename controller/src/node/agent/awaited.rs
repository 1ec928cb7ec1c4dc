//! What the agent waits for: events of its optional parts, without which a wait never returns, and
//! the next time when something is due.

use tokio::time::Instant;

use super::{Agent, State};
use crate::dataplane::examine::Examination;
use crate::node::attach::Found;
use crate::node::conflicts::Examinations;
use crate::node::denials::Feed;
use crate::node::denials::table::Sighting;
use crate::node::local_pods::LocalPods;

/// Waits for the next examination of the node; never returns where it is not examined.
pub(super) async fn examination(examinations: Option<&mut Examinations>) -> Examination {
    match examinations {
        Some(examinations) => examinations.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until the interfaces of pods change; never returns where they are not searched.
pub(super) async fn found(local_pods: Option<&mut LocalPods>) -> Found {
    match local_pods {
        Some(local_pods) => local_pods.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next denial; never returns where denials are not logged.
pub(super) async fn next(denials: Option<&mut Feed>) -> Sighting {
    match denials {
        Some(denials) => denials.next().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// When the agent does something although nothing happens.
    pub(super) fn alarm(&self) -> Option<Instant> {
        let alarm = self.regular_alarm();
        alarm.map(|at| self.hooks_at.map_or(at, |hooks_at| hooks_at.min(at)))
    }

    fn regular_alarm(&self) -> Option<Instant> {
        match self.state {
            State::Loading => None,
            State::Loaded { apply_at } => Some(apply_at),
            State::Applied { .. } if self.has_members_left() || self.comparison.is_read() => {
                Some(Instant::now())
            }
            State::Applied { cleanup_at } => {
                let regular = self.verify_at.min(self.count_at);
                let retry_at = self.refused_retry.map(|(at, _)| at);
                [cleanup_at, retry_at].into_iter().flatten().chain([regular]).min()
            }
            State::Failing { retry_at, .. } => Some(retry_at.min(self.count_at)),
        }
    }

    /// Whether members are still to join sets: then the next round follows at once.
    pub(super) fn has_members_left(&self) -> bool {
        self.members_waiting > 0 || self.engine.is_filling()
    }
}
