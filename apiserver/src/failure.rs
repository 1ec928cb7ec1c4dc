//! Why a request failed, from the error of the client or the answer of the API server.

use std::time::Duration;

use kube::core::Status;
use tokio::time::timeout;

/// The longest `Retry-After` that is respected; a longer one is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Why a request failed. Its text is one line: the server's answer, or else the client's error with
/// all its causes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// The kind of the failure.
    pub reason: Reason,
    /// The text of the failure.
    pub error: String,
    /// How long the server asks to wait, in an answer of status 429 or 503; zero otherwise.
    pub retry_after: Duration,
}

/// The kind of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The server could not be reached, or the connection was lost.
    Connection,
    /// The server refused the request with this HTTP status.
    Status(u16),
    /// The server's answer is not what was requested.
    Answer,
}

impl Failure {
    /// A failure without `Retry-After`.
    #[must_use]
    pub fn new(reason: Reason, error: impl Into<String>) -> Self {
        Self { reason, error: error.into(), retry_after: Duration::ZERO }
    }
}

impl From<&kube::Error> for Failure {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(&**status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::new(Reason::Answer, chain(error))
            }
            _ => Self::new(Reason::Connection, chain(error)),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::from(&error)
    }
}

impl From<kube::core::request::Error> for Failure {
    fn from(error: kube::core::request::Error) -> Self {
        Self::from(&kube::Error::BuildRequest(error))
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        let error = format!("{} {}: {}", status.code, status.reason, status.message.trim());
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let retry_after = Duration::from_secs(seconds.into()).min(RETRY_AFTER_MAX);
        Self { retry_after, ..Self::new(Reason::Status(status.code), error) }
    }
}

/// Sends a request and waits for all of its answer, for at most `limit`.
///
/// # Errors
/// When there is no answer in time, or it is not what was requested.
pub async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    let Ok(answer) = timeout(limit, request).await else {
        let error = format!("the API server did not answer within {} s", limit.as_secs());
        return Err(Failure::new(Reason::Connection, error));
    };
    Ok(answer?)
}

/// Whether the API server answered with this HTTP status.
#[must_use]
pub fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
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
