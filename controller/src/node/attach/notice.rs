//! Wakes the scan after changes of links and routes, and of files of the cache.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::wake::{Reason, Wake};
use crate::dataplane::interfaces::{Changes, Watch};

/// How often the thread checks whether the agent still needs it, and the wait after a failure.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Starts a thread that wakes the scan when links or routes of this network namespace change. If
/// the kernel refuses the subscription, scans are periodic only.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn start(wake: Arc<Wake>) -> io::Result<()> {
    let mut watch = match Watch::open() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "failed to subscribe to changes of interfaces; they are listed every 10 s");
            return Ok(());
        }
    };
    let work = move || {
        while !wake.is_closed() {
            match watch.wait(CHECK_PERIOD) {
                Ok(Changes::None) => {}
                Ok(Changes::Routes) => wake.raise(Reason::Routes),
                Ok(Changes::Links) => wake.raise(Reason::Links),
                Err(error) => {
                    tracing::warn!(%error, "failed to receive changes of interfaces; retrying");
                    thread::sleep(CHECK_PERIOD);
                }
            }
        }
    };
    thread::Builder::new().name("attach-links".to_owned()).spawn(work).map(drop)
}

/// Starts to wake the scan when a file of `directory` is complete, moved or removed.
///
/// # Errors
/// When the directory does not exist or the kernel refuses.
pub(super) fn files(directory: &Path, wake: Arc<Wake>) -> notify::Result<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.need_rescan() => wake.raise(Reason::Directory),
        Ok(event) => match event.kind {
            // Reads are ignored: the scan itself reads files.
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => {
                wake.raise(Reason::Files);
            }
            _ => {}
        },
        Err(_) => wake.raise(Reason::Directory),
    };
    let mut watcher = notify::recommended_watcher(handler)?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
