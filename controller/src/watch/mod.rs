//! Where the objects of a cluster come from.
//!
//! ```text
//! directory ───► dir ───┐
//!                       ├──► Event ──► bounded channel ──► the task that owns the engine
//! API server ──► kube ──┘
//! ```
//!
//! A source is something that sends [`Event`]s; what receives them does not know which source it
//! has. Nothing here decides what a policy means: the `crds` crate does.

pub mod dir;
pub mod kube;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::convert::Object;
use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::mpsc;

use portcullis_apiserver::client::{Access, AccessError};

/// What a source has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// One batch of real changes, to be applied before the next flush: never empty. No state
    /// between two changes of a batch was ever meant to be enforced.
    Changes(Vec<Object>),
    /// The first complete view has been delivered. Sent once.
    Synced,
    /// The first view has been delivered of all kinds but those that a cluster may lack and that cannot be
    /// read: the API server forbids it, or fails for long. Diagnostics name these. [`Event::Synced`] follows
    /// when they can be read.
    SyncedInPart,
    /// What is wrong with one origin of objects (a file, or an object of an API server) now: replaces what was said of it before,
    /// and none takes it back.
    Diagnostics(Arc<str>, Vec<Diagnostic>),
}

/// What a source sends at once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Batch {
    /// The objects that are another than before.
    pub changes: Vec<Object>,
    /// The origins of objects with which something else is wrong than before.
    pub diagnostics: Vec<(Arc<str>, Vec<Diagnostic>)>,
}

impl Batch {
    /// The same as events.
    pub fn into_events(self) -> impl Iterator<Item = Event> {
        let changes = Some(self.changes).filter(|changes| !changes.is_empty());
        let diagnostics = self.diagnostics.into_iter();
        changes
            .map(Event::Changes)
            .into_iter()
            .chain(diagnostics.map(|(origin, diagnostics)| Event::Diagnostics(origin, diagnostics)))
    }
}

/// A source, as the flag `--source` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `kube`: the API server.
    Kube,
    /// `dir:PATH`: a directory of manifests.
    Dir(PathBuf),
}

/// The text of a `--source` flag is not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no source; write kube or dir:PATH")]
pub struct UnknownSource(String);

/// A source cannot be watched at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory.
    #[error(transparent)]
    Dir(#[from] dir::StartError),
    /// The API server.
    #[error(transparent)]
    Kube(#[from] AccessError),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube => formatter.write_str("kube"),
            Self::Dir(path) => write!(formatter, "dir:{}", path.display()),
        }
    }
}

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "kube" => Ok(Self::Kube),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            _ => Err(UnknownSource(text.to_owned())),
        }
    }
}

impl Source {
    /// Starts to send events, from a thread of its own, until the receiver is dropped. The API
    /// server is reached by `access`; kinds that it lacks are looked for every `missing_kind_period`.
    ///
    /// # Errors
    /// When the source cannot be watched at all, for one when it does not exist.
    pub fn start(
        &self,
        access: &Access,
        missing_kind_period: Duration,
        events: mpsc::Sender<Event>,
    ) -> Result<(), StartError> {
        match self {
            Self::Kube => Ok(kube::start(access.clone(), missing_kind_period, events)?),
            Self::Dir(path) => Ok(dir::start(path, events)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_scheme() {
        assert_eq!("dir:/a:b".parse(), Ok(Source::Dir("/a:b".into())));
        assert_eq!("kube".parse(), Ok(Source::Kube));
        for bad in ["", "kube:", "dir", "dir:", "/a", "file:/a"] {
            assert_eq!(bad.parse::<Source>(), Err(UnknownSource(bad.to_owned())));
        }
    }
}
