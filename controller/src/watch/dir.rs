//! A directory of manifests as a source: `*.yaml`, `*.yml` and `*.json`, recursively.
//!
//! ```text
//! inotify ──signal──► paths to read ──► read ──► DirState ──flush──► one batch of events
//! ```
//!
//! - A directory is watched before it is read, so no change is missed in between.
//! - A file is read when its writer closes it or renames it into place, never while it is written.
//!   Changes that are already queued become one batch, without waiting for more.
//! - A rename within the directory is one batch. A file that is renamed to a name that is not read
//!   (`a.yaml~`, as editors do before they write the file again) stays enforced for [`GRACE`].
//! - When the directory itself is removed, its objects stay enforced, and the removal is reported;
//!   the directory is watched again as soon as it exists again.
//! - Every [`RESCAN_EVERY`], files that changed without a notification are found: files of a
//!   network file system, and targets of links outside of the directory.
//! - Names that begin with a dot are not read. But a change of `..data`, the link that Kubernetes
//!   replaces to update a mounted `ConfigMap`, causes a new read of its directory. Links to files
//!   are followed, links to directories are not.

mod file;
mod search;
mod signal;
mod state;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Event;
use file::{Stamp, is_link, is_manifest, root_id};
use search::Search;
use signal::{Handler, Signal};
pub use state::DirState;

/// How long a file stays enforced after an editor renamed it.
pub const GRACE: Duration = Duration::from_millis(500);

/// The time between two searches for files that changed without a notification.
pub const RESCAN_EVERY: Duration = Duration::from_secs(30);

/// How long the second half of a rename may take: the kernel queues both at once.
const RENAME_PAIR: Duration = Duration::from_millis(5);

/// The time between two attempts to open a removed directory again.
const ROOT_RETRY: Duration = Duration::from_millis(100);

/// The most waiting signals; after more, the whole directory is searched.
const MAX_SIGNALS: usize = 16_384;

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such directory.
    #[error("failed to open {} as a directory of manifests", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses to watch the directory.
    #[error("failed to watch {}", path.display())]
    Watch {
        /// The path.
        path: PathBuf,
        /// The error of the watcher.
        #[source]
        source: notify::Error,
    },
    /// The thread cannot be started.
    #[error("failed to start the thread that watches a directory")]
    Thread(#[source] io::Error),
}

