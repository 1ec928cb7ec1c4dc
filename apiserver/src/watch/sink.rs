//! What a watch hands its events to.

use portcullis_crds::diagnostic::Diagnostic;
use portcullis_crds::lean::Lean;

use super::Event;

/// What takes the events of a watch.
pub trait Sink<K>: Send {
    /// Takes what happened, in order, as much at once as was there.
    ///
    /// # Errors
    /// When nobody listens any more: that ends the watch.
    fn take(
        &mut self,
        events: Vec<Event<Lean<K>>>,
    ) -> impl Future<Output = Result<(), Closed>> + Send;

    /// Takes what is wrong with the kind itself, which `origin` names; it replaces what was wrong
    /// with it before.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn diagnose(
        &mut self,
        origin: String,
        found: Vec<Diagnostic>,
    ) -> impl Future<Output = Result<(), Closed>> + Send;

    /// A kind that the cluster may lack cannot be read, and none of it was read yet: nothing has to wait
    /// for it any longer. `diagnose` came before.
    ///
    /// # Errors
    /// As [`Sink::take`].
    fn unreadable(&mut self) -> impl Future<Output = Result<(), Closed>> + Send {
        std::future::ready(Ok(()))
    }

    /// The server has an older state than it had, as after a restore of etcd from a backup: it gives the same
    /// versions to other states of objects. What is listed next is news, whatever its version is.
    fn restored(&mut self) {}

    /// Whether every kind that all clusters have was read, so that only kinds that the cluster may lack
    /// hold up what takes the events.
    fn waits_for_optional_kinds(&self) -> bool {
        false
    }

    /// The number of objects of the kind that this sink knows; `None` for a sink that does not count.
    fn known(&self) -> Option<usize>;
}

/// Nobody listens any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;
