//! Since when the API server forbids to read a kind, and what is reported of it.

use std::time::Duration;

use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;
use tokio::time::Instant;

use crate::failure::{Failure, Reason};

/// An API server that starts forbids everything for a moment. After this time it is meant.
const MEANT_AFTER: Duration = Duration::from_secs(2);

/// The refusals of one kind since it could be read last.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    since: Option<Instant>,
    /// Whether it is reported at present.
    is_reported: bool,
}

impl Refusal {
    /// Records a failure. Returns what to report, once: `is_first`, no object of the kind was read.
    pub(super) fn failed(
        &mut self,
        kind: &str,
        failure: &Failure,
        is_first: bool,
    ) -> Option<Diagnostic> {
        if failure.reason != Reason::Status(403) {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.is_reported || since.elapsed() < MEANT_AFTER {
            return None;
        }
        self.is_reported = true;
        let effect = if is_first {
            "no object of this kind is known, so none is enforced"
        } else {
            "the objects that were known before stay enforced, and changes of them are not applied"
        };
        Some(Diagnostic {
            severity: Severity::Error,
            source: None,
            about: About::Unread(kind.to_owned()),
            field: FieldPath::default(),
            message: format!(
                "{}: {effect}; grant the agent the permission to list and watch this kind, as deploy/ \
                 does",
                failure.error
            ),
        })
    }

    /// The kind can be read. Returns whether a refusal was reported, which is over now.
    pub(super) fn over(&mut self) -> bool {
        std::mem::take(self).is_reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_once_when_it_lasts_and_not_during_a_start_of_the_server() {
        let mut refusal = Refusal::default();
        let forbidden = Failure::new(Reason::Status(403), "403 Forbidden: no");
        let unavailable = Failure::new(Reason::Status(503), "503");
        let mut reports = |failure, is_first| refusal.failed("Pod", failure, is_first);
        assert_eq!(reports(&forbidden, true), None);
        tokio::time::advance(MEANT_AFTER / 2).await;
        assert_eq!(reports(&unavailable, true), None);
        tokio::time::advance(MEANT_AFTER).await;
        assert_eq!(reports(&forbidden, true), None, "it was something else in between");
        tokio::time::advance(MEANT_AFTER).await;
        let found = reports(&forbidden, true).expect("it lasts").to_string();
        let expected = "error: Pod: 403 Forbidden: no: no object of this kind is known";
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(reports(&forbidden, true), None, "it is reported");
        assert!(refusal.over());
        assert!(!refusal.over());
        assert_eq!(refusal.failed("Pod", &forbidden, false), None);
        tokio::time::advance(MEANT_AFTER).await;
        let found = refusal.failed("Pod", &forbidden, false).expect("again").to_string();
        assert!(found.contains("that were known before stay enforced"), "{found}");
    }
}
