//! Why a watch did not go on, from what the client and the API server said.

use std::fmt;
use std::time::Duration;

use kube::core::Status;

use super::Closed;
use super::outage::Reason;

/// The server's own wish to wait is heard up to here.
const LONGEST_WISH: Duration = Duration::from_mins(1);

/// Why a watch did not go on.
pub(super) enum Failure {
    /// The versions that it would go on from are gone (410): a list is needed.
    Expired,
    /// It is to be tried again.
    Retry { reason: Reason, error: String, wish: Option<Duration> },
    /// Nobody listens any more.
    Closed,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Expired => "the version has expired (410)",
            Self::Retry { error, .. } => error,
            Self::Closed => "the receiver is gone",
        })
    }
}

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

pub(super) fn request_failure(error: kube::core::request::Error) -> Failure {
    failure(&kube::Error::BuildRequest(error))
}

pub(super) fn failure(error: &kube::Error) -> Failure {
    let reason = match error {
        kube::Error::Api(status) => return refusal(status),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Reason::Answer,
        _ => Reason::Connection,
    };
    Failure::Retry { reason, error: chain(error), wish: None }
}

pub(super) fn silence(limit: Duration) -> Failure {
    let error = format!("nothing was heard for {} s", limit.as_secs());
    Failure::Retry { reason: Reason::Connection, error, wish: None }
}

/// What an API server answers when it does not do what it is asked for.
pub(super) fn refusal(status: &Status) -> Failure {
    if status.code == 410 {
        return Failure::Expired;
    }
    // With 429 and 503 the server may say when it wants to be asked again.
    let wish = status.details.as_ref().map(|details| details.retry_after_seconds.into());
    let wish = wish.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WISH));
    let error = format!("{} {}: {}", status.code, status.reason, status.message);
    Failure::Retry { reason: Reason::Status(status.code), error, wish }
}

/// An error with all its causes, each once, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
