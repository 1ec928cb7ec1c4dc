//! Pods as this machine sees them: the network namespace in which a pod's processes are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use portcullis_lab::Namespace;

use crate::cluster::Cluster;
use crate::state;

impl Cluster {
    /// The network namespace of a pod that runs.
    ///
    /// # Errors
    /// When there is no such pod, or none of its containers has started.
    pub fn pod_netns(&self, namespace: &str, name: &str) -> Result<Namespace> {
        let pod = self.get(&["pod", name, "-n", namespace])?;
        let uid = pod["metadata"]["uid"].as_str().context("a pod has a UID")?;
        let pid = process_of(uid)?
            .with_context(|| format!("pod {namespace}/{name} has no process on this machine"))?;
        Namespace::of_process(pid)
    }
}

/// A process of the pod with this UID, found by the cgroup that its kubelet made.
fn process_of(uid: &str) -> Result<Option<u32>> {
    let hierarchies = state::hierarchies()?;
    let hierarchy = hierarchies.iter().find(|h| h.ends_with("pids")).or(hierarchies.first());
    let hierarchy = hierarchy.context("this machine has no cgroups")?;
    let wanted = format!("pod{uid}");
    Ok(find(hierarchy, &wanted).and_then(|cgroup| first_process(&cgroup)))
}

fn find(directory: &Path, name: &str) -> Option<std::path::PathBuf> {
    directories(directory)
        .find_map(|child| if child.ends_with(name) { Some(child) } else { find(&child, name) })
}

fn first_process(cgroup: &Path) -> Option<u32> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let first = processes.lines().find_map(|line| line.parse().ok());
    first.or_else(|| directories(cgroup).find_map(|child| first_process(&child)))
}

fn directories(parent: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path())
}
