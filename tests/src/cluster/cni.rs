//! The results of CNI plugins as libcni writes them for a container runtime.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use portcullis_lab::Lab;
use serde_json::json;

/// Writes the results for the pods that a node of the lab has now.
pub(super) fn write_results(lab: &Lab, node: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for pod in lab.pods().filter(|pod| pod.node() == node) {
        let host = pod.host_link().context("a pod with a network of its own")?;
        let ips = pod.addresses().iter().map(|address| {
            let length = if address.is_ipv4() { 24 } else { 64 };
            json!({"address": format!("{address}/{length}"), "interface": 1})
        });
        let result = json!({
            "kind": "cniCacheV1", "containerId": pod.name(), "ifName": "eth0", "networkName": "net",
            "cniArgs": [["K8S_POD_NAMESPACE", pod.namespace()], ["K8S_POD_NAME", pod.name()]],
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": host}, {"name": "eth0", "sandbox": "/run/netns/x"}],
                "ips": ips.collect::<Vec<_>>()}});
        fs::write(file(directory, pod.name()), result.to_string())?;
    }
    Ok(())
}

/// The file for a pod.
pub(super) fn file(directory: &Path, pod: &str) -> PathBuf {
    directory.join(format!("net-{pod}-eth0"))
}
