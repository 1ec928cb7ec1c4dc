//! The files and cgroups of a cluster outside of its network namespaces, and their removal, also
//! after a cluster that was killed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the files of clusters are: on a disk, for containers' images and file systems.
///
/// # Errors
/// When the environment names neither a cache directory nor a home.
fn parent() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("portcullis/clusters"))
}

/// The files and cgroups of one cluster; removed when this is dropped.
#[derive(Debug)]
pub(crate) struct State {
    directory: PathBuf,
    name: String,
}

impl State {
    /// Creates the directory of a cluster. The name is the prefix of its lab, which no other
    /// cluster has.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let parent = parent()?;
        let state = Self { directory: parent.join(name), name: name.to_owned() };
        fs::create_dir_all(&state.directory)
            .with_context(|| format!("failed to create {}", state.directory.display()))?;
        Ok(state)
    }

    /// The directory of the cluster.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of a node.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.directory.join(node)
    }

    /// The cgroup of a node, as the kubelet names it.
    pub(crate) fn cgroup(&self, node: &str) -> String {
        format!("/{}-{node}", self.name)
    }

    /// Creates the cgroup of a node in each hierarchy of this machine.
    pub(crate) fn create_cgroup(&self, node: &str) -> Result<()> {
        let name = self.cgroup(node);
        for hierarchy in hierarchies()? {
            let cgroup = hierarchy.join(name.trim_start_matches('/'));
            fs::create_dir_all(&cgroup)
                .with_context(|| format!("failed to create cgroup {}", cgroup.display()))?;
            // A cpuset without processors and memory takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(hierarchy.join(file)) {
                    let _ = fs::write(cgroup.join(file), value);
                }
            }
            // cgroup v2 hands controllers down one level at a time.
            if let Ok(controllers) = fs::read_to_string(cgroup.join("cgroup.controllers")) {
                for controller in controllers.split_whitespace() {
                    let enable = format!("+{controller}");
                    let _ = fs::write(cgroup.join("cgroup.subtree_control"), enable);
                }
            }
        }
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        remove(&self.directory, &self.name);
    }
}

/// Removes what clusters of dead processes left behind.
///
/// # Errors
/// When their directories cannot be listed.
pub fn sweep_stale() -> Result<()> {
    let directory = parent()?;
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("failed to list {}", directory.display()))?,
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| portcullis_lab::is_stale(name)) {
            remove(&entry.path(), name);
        }
    }
    Ok(())
}

/// Everything of one cluster. What cannot be removed now is removed by the next sweep.
fn remove(directory: &Path, name: &str) {
    for hierarchy in hierarchies().unwrap_or_default() {
        let Ok(entries) = fs::read_dir(&hierarchy) else { continue };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let of_cluster = file_name.to_str().and_then(|file| file.strip_prefix(name));
            if of_cluster.is_some_and(|rest| rest.starts_with('-')) {
                remove_cgroup(&entry.path());
            }
        }
    }
    let _ = fs::remove_dir_all(directory);
}

/// A cgroup goes after its children and its processes.
fn remove_cgroup(cgroup: &Path) {
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// The roots of the cgroup hierarchies with controllers: several of version 1, or the one of
/// version 2.
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).context("failed to list /sys/fs/cgroup")?;
    let mut hierarchies: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists() && !path.ends_with("unified"))
        .collect();
    hierarchies.sort();
    Ok(hierarchies)
}
