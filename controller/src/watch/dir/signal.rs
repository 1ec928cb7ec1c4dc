//! Converts events of inotify to signals: paths that may have to be read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};

/// One change below the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    /// The file or directory at the path is complete, or was removed: read the path.
    Settled(PathBuf),
    /// A file was created: its writer may not have finished.
    Created(PathBuf),
    /// The mode or the number of links changed.
    Attributes(PathBuf),
    /// Renamed from this path; if the new path is in a watched directory, a [`Signal::MovedIn`]
    /// with the same cookie follows.
    MovedAway(PathBuf, usize),
    /// Renamed to this path.
    MovedIn(PathBuf, usize),
    /// A watched directory itself was moved or deleted.
    SelfMoved(PathBuf),
    /// The watcher failed.
    Failed(String),
}

impl Signal {
    /// The signal of `event`; `None` for events without effect (reads, and writes in progress).
    fn of(event: &notify::Event) -> Option<Self> {
        let path = event.paths.first()?.clone();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => {
                Some(Self::Settled(path))
            }
            EventKind::Create(CreateKind::Folder) => Some(Self::Settled(path)),
            EventKind::Create(_) => Some(Self::Created(path)),
            EventKind::Modify(ModifyKind::Metadata(_)) => Some(Self::Attributes(path)),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => match event.tracker() {
                Some(cookie) => Some(Self::MovedAway(path, cookie)),
                None => Some(Self::SelfMoved(path)),
            },
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                Some(Self::MovedIn(path, event.tracker().unwrap_or_default()))
            }
            _ => None,
        }
    }
}

/// Passes signals from the watcher's thread to ours. Never blocks, because our thread may wait for
/// the watcher's thread at the same time.
pub(super) struct Handler {
    pub(super) signals: SyncSender<Signal>,
    /// Set when signals were lost: everything has to be read again.
    pub(super) overflowed: Arc<AtomicBool>,
}

impl notify::EventHandler for Handler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let signal = match &event {
            Ok(event) if event.need_rescan() => {
                self.overflowed.store(true, Ordering::Release);
                // Any signal: it only wakes the receiver.
                Some(Signal::Settled(PathBuf::new()))
            }
            Ok(event) => Signal::of(event),
            Err(error) => Some(Signal::Failed(error.to_string())),
        };
        if let Some(signal) = signal
            && self.signals.try_send(signal).is_err()
        {
            self.overflowed.store(true, Ordering::Release);
        }
    }
}
