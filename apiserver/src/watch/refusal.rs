//! Since when a kind cannot be read, and what is reported.

use std::time::Duration;

use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;
use tokio::time::Instant;

use crate::failure::{Failure, Reason};

/// An API server that starts forbids all requests for a moment. A refusal is reported after this
/// time.
const REPORTED_AFTER: Duration = Duration::from_secs(2);

/// How long a sink that waits only for kinds that the cluster may lack waits for one that fails. An
/// API server that starts, or a conversion webhook that restarts, answers before that.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// The failures to read one kind since it could be read last.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// Since when the API server forbids it.
    forbidden: Option<Instant>,
    /// Since when the sink waits only for kinds such as this one, whatever the error is.
    held_up: Option<Instant>,
    /// Whether the refusal is reported at present.
    is_reported: bool,
}

impl Refusal {
    /// Records that reading the kind failed. Returns what to report, once. `is_first`: no object of
    /// the kind was read. `holds_up`: the sink waits only for kinds such as this one.
    pub(super) fn failed(
        &mut self,
        kind: &str,
        failure: &Failure,
        is_first: bool,
        holds_up: bool,
    ) -> Option<Diagnostic> {
        let is_forbidden = failure.reason == Reason::Status(403);
        let lasts = |since: &mut Option<Instant>, is_on: bool, limit| {
            *since = since.filter(|_| is_on).or_else(|| is_on.then(Instant::now));
            since.is_some_and(|since| since.elapsed() >= limit)
        };
        let has_lasted = lasts(&mut self.forbidden, is_forbidden, REPORTED_AFTER);
        let is_given_up = lasts(&mut self.held_up, holds_up, GIVEN_UP_AFTER);
        if self.is_reported || !(has_lasted || is_given_up) {
            return None;
        }
        self.is_reported = true;
        let effect = if is_first {
            "no object of this kind is known, so none is enforced"
        } else {
            "the objects that were known before stay enforced, and changes of them are not applied"
        };
        let remedy = if is_forbidden {
            "grant the agent the permission to list and watch this kind, as deploy/ does"
        } else {
            "they are read as soon as the API server answers"
        };
        Some(Diagnostic {
            severity: Severity::Error,
            source: None,
            about: About::Unread(kind.to_owned()),
            field: FieldPath::default(),
            message: format!("{}: {effect}; {remedy}", failure.error),
        })
    }

    /// Records that the kind can be read. Returns whether a refusal was reported until now.
    pub(super) fn over(&mut self) -> bool {
        std::mem::take(self).is_reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> Failure {
        Failure::new(Reason::Status(403), "403 Forbidden: no")
    }

    fn unavailable() -> Failure {
        Failure::new(Reason::Status(503), "503")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_once_when_it_lasts_and_not_during_a_start_of_the_server() {
        let mut refusal = Refusal::default();
        let (forbidden, unavailable) = (forbidden(), unavailable());
        let mut reports = |failure, is_first| refusal.failed("Pod", failure, is_first, false);
        assert_eq!(reports(&forbidden, true), None);
        tokio::time::advance(REPORTED_AFTER / 2).await;
        assert_eq!(reports(&unavailable, true), None);
        tokio::time::advance(REPORTED_AFTER).await;
        assert_eq!(reports(&forbidden, true), None, "it was something else in between");
        tokio::time::advance(REPORTED_AFTER).await;
        let found = reports(&forbidden, true).expect("it lasts").to_string();
        let expected = "error: Pod: 403 Forbidden: no: no object of this kind is known";
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(reports(&forbidden, true), None, "it is reported");
        assert!(refusal.over());
        assert!(!refusal.over());
        assert_eq!(refusal.failed("Pod", &forbidden, false, false), None);
        tokio::time::advance(REPORTED_AFTER).await;
        let found = refusal.failed("Pod", &forbidden, false, false).expect("again").to_string();
        assert!(found.contains("that were known before stay enforced"), "{found}");
    }

    #[tokio::test(start_paused = true)]
    async fn any_failure_is_reported_when_it_holds_up_others_for_long() {
        let mut refusal = Refusal::default();
        let mut reports = |holds_up| refusal.failed("Pod", &unavailable(), true, holds_up);
        for _ in 0..10 {
            assert_eq!(reports(false), None, "others are not known either");
            tokio::time::advance(GIVEN_UP_AFTER).await;
        }
        assert_eq!(reports(true), None, "others are known since a moment ago");
        tokio::time::advance(GIVEN_UP_AFTER / 2).await;
        assert_eq!(reports(true), None);
        tokio::time::advance(GIVEN_UP_AFTER / 2).await;
        let found = reports(true).expect("it lasts").to_string();
        let expected =
            "error: Pod: 503: no object of this kind is known, so none is enforced; they are read";
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(reports(true), None, "it is reported");
        assert!(refusal.over());
        assert_eq!(refusal.failed("Pod", &unavailable(), true, true), None, "it begins again");
    }
}
