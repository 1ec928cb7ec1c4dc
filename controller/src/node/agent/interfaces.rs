//! What the agent does with the interfaces of pods.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::{Agent, State, chain};
use crate::node::attach::Found;
use crate::node::boot::Marker;

/// How long the first rules wait for the interfaces of pods.
const INTERFACES_LIMIT: Duration = Duration::from_secs(1);

impl Agent {
    /// The same, dropping packets of pods until all objects are known, if nothing of ours is in the
    /// kernel although `marker` is set: after a reboot.
    #[must_use]
    pub fn closed_after_reboot(self, marker: Marker) -> Self {
        let is_closed = marker.is_set() && self.dataplane.holds_nothing();
        if is_closed {
            warn!(
                "there are no rules of Portcullis although there were, as after a reboot; packets of \
                 pods are dropped until all objects are known"
            );
        }
        Self { marker, is_closed, ..self }
    }

    /// All objects are known. The first rules are to know the interfaces of pods: an earlier agent's
    /// do, and nothing may pass, or be dropped, because this one begins.
    pub(super) fn loaded(&mut self) {
        // Compiled once more by the first apply, from the same state: nothing is lost.
        let _ = self.engine.flush();
        let asked = self.local_pods.as_ref().is_some_and(|local| local.ask(&self.engine));
        let wait = if asked { INTERFACES_LIMIT } else { Duration::ZERO };
        self.state = State::Loaded { apply_at: Instant::now() + wait };
    }

    /// All objects are known but those of kinds that may not be read. Where rules of an earlier run are
    /// in the kernel, they may hold policies of these kinds: they stay. Elsewhere, everything that is
    /// known is better than nothing.
    pub(super) fn loaded_in_part(&mut self) {
        if self.state == State::Loading && (self.is_closed || self.dataplane.holds_nothing()) {
            self.loaded();
        }
    }

    /// Gives the dataplane the attachments of the pods that are known; whether that is news for it.
    pub(super) fn attach(&mut self) -> bool {
        let local_pods = self.local_pods.as_mut();
        let given = local_pods.and_then(|local_pods| local_pods.attachments(&self.engine));
        let Some((attachments, diagnostics)) = given else { return false };
        self.report("extra-source-ranges".into(), diagnostics);
        self.dataplane.set_attachments(attachments)
    }

    /// Takes over what was found about the interfaces of pods.
    pub(super) fn attached(&mut self, found: Found) {
        let Some(local_pods) = &mut self.local_pods else { return };
        let (changes, diagnostics) = local_pods.take(found);
        if !changes.is_empty() {
            self.oldest.get_or_insert_with(Instant::now);
        }
        for change in changes {
            self.connections.note(self.engine.world(), &change);
            self.engine.apply(change);
        }
        match &mut self.state {
            State::Loading if self.is_closed => {
                let interfaces = local_pods.pod_interfaces();
                if let Err(failure) = self.dataplane.close(interfaces) {
                    let failure = chain(&failure);
                    error!(error = failure, "failed to drop packets of pods");
                }
            }
            // It may be a result of before the pods were asked for.
            State::Loaded { apply_at } if local_pods.knows_all(&self.engine) => {
                *apply_at = Instant::now();
            }
            _ => {}
        }
        self.report("interfaces".into(), diagnostics);
    }
}
