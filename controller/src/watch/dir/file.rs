//! Functions of one file: whether it is read, its text, and the stamp that shows a change.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use portcullis_crds::manifest::decode;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Device, inode, size, time of the last change of content (mtime) and of metadata (ctime).
pub(super) type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// The text of a regular file, or why it is not read.
pub(super) fn text(path: &Path, found: &Metadata) -> Result<String, String> {
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if found.len() > MAX_FILE_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_FILE_BYTES}", found.len()));
    }
    let bytes = fs::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(decode(bytes))
}

/// The stamp of a file, which differs after a change.
pub(super) fn stamp(found: &Metadata) -> Stamp {
    let modified = (found.mtime(), found.mtime_nsec());
    (found.dev(), found.ino(), found.len(), modified, (found.ctime(), found.ctime_nsec()))
}

/// Device and inode of a directory.
pub(super) fn root_id(root: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(root)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok((found.dev(), found.ino()))
}

/// Whether the file at `path` is a symbolic link, or a hard link to a file that was complete.
pub(super) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

/// Whether files of this name are read.
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Whether the name begins with a dot.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}
