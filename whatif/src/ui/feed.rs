//! What the page shows: the last status, the last denials, and what could not be read. All of it is
//! bounded, however long the page is served.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

use crate::denials::Record;

/// How many denials are kept: the last ones.
const DENIALS_MAX: usize = 1_000;
/// How many failures are kept: the last ones.
const FAILURES_MAX: usize = 20;

/// What the readers of a cluster found, for the pages that ask.
#[derive(Default)]
pub struct Feed {
    /// Which cluster it is, in words.
    cluster: String,
    state: Mutex<State>,
    asked: Condvar,
}

#[derive(Default)]
struct State {
    denials: VecDeque<Record>,
    /// How many denials there were, with those that are not kept.
    denials_total: u64,
    status: Value,
    /// How many times the status changed.
    status_number: u64,
    /// When the status was read.
    status_time: Option<String>,
    /// Why the last read of the status failed.
    status_failure: Option<String>,
    failures: VecDeque<Failure>,
    is_asked: bool,
}

/// What could not be read, and when it was tried last.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    time: String,
    message: String,
}

/// What a page has: it gets what is newer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seen {
    /// The `statusNumber` of the last answer; 0 at first.
    pub status: u64,
    /// The `denialsTotal` of the last answer; 0 at first.
    pub denials: u64,
}

/// The answer to a page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct News<'a> {
    cluster: &'a str,
    status_number: u64,
    status_time: &'a Option<String>,
    status_failure: &'a Option<String>,
    /// `kind: Status`; absent when the page has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a Value>,
    denials_total: u64,
    /// The denials that the page does not have, as far as they are kept: the oldest first.
    denials: Vec<&'a Record>,
    failures: &'a VecDeque<Failure>,
}

impl Feed {
    /// A feed without any news of this cluster.
    #[must_use]
    pub fn new(cluster: String) -> Self {
        Self { cluster, ..Self::default() }
    }

    /// Takes what was read about policies and nodes.
    pub fn status(&self, status: Value, time: String) {
        let mut state = self.state();
        if state.status != status || state.status_number == 0 {
            state.status = status;
            state.status_number += 1;
        }
        state.status_time = Some(time);
        state.status_failure = None;
    }

    /// Takes why the status could not be read. The last one stays.
    pub fn status_failure(&self, message: String) {
        self.state().status_failure = Some(message);
    }

    /// Takes a denial.
    pub fn denial(&self, record: Record) {
        let mut state = self.state();
        state.denials_total += 1;
        state.denials.push_back(record);
        if state.denials.len() > DENIALS_MAX {
            state.denials.pop_front();
        }
    }

    /// Takes what could not be read of the logs. A failure that comes again is listed once.
    pub fn failure(&self, message: String, time: String) {
        let failures = &mut self.state().failures;
        failures.retain(|failure| failure.message != message);
        failures.push_back(Failure { time, message });
        if failures.len() > FAILURES_MAX {
            failures.pop_front();
        }
    }

