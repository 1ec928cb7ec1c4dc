//! The thread that scans for interfaces of pods: when it scans, and what it reads.
//!
//! | reason | what is read |
//! |---|---|
//! | a file of the cache changed | the cache and a snapshot |
//! | a link changed | a snapshot at once, and after 50, 200 and 1000 ms: a plugin may still work |
//! | a route changed | a snapshot |
//! | the agent knows other pods | a snapshot, with the addresses of all pairs if one is missing |
//! | every 10 s | everything |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use tokio::sync::watch;

use super::cache::Cache;
use super::notice;
use super::resolve::{Resolved, resolve};
use super::wake::{Reason, Wake};
use super::{CniPod, Found};
use crate::dataplane::interfaces::{Interface, Reader, Refresh, Snapshot};
use crate::node::status::node_warning;

/// The times of further scans after a link has changed.
const AFTER_LINK: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1)];

/// How often everything is read, even without a reason.
const PERIOD: Duration = Duration::from_secs(10);

/// How often the files of the cache are listed, even without a reason.
const FILES_PERIOD: Duration = Duration::from_secs(5);

/// How often a cache that does not exist or cannot be watched is read, and a file that is being
/// written is read again.
const RETRY: Duration = Duration::from_millis(200);

/// The shortest and the longest pause after a scan. Between these limits, the pause is four times
/// as long as the scan, so that endless changes cost at most a fifth of a core.
const PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];

/// A file whose interface does not exist is reported after this time: when a pod ends, its
/// interface disappears before its file.
const STALE_AFTER: Duration = Duration::from_mins(1);

/// The most problems that are reported.
const PROBLEMS_MAX: usize = 20;

/// The state of the thread.
pub(super) struct Scanner {
    cache: Option<Cache>,
    wake: Arc<Wake>,
    pods: watch::Receiver<BTreeSet<IpAddr>>,
    /// The watch of the cache's directory, and which directory it is.
    watched: Option<(RecommendedWatcher, (u64, u64))>,
    reader: Reader,
    /// The last snapshot; empty until one could be read.
    snapshot: Snapshot,
    /// Why no newer snapshot could be read.
    failure: Option<String>,
    /// The times since which files have been stale.
    stale: BTreeMap<String, Instant>,
    timetable: Timetable,
}

/// When scans are due.
struct Timetable {
    everything: Instant,
    files: Instant,
    /// Scans after changes of links.
    links: BTreeSet<Instant>,
}

impl Timetable {
    fn next(&self) -> Instant {
        let links = self.links.first().copied();
        links.unwrap_or(self.everything).min(self.everything).min(self.files)
    }
}

