//! What the node does for packets, as one value: the report and the probes derive from it.

use std::time::Duration;

use tokio::time::Instant;

use crate::dataplane::conflict::{Conflict, Detected};
use crate::node::status::{Phase, Status};

/// What the node does for packets now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State<'a> {
    /// It is not known yet; an earlier agent's rules may be there.
    Loading,
    /// The kernel does what the policies say.
    Enforcing,
    /// No Node has the name of this one: no pod of it is known, so nothing is enforced.
    NodeUnknown {
        /// What is wrong and what to do, in one line.
        why: &'a str,
    },
    /// Our rules may be in the kernel, and packets can get past them or be judged otherwise.
    Bypassed {
        /// The most important reason.
        conflict: Conflict,
        /// All reasons.
        all: &'a [Detected],
    },
    /// The kernel does what the last good round applied.
    Failing {
        /// What went wrong, in one line.
        error: &'a str,
        /// Since when.
        since: Instant,
    },
}

impl Status {
    /// What the node does for packets now.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        // Until it is back, no packet comes to the rules.
        let displaced = Some(&*self.displaced).filter(|displaced| !displaced.is_empty());
        let conflicts = self.examination.as_ref().map(|found| found.conflicts.as_slice());
        let conflicts = displaced.or(conflicts);
        if let (Some(why), Phase::InForce | Phase::Failing { .. }) =
            (&self.node_unknown, &self.phase)
        {
            return State::NodeUnknown { why };
        }
        match (&self.phase, conflicts) {
            (Phase::Loading, _) | (Phase::InForce, None) => State::Loading,
            // What can be bypassed is no better for having been applied once.
            (_, Some(all @ [first, ..])) => State::Bypassed { conflict: first.conflict, all },
            (Phase::Failing { error, since, .. }, _) => State::Failing { error, since: *since },
            (Phase::InForce, Some([])) => State::Enforcing,
        }
    }

    /// Whether one family is enforced, and only the other one is not.
    fn is_partial(&self) -> bool {
        matches!(self.phase, Phase::Failing { family: Some(_), .. })
    }

    /// Whether policies are enforced, and a failure since has not lasted longer than `patience`.
    /// When not: why, in one line.
    ///
    /// # Errors
    /// Says what is not as it should be.
    pub fn ready(&self, patience: Duration) -> Result<(), String> {
        match self.state() {
            State::Failing { error, .. } if self.is_partial() && self.last_success.is_none() => {
                Err(error.to_owned())
            }
            _ if self.last_success.is_none() => Err("nothing was put in force yet".to_owned()),
            State::Loading => Err("the node was not examined for conflicts yet".to_owned()),
            State::NodeUnknown { why } => Err(why.to_owned()),
            State::Bypassed { all, .. } => Err(in_one_line(all)),
            State::Failing { error, since } if since.elapsed() > patience => {
                Err(format!("failing for {} s: {error}", since.elapsed().as_secs()))
            }
            State::Enforcing | State::Failing { .. } => Ok(()),
        }
    }
}

/// Conflicts with their names, what was found and what to do, in one line.
#[must_use]
pub fn in_one_line(conflicts: &[Detected]) -> String {
    conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join(". ")
}

#[cfg(test)]
mod tests {
    use policy_engine::cidr::Family;

    use super::*;
    use crate::dataplane::TableName;
    use crate::dataplane::applied::HookPlaces;
    use crate::dataplane::drift::DisplacedHook;
    use crate::dataplane::examine::Examination;
    use crate::dataplane::preflight::{Finding, Severity};
    use crate::dataplane::rule::Hook;
    use crate::node::metrics::Metrics;
    use crate::node::publisher::Publisher;
    use crate::node::status::Round;
    use crate::serve::pulse::Pulse;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn publisher() -> Publisher {
        Publisher::new(Metrics::default(), Pulse::default())
    }

    fn round() -> Round {
        Round { selection: None, rulesets: 0, sets: 0, apply: Duration::ZERO, latency: None }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_ready_once_in_force_and_until_it_has_failed_for_long() {
        let mut publisher = publisher();
        publisher.examined(&Examination::default());
        let status = publisher.subscribe();
        assert!(status.borrow().ready(PATIENCE).is_err(), "nothing is in force");
        publisher.failed("no tool", None, Instant::now());
        assert!(status.borrow().ready(PATIENCE).is_err(), "and nothing ever was");
        publisher.in_force(round());
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()));
        let received = Instant::now();
        tokio::time::advance(PATIENCE / 3).await;
        publisher.failed("no tool", None, received);
        tokio::time::advance(PATIENCE * 2 / 3).await;
        publisher.failed("no tool", None, Instant::now());
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()), "for a moment only");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(status.borrow().ready(PATIENCE), Err("failing for 31 s: no tool".to_owned()));
        publisher.verified(0);
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()));
    }

    #[tokio::test]
    async fn an_agent_that_enforces_one_family_from_the_start_is_not_ready_and_names_the_other() {
        let publisher = publisher();
        let status = publisher.subscribe();
        publisher.failed("no IPv6", Some(Family::V6), Instant::now());
        assert_eq!(status.borrow().ready(PATIENCE), Err("no IPv6".to_owned()));
    }

    #[tokio::test]
    async fn an_agent_is_not_ready_while_a_hook_is_displaced() {
        let mut publisher = publisher();
        publisher.examined(&Examination::default());
        publisher.in_force(round());
        let status = publisher.subscribe();
        let places = HookPlaces::default();
        let (family, table, hook) = (Family::V4, TableName::Mangle, Hook::Forward);
        publisher.displaced(&[DisplacedHook { family, table, hook, places }]);
        let why = status.borrow().ready(PATIENCE).expect_err("at once, without patience");
        assert!(
            why.starts_with("HookDisplaced: the jump to PORTCULLIS-FORWARD is missing"),
            "{why}"
        );
        publisher.verified(0);
        publisher.examined(&Examination::default());
        assert!(status.borrow().ready(PATIENCE).is_err(), "it was not looked at again");
        publisher.displaced(&[]);
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()));
    }

    #[tokio::test]
    async fn an_agent_whose_node_does_not_exist_is_not_ready_whatever_else_is_wrong() {
        let mut publisher = publisher();
        let status = publisher.subscribe();
        publisher.in_force(round());
        publisher.node_unknown(Some("no Node".into()));
        assert_eq!(status.borrow().ready(PATIENCE), Err("no Node".to_owned()), "not examined");
        publisher.examined(&Examination::default());
        publisher.failed("no tool", None, Instant::now());
        assert_eq!(status.borrow().ready(PATIENCE), Err("no Node".to_owned()), "failing");
        publisher.verified(0);
        publisher.node_unknown(None);
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()));
    }

    #[tokio::test]
    async fn an_agent_is_not_ready_on_a_node_with_a_conflict_or_that_was_not_examined() {
        let mut publisher = publisher();
        let status = publisher.subscribe();
        publisher.in_force(round());
        assert!(status.borrow().ready(PATIENCE).is_err_and(|why| why.contains("not examined")));
        let finding = Finding {
            severity: Severity::Error,
            what: "found".to_owned(),
            what_to_do: "do".to_owned(),
        };
        let conflicts = vec![Detected { conflict: Conflict::KubeProxyIpvs, finding }];
        publisher.examined(&Examination { conflicts, ..Examination::default() });
        let why = "KubeProxyIpvs: found; do".to_owned();
        assert_eq!(status.borrow().ready(PATIENCE), Err(why), "at once, without patience");
        publisher.examined(&Examination::default());
        assert_eq!(status.borrow().ready(PATIENCE), Ok(()));
    }
}
