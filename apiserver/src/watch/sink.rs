//! The receiver of the events of a watch.

use portcullis_crds::diagnostic::Diagnostic;
use portcullis_crds::lean::Lean;

use super::Event;

/// Receives the events of a watch.
pub trait Sink<K>: Send {
    /// Takes a batch of events, in order.
    ///
    /// # Errors
    /// When the receiver is closed: that ends the watch.
    fn take(
        &mut self,
        events: Vec<Event<Lean<K>>>,
    ) -> impl Future<Output = Result<(), Closed>> + Send;

    /// Replaces the diagnostics about the kind itself, which `origin` names.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn diagnose(
        &mut self,
        origin: String,
        found: Vec<Diagnostic>,
    ) -> impl Future<Output = Result<(), Closed>> + Send;

    /// Ends the wait for a kind that the cluster may lack: it cannot be read, and no object of it
    /// was read yet. [`Sink::diagnose`] is called before.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn unreadable(&mut self) -> impl Future<Output = Result<(), Closed>> + Send {
        std::future::ready(Ok(()))
    }

    /// Records that the server has an older state than before, as after a restore of etcd from a
    /// backup. It gives the same versions to other states of objects, so that all objects of the
    /// next list count as changed.
    fn restored(&mut self) {}

    /// Whether every kind that all clusters have was read, so that the sink waits only for kinds
    /// that the cluster may lack.
    fn waits_for_optional_kinds(&self) -> bool {
        false
    }

    /// The number of objects of the kind that this sink knows; `None` for a sink that does not count.
    fn known(&self) -> Option<usize>;
}

/// The receiver of the events is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;
