//! How the agent uses the interfaces of pods.

use std::time::Duration;

use policy_engine::cidr::Family;
use tokio::time::Instant;
use tracing::{error, warn};

use super::{Agent, State, chain};
use crate::dataplane::Dataplane;
use crate::node::attach::Found;
use crate::node::boot::Marker;

/// How long the first apply waits for the interfaces of pods.
const INTERFACES_LIMIT: Duration = Duration::from_secs(1);

impl Agent {
    /// The same agent. After a reboot, it drops packets of pods until all objects are known: when
    /// `marker` is set but the kernel has no rules of Portcullis.
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

    /// Ends what drops packets of pods since the boot of the node, for all families
    /// except for the one whose policies could not be applied. Each comparison with the kernel tries it
    /// again: the service of the node may have been started again.
    pub(super) fn end_boot(failed: Option<Family>) {
        for family in Family::BOTH.into_iter().filter(|family| Some(*family) != failed) {
            if let Err(failure) = Dataplane::end_boot(family) {
                let failure = chain(&failure);
                error!(
                    error = failure,
                    ?family,
                    "failed to remove the table that drops packets of pods since the boot"
                );
            }
        }
    }

    /// Notes that all objects are known. The first apply waits for the interfaces of pods: rules of
    /// an earlier agent use them, and a restart must not change which packets pass.
    pub(super) fn loaded(&mut self) {
        // Nothing is lost: the first apply compiles the same state again.
        let _ = self.engine.flush();
        let asked = self.local_pods.as_ref().is_some_and(|local| local.ask(&self.engine));
        let wait = if asked { INTERFACES_LIMIT } else { Duration::ZERO };
        self.state = State::Loaded { apply_at: Instant::now() + wait };
    }

    /// Notes that all objects are known except those of kinds that are forbidden (RBAC). Rules of
    /// an earlier agent stay, because they may contain policies of these kinds. Without such rules,
    /// the known policies are enforced.
    pub(super) fn loaded_in_part(&mut self) {
        if self.state == State::Loading && (self.is_closed || self.dataplane.holds_nothing()) {
            self.loaded();
        }
    }

    /// Gives the dataplane the attachments of the known pods; returns whether they have changed.
    pub(super) fn attach(&mut self) -> bool {
        let local_pods = self.local_pods.as_mut();
        let given = local_pods.and_then(|local_pods| local_pods.attachments(&self.engine));
        let Some((attachments, diagnostics)) = given else { return false };
        self.report("extra-source-ranges".into(), diagnostics);
        self.dataplane.set_attachments(attachments)
    }

    /// Uses the interfaces of pods that were found.
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
                let interfaces = local_pods.interfaces();
                if let Err(failure) = self.dataplane.close(interfaces) {
                    let failure = chain(&failure);
                    error!(error = failure, "failed to drop packets of pods");
                }
            }
            // The result may be older than the request for these pods.
            State::Loaded { apply_at } if local_pods.knows_all(&self.engine) => {
                *apply_at = Instant::now();
            }
            _ => {}
        }
        self.report("interfaces".into(), diagnostics);
    }
}