/// Starts a thread that watches the directory `root` and sends the objects of its files: first all
/// objects and [`Event::Synced`], then changes, until the receiver of `events` is dropped.
///
/// # Errors
/// When `root` is not a directory, or cannot be watched.
pub fn start(root: &Path, events: mpsc::Sender<Event>) -> Result<(), StartError> {
    let path = || root.to_owned();
    fs::read_dir(root).map_err(|source| StartError::NotADirectory { path: path(), source })?;
    let (sender, signals) = sync_channel(MAX_SIGNALS);
    let overflowed = Arc::new(AtomicBool::new(false));
    let handler = Handler { signals: sender, overflowed: Arc::clone(&overflowed) };
    let watcher = notify::recommended_watcher(handler)
        .and_then(|mut watcher| {
            watcher.watch(root, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        })
        .map_err(|source| StartError::Watch { path: path(), source })?;
    let watch = Watch {
        root: path(),
        state: DirState::default(),
        watcher,
        signals,
        overflowed,
        events,
        watched: BTreeSet::new(),
        stamps: BTreeMap::new(),
        failed: BTreeSet::new(),
        held: BTreeMap::new(),
        root_id: None,
        next_rescan: Instant::now() + RESCAN_EVERY,
    };
    let thread = std::thread::Builder::new().name("watch-dir".to_owned());
    thread.spawn(|| watch.run()).map(drop).map_err(StartError::Thread)
}

/// The state of the thread that watches.
struct Watch {
    root: PathBuf,
    state: DirState,
    watcher: RecommendedWatcher,
    signals: Receiver<Signal>,
    overflowed: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
    watched: BTreeSet<PathBuf>,
    /// The stamp of each file when it was read.
    stamps: BTreeMap<PathBuf, Stamp>,
    /// The files and directories that could not be read.
    failed: BTreeSet<PathBuf>,
    /// Files that an editor renamed, and until when they stay enforced.
    held: BTreeMap<PathBuf, Instant>,
    /// Device and inode of the watched root; `None` while it does not exist.
    root_id: Option<(u64, u64)>,
    next_rescan: Instant,
}

impl Watch {
    fn run(mut self) {
        self.watch_root();
        if !self.send() || self.events.blocking_send(Event::Synced).is_err() {
            return;
        }
        loop {
            match self.signals.recv_timeout(self.wait_time()) {
                Ok(first) => {
                    let signals = self.drain(first);
                    self.round(&signals);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.due();
            if !self.send() {
                return;
            }
        }
    }

    /// The time until the next task, if no signal comes before.
    fn wait_time(&self) -> Duration {
        if self.root_id.is_none() {
            return ROOT_RETRY;
        }
        let next = self.held.values().fold(self.next_rescan, |next, until| next.min(*until));
        next.saturating_duration_since(Instant::now())
    }

    /// `first` and all queued signals; both signals of a rename are always in the same round.
    fn drain(&self, first: Signal) -> Vec<Signal> {
        let mut signals = vec![first];
        signals.extend(self.signals.try_iter().take(MAX_SIGNALS));
        let deadline = Instant::now() + RENAME_PAIR;
        while let Some(Signal::MovedAway(_, _)) = signals.last()
            && let Ok(next) =
                self.signals.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            signals.push(next);
            signals.extend(self.signals.try_iter().take(MAX_SIGNALS));
        }
        signals
    }

    fn round(&mut self, signals: &[Signal]) {
        let root_signal = |signal: &Signal| match signal {
            Signal::Settled(path) | Signal::SelfMoved(path) => *path == self.root,
            _ => false,
        };
        if self.root_id.is_none() || signals.iter().any(root_signal) || !self.root.is_dir() {
            return self.watch_root();
        }
        if self.overflowed.swap(false, Ordering::AcqRel) {
            tracing::warn!(root = %self.root.display(), "file notifications were lost; reading all");
            return self.search(&self.root.clone(), Search::Everything);
        }
        for path in self.settled(signals) {
            self.look(&path);
        }
    }

    /// The paths whose content is complete now.
    fn settled(&mut self, signals: &[Signal]) -> BTreeSet<PathBuf> {
        let mut paths = BTreeSet::new();
        for signal in signals {
            match signal {
                Signal::Settled(path) | Signal::MovedIn(path, _) | Signal::SelfMoved(path) => {
                    // Kubernetes replaces this link to change all files of a directory at once.
                    let swapped = path.parent().filter(|_| path.ends_with("..data"));
                    paths.insert(swapped.unwrap_or(path).to_owned());
                }
                Signal::Created(path) => {
                    // A link is complete at once; any other file is complete when it is closed.
                    if is_link(path) {
                        paths.insert(path.clone());
                    } else {
                        paths.remove(path);
                    }
                }
                Signal::Attributes(path) => {
                    if self.failed.contains(path) {
                        paths.insert(path.clone());
                    }
                }
                Signal::MovedAway(path, cookie) => {
                    let to = signals.iter().find_map(|signal| match signal {
                        Signal::MovedIn(to, with) if with == cookie => Some(to),
                        _ => None,
                    });
                    let is_backup = to.is_some_and(|to| {
                        is_manifest(path) && !is_manifest(to) && to.parent() == path.parent()
                    });
                    if is_backup {
                        self.held.insert(path.clone(), Instant::now() + GRACE);
                    } else {
                        paths.insert(path.clone());
                    }
                }
                Signal::Failed(problem) => {
                    tracing::error!(root = %self.root.display(), problem, "the file watcher failed");
                    self.next_rescan = Instant::now();
                }
            }
        }
        paths.remove(Path::new(""));
        paths
    }

    /// Does what is due by time: removes files that an editor did not write again, and searches.
    fn due(&mut self) {
        let now = Instant::now();
        if self.root_id.is_none() {
            return self.watch_root();
        }
        let due = self.held.iter().filter(|(_, until)| **until <= now);
        for path in due.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.look(&path);
        }
        if now >= self.next_rescan {
            self.next_rescan = now + RESCAN_EVERY;
            if root_id(&self.root).ok() == self.root_id {
                self.search(&self.root.clone(), Search::Changed);
            } else {
                self.watch_root();
            }
        }
    }

    /// Watches the directory that has the name of the root now; without one, keeps all objects.
    fn watch_root(&mut self) {
        for path in std::mem::take(&mut self.watched) {
            // This fails when the directory was removed, and its watch with it.
            let _ = self.watcher.unwatch(&path);
        }
        self.overflowed.store(false, Ordering::Release);
        match root_id(&self.root) {
            Ok(id) => {
                self.root_id = Some(id);
                self.search(&self.root.clone(), Search::Everything);
            }
            Err(error) => {
                if self.root_id.take().is_some() {
                    let root = self.root.display();
                    tracing::error!(%root, %error, "the directory was removed; policies stay enforced as it had them last");
                }
                let problem = format!(
                    "the directory was removed ({error}); policies stay enforced as it had them last"
                );
                self.state.unreadable(&self.root, &problem);
            }
        }
    }

    /// Sends changes; returns `false` when the receiver was dropped.
    fn send(&mut self) -> bool {
        let mut events = self.state.flush().into_events();
        events.all(|event| self.events.blocking_send(event).is_ok()) && !self.events.is_closed()
    }
}