impl Scanner {
    pub(super) fn new(
        cni_results: Option<&Path>,
        wake: Arc<Wake>,
        pods: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            cache: cni_results.map(Cache::new),
            wake,
            pods,
            watched: None,
            reader: Reader::default(),
            snapshot: Snapshot::default(),
            failure: None,
            stale: BTreeMap::new(),
            timetable: Timetable { everything: now, files: now, links: BTreeSet::new() },
        }
    }

    /// Scans until the agent drops its [`Finder`](super::Finder).
    pub(super) fn run(mut self, found: &watch::Sender<Found>) {
        let mut is_first = true;
        let mut reasons = BTreeSet::new();
        while !reasons.contains(&Reason::Closed) {
            let start = Instant::now();
            let now_found = self.scan(&reasons);
            found.send_if_modified(|last| {
                let is_changed = std::mem::take(&mut is_first) || *last != now_found;
                if is_changed {
                    *last = now_found;
                }
                is_changed
            });
            let took = start.elapsed();
            tracing::trace!(took_us = took.as_micros(), "looked for the interfaces of pods");
            std::thread::sleep((took * 4).clamp(PAUSE[0], PAUSE[1]));
            reasons = self.wake.wait_until(self.timetable.next());
        }
    }

    fn scan(&mut self, reasons: &BTreeSet<Reason>) -> Found {
        let is_due = |reason| reasons.contains(&reason);
        let now = Instant::now();
        let is_everything = now >= self.timetable.everything;
        if is_everything {
            self.timetable.everything = now + PERIOD;
        }
        if is_due(Reason::Links) {
            // Scans that are already due later stay: a plugin may still be working then.
            self.timetable.links.extend(AFTER_LINK.map(|after| now + after));
        }
        self.timetable.links.retain(|due| *due > now);
        if is_everything
            || is_due(Reason::Files)
            || is_due(Reason::Directory)
            || now >= self.timetable.files
        {
            self.read_files(is_due(Reason::Directory));
        }
        let refresh = if is_everything { Refresh::All } else { Refresh::New };
        self.read_snapshot(refresh);
        let pods = self.pods.borrow_and_update().clone();
        let mut resolved = self.resolve(&pods);
        let is_missing = |address: &IpAddr| !resolved.attachments.addresses.contains_key(address);
        if is_due(Reason::Pods) && refresh != Refresh::All && pods.iter().any(is_missing) {
            self.read_snapshot(Refresh::All);
            resolved = self.resolve(&pods);
        }
        self.found(resolved)
    }

    fn resolve(&self, pods: &BTreeSet<IpAddr>) -> Resolved {
        let entries = self.cache.iter().flat_map(Cache::entries);
        resolve(&self.snapshot, entries, pods)
    }

    fn read_files(&mut self, is_directory_new: bool) {
        let Some(cache) = &mut self.cache else {
            self.timetable.files = Instant::now() + PERIOD;
            return;
        };
        // The directory is watched before it is read, so no change is missed in between.
        let id = fs::metadata(cache.directory()).ok().map(|found| (found.dev(), found.ino()));
        let is_watched = self.watched.as_ref().map(|(_, id)| *id) == id && !is_directory_new;
        if !is_watched || id.is_none() {
            // Drops the old watch.
            self.watched = None;
            let watcher = notice::files(cache.directory(), Arc::clone(&self.wake));
            self.watched = id.and_then(|id| Some((watcher.ok()?, id)));
        }
        cache.scan();
        let is_settled = self.watched.is_some() && !cache.is_being_written();
        let wait = if is_settled { FILES_PERIOD } else { RETRY };
        self.timetable.files = Instant::now() + wait;
    }

    fn read_snapshot(&mut self, refresh: Refresh) {
        let entries = self.cache.iter().flat_map(Cache::entries);
        let with_addresses = entries.filter(|entry| !entry.addresses.is_empty());
        let known = with_addresses.flat_map(|entry| entry.interfaces.iter().map(String::as_str));
        let known: BTreeSet<&str> = known.collect();
        let skip = |interface: &Interface| known.contains(interface.name.as_str());
        match self.reader.read(refresh, skip) {
            Ok(snapshot) => {
                self.snapshot = snapshot;
                self.failure = None;
            }
            // The last snapshot stays. The next scan follows soon.
            Err(error) => {
                self.failure = Some(format!("failed to list interfaces and routes: {error}"));
                self.timetable.links.insert(Instant::now() + RETRY);
            }
        }
    }

    fn found(&mut self, resolved: Resolved) -> Found {
        let Resolved { attachments, pods, mut problems, stale } = resolved;
        problems.extend(self.cache.iter().flat_map(Cache::problems));
        problems.extend(self.failure.clone());
        problems.extend(self.stale_files(stale));
        problems.sort_unstable();
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        problems.extend(
            (more > 0).then(|| format!("and {more} more problems with interfaces of pods")),
        );
        let diagnostics = problems.into_iter().map(node_warning).collect();
        let mut pods: Vec<CniPod> = pods;
        pods.sort_unstable_by(|one, other| (one.interface, one).cmp(&(other.interface, other)));
        Found { attachments, pods, diagnostics }
    }

    /// Reports all files that have been stale for long in one message: after a power failure, a
    /// node has as many as it had pods.
    fn stale_files(&mut self, files: Vec<String>) -> Option<String> {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.stale);
        let since = |file: String| {
            let since = before.remove(&file).unwrap_or(now);
            (file, since)
        };
        self.stale = files.into_iter().map(since).collect();
        let mut old = self.stale.iter().filter(|(_, since)| now - **since > STALE_AFTER);
        let (first, _) = old.next()?;
        Some(format!(
            "{} CNI results are ignored, as their interfaces do not exist, the first is {first}: \
             the container runtime did not remove them",
            1 + old.count()
        ))
    }
}
