//! Records on disk that policies were enforced on this node.
//!
//! After a reboot there are no rules in the kernel, and pods may run before the agent has all objects.
//! With this record the agent can distinguish a reboot from its first start on a node, where pods
//! were not restricted before: it must not interrupt them.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

/// The name of the file that exists after policies were enforced.
const FILE: &str = "enforced";

/// The record that policies were enforced.
#[derive(Default, Debug)]
pub struct Marker {
    file: Option<PathBuf>,
}

impl Marker {
    /// The record in a directory that persists over reboots, which need not exist yet. Without a
    /// directory, nothing is recorded.
    #[must_use]
    pub fn new(directory: Option<&Path>) -> Self {
        Self { file: directory.map(|directory| directory.join(FILE)) }
    }

    /// Whether policies were enforced.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.exists())
    }

    /// Records that policies are enforced. A failure is logged, and not retried.
    pub fn set(&mut self) {
        let Some(file) = self.file.take() else { return };
        let write = || {
            file.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&file, "Policies were enforced on this node.\n")
        };
        if let Err(error) = write() {
            let file = file.display();
            warn!(%file, %error, "failed to remember that policies are enforced; after a reboot, pods are open until the agent has all objects");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_set_for_the_next_agent() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("new");
        let mut marker = Marker::new(Some(&state));
        assert!(!marker.is_set());
        marker.set();
        assert!(Marker::new(Some(&state)).is_set());
        let mut nowhere = Marker::new(None);
        nowhere.set();
        assert!(!nowhere.is_set());
    }
}