    /// The JSON of what is newer than what a page has seen.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn news(&self, seen: Seen) -> serde_json::Result<String> {
        let mut state = self.state();
        state.is_asked = true;
        self.asked.notify_all();
        let new = state.denials_total.saturating_sub(seen.denials);
        let old = state.denials.len().saturating_sub(usize::try_from(new).unwrap_or(usize::MAX));
        let is_new = state.status_number > seen.status;
        serde_json::to_string(&News {
            cluster: &self.cluster,
            status_number: state.status_number,
            status_time: &state.status_time,
            status_failure: &state.status_failure,
            status: is_new.then_some(&state.status),
            denials_total: state.denials_total,
            denials: state.denials.iter().skip(old).collect(),
            failures: &state.failures,
        })
    }

    /// Waits until a page asks for news: a cluster that nobody looks at is not read.
    pub fn wait_until_asked(&self) {
        let mut state = self.state();
        while !state.is_asked {
            state = self.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_asked = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(number: usize) -> Record {
        let line = format!(r#"INFO denied verdict="Denied" source="shop/web-{number}""#);
        Record::read(&line).expect("a record")
    }

    fn news(feed: &Feed, status: u64, denials: u64) -> Value {
        let text = feed.news(Seen { status, denials }).expect("JSON");
        serde_json::from_str(&text).expect("JSON")
    }

    fn sources(news: &Value) -> Vec<&str> {
        let denials = news["denials"].as_array().expect("a list");
        denials.iter().filter_map(|denial| denial["source"].as_str()).collect()
    }

    #[test]
    fn a_page_gets_each_denial_once_and_a_new_page_the_last_thousand() {
        let feed = Feed::default();
        (0..3).for_each(|number| feed.denial(record(number)));
        assert_eq!(sources(&news(&feed, 0, 0)), ["shop/web-0", "shop/web-1", "shop/web-2"]);
        assert_eq!(sources(&news(&feed, 0, 2)), ["shop/web-2"]);
        assert_eq!(news(&feed, 0, 3)["denialsTotal"], 3);
        assert!(sources(&news(&feed, 0, 3)).is_empty());
        // A page of an earlier process has seen more than there was.
        assert!(sources(&news(&feed, 0, 9)).is_empty());

        (3..5_000).for_each(|number| feed.denial(record(number)));
        for seen in [0, 3] {
            let late = news(&feed, 0, seen);
            let found = sources(&late);
            assert_eq!((found.len(), late["denialsTotal"].as_u64()), (1_000, Some(5_000)));
            assert_eq!((found[0], found[999]), ("shop/web-4000", "shop/web-4999"));
        }
    }

    #[test]
    fn the_status_is_sent_when_it_changes_and_kept_when_a_read_fails() {
        let feed = Feed::default();
        assert_eq!(news(&feed, 0, 0)["statusTime"], Value::Null);
        feed.status(json!({"nodes": []}), "t1".to_owned());
        let first = news(&feed, 0, 0);
        assert_eq!((&first["status"], &first["statusNumber"]), (&json!({"nodes": []}), &json!(1)));
        feed.status(json!({"nodes": []}), "t2".to_owned());
        let same = news(&feed, 1, 0);
        assert_eq!((same.get("status"), &same["statusTime"]), (None, &json!("t2")));
        feed.status_failure("the API server did not answer".to_owned());
        let failed = news(&feed, 0, 0);
        assert_eq!(failed["statusFailure"], "the API server did not answer");
        assert_eq!(
            (&failed["status"], &failed["statusTime"]),
            (&json!({"nodes": []}), &json!("t2"))
        );
        feed.status(json!({"nodes": [1]}), "t3".to_owned());
        let next = news(&feed, 1, 0);
        assert_eq!((&next["statusFailure"], &next["statusNumber"]), (&Value::Null, &json!(2)));
    }

    #[test]
    fn a_failure_is_listed_once_and_only_the_last_ones_are() {
        let feed = Feed::default();
        for number in 0..100 {
            feed.failure(format!("log {}", number % 30), format!("t{number}"));
        }
        feed.failure("log 9".to_owned(), "t100".to_owned());
        let found = news(&feed, 0, 0)["failures"].as_array().expect("a list").clone();
        assert_eq!(found.len(), FAILURES_MAX);
        assert_eq!(found.last(), Some(&json!({"time": "t100", "message": "log 9"})));
        let of_nine = found.iter().filter(|failure| failure["message"] == "log 9");
        assert_eq!(of_nine.count(), 1);
    }

    #[test]
    fn the_cluster_is_read_only_when_a_page_asks() {
        let feed = Feed::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| feed.wait_until_asked());
            assert!(!reader.is_finished());
            news(&feed, 0, 0);
            reader.join().expect("it ends");
        });
        assert!(!feed.state().is_asked, "each question is one read");
    }
}
