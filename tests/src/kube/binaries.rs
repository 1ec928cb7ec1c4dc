//! Where kube-apiserver, etcd and kubectl are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

/// The directory with kube-apiserver, etcd and kubectl; built the first time.
pub(super) fn binaries() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/build.sh");
        let output = Command::new(&script).output();
        let output =
            output.map_err(|error| format!("failed to run {}: {error}", script.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("there is no Kubernetes to test with:\n{}", said.trim()));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines().last().map(PathBuf::from).ok_or_else(|| "build.sh said nothing".to_owned())
    });
    found.as_deref().map_err(|failure| anyhow::Error::msg(failure.clone()))
}
