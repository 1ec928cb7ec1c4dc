//! The sources of a cluster's objects: a directory, or the API server.
//!
//! ```text
//! directory ───► dir ───┐
//!                       ├──► Event ──► bounded channel ──► the task that owns the engine
//! API server ──► kube ──┘
//! ```
//!
//! A source sends [`Event`]s; the receiver does not know which source it has. Sources never
//! interpret policies: the `crds` crate does.

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
use portcullis_apiserver::watch::Contacts;

/// A message of a source to the owner of the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// One batch of changes, never empty, to be applied before the next flush. No state between two
    /// changes of a batch may be enforced.
    Changes(Vec<Object>),
    /// The first complete view has been delivered. Sent once.
    Synced,
    /// The first complete view has been delivered, except for optional kinds that cannot be read
    /// because the API server forbids it or fails for long. Diagnostics name these kinds.
    /// [`Event::Synced`] follows when they can be read.
    SyncedInPart,
    /// All current diagnostics of one origin: a file, or an object of the API server. They replace
    /// the former diagnostics of the origin; an empty list removes them.
    Diagnostics(Arc<str>, Vec<Diagnostic>),
}

/// The changes and diagnostics that a source sends together.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Batch {
    /// The objects that were added, changed or removed.
    pub changes: Vec<Object>,
    /// The origins of objects whose diagnostics changed, with all their diagnostics.
    pub diagnostics: Vec<(Arc<str>, Vec<Diagnostic>)>,
}

impl Batch {
    /// The batch as events.
    pub fn into_events(self) -> impl Iterator<Item = Event> {
        let changes = Some(self.changes).filter(|changes| !changes.is_empty());
        let diagnostics = self.diagnostics.into_iter();
        changes
            .map(Event::Changes)
            .into_iter()
            .chain(diagnostics.map(|(origin, diagnostics)| Event::Diagnostics(origin, diagnostics)))
    }
}

/// Which objects a receiver needs. A source may send others too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Needs {
    /// All objects, except for pods that have ended.
    All,
    /// The objects that the agent of a node needs: of Nodes its own, and all others only while a
    /// policy names nodes; the addresses of the API server only while a policy allows connections
    /// to it; of the pods of other nodes those that have an address. Until these objects are
    /// known, a policy that needs them is sent in a form that is decided closed.
    OfNode {
        /// The name of the node.
        name: String,
        /// How long such objects stay watched after the last policy that needs them has gone.
        nodes_kept: Duration,
    },
}

/// A source, from the flag `--source`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `kube`: the API server.
    Kube,
    /// `dir:PATH`: a directory of manifests.
    Dir(PathBuf),
}

/// A text of the flag `--source` that cannot be parsed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no source; write kube or dir:PATH")]
pub struct UnknownSource(String);

/// Why a source cannot be watched at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be watched.
    #[error(transparent)]
    Dir(#[from] dir::StartError),
    /// The client of the API server cannot be created.
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
    /// Starts a thread that sends the objects that `needs` asks for until the receiver is dropped.
    /// `access` gives access to the API server; kinds that it lacks are searched every
    /// `missing_kind_period`. `contacts` records when the API server sends something.
    ///
    /// # Errors
    /// When the source cannot be watched at all, for example because it does not exist.
    pub fn start(
        &self,
        access: &Access,
        needs: Needs,
        missing_kind_period: Duration,
        contacts: &Contacts,
        events: mpsc::Sender<Event>,
    ) -> Result<(), StartError> {
        match self {
            Self::Kube => {
                let contacts = contacts.clone();
                Ok(kube::start(access.clone(), needs, missing_kind_period, contacts, events)?)
            }
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
