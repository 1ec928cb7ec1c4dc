//! One agent at a time programs a network namespace; another agent waits until the lock is free.
//!
//! The lock is on a file that only root can open and that has the namespace in its name. The kernel
//! releases the lock when its holder ends for any reason.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock of a network namespace, held until the value is dropped.
#[derive(Debug)]
pub struct NodeLock(#[allow(dead_code)] File);

/// Why the lock could not be acquired.
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
    /// Calls `waiting` once if it has to wait.
    ///
    /// # Errors
    /// When the directory or the file cannot be created or locked.
    pub fn acquire(directory: &Path, waiting: impl FnOnce(&Path)) -> Result<Self, Error> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error { what, path, source }
        };
        let namespace = Path::new("/proc/self/ns/net");
        let path = path(directory).map_err(failed("read", namespace))?;
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
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

/// The path of the lock file of this process's network namespace.
fn path(directory: &Path) -> io::Result<PathBuf> {
    let inode = fs::metadata("/proc/self/ns/net")?.ino();
    Ok(directory.join(format!("node-{inode}.lock")))
}

/// The holder of the lock of this network namespace: the process if it is known, and the file.
/// `None` if the lock is free.
#[must_use]
pub fn holder(directory: &Path) -> Option<String> {
    let path = path(directory).ok()?;
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let process = process_of(&locks, &inode);
    let process = process.map(|process| format!("process {process}, ")).unwrap_or_default();
    Some(format!("{process}lock {}", path.display()))
}

/// The process that has an exclusive lock on the file of this inode, from `/proc/locks`. Processes
/// of other PID namespaces are 0 there.
fn process_of(locks: &str, inode: &str) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
    let mut lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find_map(|words| {
        let at = words.iter().position(|word| *word == "WRITE")?;
        let file = words.get(at + 2)?;
        let process: u32 = words.get(at + 1)?.parse().ok()?;
        (file.rsplit(':').next() == Some(inode) && process > 0).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_has_a_holder_until_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()), None);
        let lock = NodeLock::acquire(directory.path(), |_| {}).unwrap();
        let found = holder(directory.path()).unwrap();
        assert!(found.contains("lock ") && found.contains(".lock"), "{found}");
        drop(lock);
        assert_eq!(holder(directory.path()), None);
    }

    #[test]
    fn the_process_of_a_lock_is_in_the_list_of_the_kernel() {
        let locks = "1: FLOCK  ADVISORY  WRITE 77 00:1a:5678 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 88 00:1a:9 0 EOF\n3: POSIX ADVISORY READ 9 08:01:1 0 EOF\n";
        assert_eq!(process_of(locks, "5678"), Some(77));
        assert_eq!(process_of(locks, "1"), None);
    }
}
