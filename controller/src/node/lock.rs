//! One agent programs a network namespace at a time; another waits until it may.
//!
//! The lock is on a file that only root can open, named by the namespace, and the kernel drops it
//! when its holder ends, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Held for as long as the value lives.
#[derive(Debug)]
pub struct NodeLock(#[allow(dead_code)] File);

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {path}; --lock-dir names another place", path = path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl NodeLock {
    /// Waits until no other agent has the lock of this network namespace in `directory`.
    /// `waiting` is called once, when it has to wait.
    ///
    /// # Errors
    /// When the directory or the file cannot be made or locked.
    pub fn acquire(directory: &Path, waiting: impl FnOnce(&Path)) -> Result<Self, Error> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error { what, path, source }
        };
        let namespace = Path::new("/proc/self/ns/net");
        let inode = fs::metadata(namespace).map_err(failed("read", namespace))?.ino();
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let path = directory.join(format!("node-{inode}.lock"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting(&path);
                file.lock().map_err(failed("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        Ok(Self(file))
    }
}
