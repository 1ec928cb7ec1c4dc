//! Whether a report is current: whether the agent of the node keeps writing it.

use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{CURRENT, NodePolicyReportStatus};

/// An agent writes its report at least every 6 minutes. If a report is older, the agent has ended
/// or cannot reach the API server. The rest of the limit is for differences between clocks.
const SILENT_AFTER: Duration = Duration::from_mins(13);

impl NodePolicyReportStatus {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }

    /// How long ago the agent wrote this; `None` when it never did, zero when its clock is ahead.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let written = SystemTime::from(self.observed_at.as_ref()?.0);
        Some(now.duration_since(written).unwrap_or_default())
    }

    /// A sentence that says that the agent has stopped writing the report; `None` if it has not.
    #[must_use]
    pub fn silence(&self, now: SystemTime) -> Option<String> {
        let age = self.age(now);
        let is_silent = self.condition(CURRENT).is_some_and(|current| current.status == "False");
        if !is_silent && age.is_some_and(|age| age <= SILENT_AFTER) {
            return None;
        }
        let time =
            age.map_or_else(String::new, |age| format!(" for {} minutes", age.as_secs() / 60));
        Some(format!("its agent has not written a report{time}; see whether it runs"))
    }
}
