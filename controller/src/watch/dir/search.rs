//! Reads files and directories: loads those that exist, and removes those that no longer exist.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};

use super::Watch;
use super::file::{is_hidden, is_manifest, stamp, text};

/// How deep directories may nest below the root.
const MAX_DIR_DEPTH: usize = 32;

/// A periodic search reads files only this long after a change: they may still be written.
const AT_REST: Duration = Duration::from_secs(2);

/// Which files a search reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// All files.
    Everything,
    /// Files that changed since they were read, but not in the last [`AT_REST`].
    Changed,
}

impl Watch {
    /// Reads the file or directory at `path`, or removes its objects if it does not exist.
    pub(super) fn look(&mut self, path: &Path) {
        if path != self.root && is_hidden(path) {
            return;
        }
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget(path),
            Err(error) => self.fail(path, &format!("it cannot be opened: {error}")),
            Ok(found) if found.is_dir() => self.search(path, Search::Everything),
            Ok(_) => self.read(path, Search::Everything),
        }
    }

    /// Watches the directory `top` and those below it, and reads their files.
    pub(super) fn search(&mut self, top: &Path, search: Search) {
        let mut seen = BTreeSet::new();
        let mut unread = Vec::new();
        let mut waiting = vec![top.to_owned()];
        while let Some(dir) = waiting.pop() {
            match self.enter(&dir) {
                Err(problem) => {
                    self.fail(&dir, &problem);
                    seen.insert(dir.clone());
                    unread.push(dir);
                }
                Ok(entries) => {
                    self.failed.remove(&dir);
                    self.state.remove(&dir);
                    for (path, is_dir) in entries {
                        if is_dir {
                            waiting.push(path);
                        } else {
                            self.read(&path, search);
                            seen.insert(path);
                        }
                    }
                }
            }
        }
        for path in self.state.paths_below(top) {
            if !seen.contains(&path) && !unread.iter().any(|dir| path.starts_with(dir)) {
                self.drop_file(&path);
            }
        }
    }

    /// Watches one directory, then lists it: files and directories that may matter.
    fn enter(&mut self, dir: &Path) -> Result<Vec<(PathBuf, bool)>, String> {
        let depth = dir.components().count().saturating_sub(self.root.components().count());
        if depth > MAX_DIR_DEPTH {
            return Err(format!("it lies more than {MAX_DIR_DEPTH} directories deep"));
        }
        self.watched.insert(dir.to_owned());
        if let Err(error) = self.watcher.watch(dir, RecursiveMode::NonRecursive) {
            // Not fatal: the periodic search finds changes.
            tracing::error!(dir = %dir.display(), %error, "failed to watch a directory");
        }
        let entries = fs::read_dir(dir).map_err(|error| format!("it cannot be listed: {error}"))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| format!("it cannot be listed: {error}"))?;
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_hidden(&path) && (is_dir || is_manifest(&path) || path.is_dir()) {
                found.push((path, is_dir));
            }
        }
        Ok(found)
    }

    fn read(&mut self, path: &Path, search: Search) {
        let found = match fs::metadata(path) {
            Err(error) if is_manifest(path) => {
                return self.fail(path, &format!("it cannot be opened: {error}"));
            }
            Ok(found) if found.is_dir() => {
                return self.fail(path, "it is a link to a directory, which is not followed");
            }
            Ok(found) if is_manifest(path) => found,
            Ok(_) | Err(_) => return,
        };
        let stamp = stamp(&found);
        let rests = || {
            let changed = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            changed.elapsed().is_ok_and(|age| age > AT_REST)
        };
        if search == Search::Changed && (self.stamps.get(path) == Some(&stamp) || !rests()) {
            return;
        }
        self.held.remove(path);
        match text(path, &found) {
            Ok(text) => {
                self.state.load(path, &text);
                self.failed.remove(path);
                self.stamps.insert(path.to_owned(), stamp);
            }
            Err(problem) => self.fail(path, &problem),
        }
    }

    fn fail(&mut self, path: &Path, problem: &str) {
        self.stamps.remove(path);
        self.failed.insert(path.to_owned());
        self.state.unreadable(path, problem);
    }

    fn drop_file(&mut self, path: &Path) {
        self.held.remove(path);
        self.stamps.remove(path);
        self.failed.remove(path);
        self.state.remove(path);
    }

    /// Removes the objects of a file or directory that no longer exists.
    fn forget(&mut self, path: &Path) {
        self.held.remove(path);
        for path in self.state.paths_below(path) {
            self.drop_file(&path);
        }
        let removed: Vec<_> =
            self.watched.iter().filter(|dir| dir.starts_with(path)).cloned().collect();
        for dir in removed {
            self.watched.remove(&dir);
            // This fails when the watch was removed with its directory.
            let _ = self.watcher.unwatch(&dir);
        }
    }
}
