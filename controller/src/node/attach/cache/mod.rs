//! libcni's cache: one file for each interface that a container runtime added to a pod, written
//! before the pod's first process starts.
//!
//! ```text
//! inotify ──► wake ─┐
//! every 5 s ────────┴─► list the directory ─► files that changed ─► parse ─► entries, problems
//! ```
//!
//! The agent never writes to the cache. A file that cannot be read is reported by its name, and all
//! other files are used.

mod parse;

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

pub(super) use self::parse::Entry;
use self::parse::parse;

/// The largest file that is read. Most files have 2 KiB, but containerd also writes the annotations
/// of the pod to them: up to 256 KiB, which JSON can make six times as long. A pod must not escape
/// its policies by long annotations.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The most files that are read.
const FILES_MAX: usize = 10_000;

/// A file that changed less than this ago may still be written.
const AT_REST: Duration = Duration::from_secs(2);

/// The end of the names of files for loopback interfaces, which are half of all files.
const LOOPBACK: &str = "-lo";

/// The stamp of a file, which differs after a change: inode, size, mtime and ctime.
type Stamp = (u64, u64, (i64, i64), (i64, i64));

/// The files of one directory, as they were last read.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    files: BTreeMap<String, Known>,
    /// Why the directory cannot be read.
    failure: Option<String>,
    /// How many files are ignored because there are too many.
    left_out: usize,
}

#[derive(Debug)]
struct Known {
    /// `None` while the file may still be written: it is read again.
    stamp: Option<Stamp>,
    content: Result<Option<Entry>, String>,
}

/// Whether `text` can be parsed as one of the files.
pub(super) fn is_readable(text: &[u8]) -> bool {
    parse::parse("", text).is_ok()
}

impl Cache {
    /// The cache in `directory`, which need not exist yet.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), files: BTreeMap::new(), failure: None, left_out: 0 }
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The entries of all files, in the order of file names.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.files.values().filter_map(|known| known.content.as_ref().ok()?.as_ref())
    }

    /// Messages about files that cannot be read, without files that are being written.
    pub(super) fn problems(&self) -> Vec<String> {
        let directory = self.directory.display();
        let failure = self.failure.iter().map(|why| format!("failed to list {directory}: {why}"));
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "{directory} has {} files more than {FILES_MAX}: they are ignored",
                self.left_out
            )
        });
        let unread = self.files.iter().filter_map(|(name, known)| {
            let why = known.content.as_ref().err()?;
            known.stamp?;
            Some(format!("{directory}/{name} is ignored: {why}"))
        });
        failure.chain(left_out).chain(unread).collect()
    }

    /// Whether a file has to be read again soon, because it could not be parsed and may still be
    /// written.
    pub(super) fn is_being_written(&self) -> bool {
        self.files.values().any(|known| known.stamp.is_none() && known.content.is_err())
    }

    /// Reads the files that changed since they were last read. A directory that does not exist
    /// counts as empty.
    pub(super) fn scan(&mut self) {
        let names = match self.list() {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                // The known entries stay: their pods may still exist.
                self.failure = Some(error.to_string());
                return;
            }
        };
        self.failure = None;
        let mut before = std::mem::take(&mut self.files);
        for name in names {
            let path = self.directory.join(&name);
            let found = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found,
            };
            let now = found.as_ref().ok().and_then(stamp);
            let known = before.remove(&name).filter(|known| now.is_some() && known.stamp == now);
            let known = known.unwrap_or_else(|| {
                let text = found.map_err(|error| error.to_string()).and_then(|found| {
                    if found.is_dir() { Ok(None) } else { text(&path, &found).map(Some) }
                });
                let content = text.and_then(|text| match text {
                    Some(text) => parse(&name, &text),
                    None => Ok(None),
                });
                Known { stamp: now, content }
            });
            self.files.insert(name, known);
        }
    }

    /// The first [`FILES_MAX`] names of files, in order.
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // libcni's names are ASCII: any other name is of another program.
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if !name.ends_with(LOOPBACK) && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_unstable();
        self.left_out = names.len().saturating_sub(FILES_MAX);
        names.truncate(FILES_MAX);
        Ok(names)
    }
}

/// The stamp of a file; `None` if it changed a moment ago. libcni truncates a file and then writes
/// it, and times of files are too coarse to distinguish the two.
fn stamp(found: &Metadata) -> Option<Stamp> {
    let age = SystemTime::now().duration_since(found.modified().ok()?);
    // A time in the future counts as old: the clock was set back.
    age.map_or(true, |age| age > AT_REST).then(|| {
        let modified = (found.mtime(), found.mtime_nsec());
        (found.ino(), found.len(), modified, (found.ctime(), found.ctime_nsec()))
    })
}

/// Reads a regular file. Neither follows a link nor waits for the writer of a pipe.
fn text(path: &Path, found: &Metadata) -> Result<Vec<u8>, String> {
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}
