//! The programs and images that a cluster runs, built by scripts of this repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::options::Options;

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The image with upstream's test server and client, by the name that Kubernetes 1.36 has for it.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// The directory with the programs that a cluster runs, kubelet and kubectl among them. Builds them
/// where they are missing, which takes minutes.
///
/// # Errors
/// When they cannot be built: with the words of the script.
pub fn kubernetes(options: &Options) -> Result<PathBuf> {
    let mut script = Command::new(format!("{TESTS}/kube/build.sh"));
    script.arg(options.build_set()).env("PORTCULLIS_KUBERNETES", &options.kubernetes);
    last_line(script)
}

/// The product's image as a docker-archive, tagged `portcullis:TAG`: the root that deploy/ makes,
/// with this binary.
///
/// # Errors
/// When it cannot be built: with the words of the script.
pub fn product_image(binary: &Path, tag: &str) -> Result<PathBuf> {
    product(binary, tag, "iptables", &[])
}

/// The product's image without iptables and ipset, which enforces with nftables: as
/// [`product_image`].
///
/// # Errors
/// When it cannot be built: with the words of the script.
pub fn nftables_image(binary: &Path, tag: &str) -> Result<PathBuf> {
    product(binary, tag, "nftables", &["--env", "PORTCULLIS_BACKEND=nftables"])
}

fn product(binary: &Path, tag: &str, backend: &str, env: &[&str]) -> Result<PathBuf> {
    let mut script = Command::new(format!("{TESTS}/image.sh"));
    script.arg("--root").arg(binary).arg(backend);
    let root = last_line(script)?;
    let tag = format!("docker.io/library/portcullis:{tag}");
    let path = ["--env", "PATH=/usr/sbin:/usr/bin"];
    let program = ["--tag", &tag, "--entrypoint", "/usr/bin/portcullis"];
    image(&[&program, &path[..], env].concat(), &root)
}

/// The images of the containers that tests run: pause and agnhost, by the names that the kubelet
/// and upstream's tests use.
///
/// # Errors
/// When one cannot be built: with the words of the script.
pub fn test_images(kubernetes: &Path) -> Result<Vec<PathBuf>> {
    let pause = ["--tag", "registry.k8s.io/pause:3.10.2", "--entrypoint", "/pause"];
    let agnhost = [
        "--tag",
        AGNHOST,
        // Kubernetes 1.37's name, then that of the conformance suite.
        "--tag",
        "registry.k8s.io/e2e-test-images/agnhost:2.66.1",
        "--tag",
        "registry.k8s.io/e2e-test-images/agnhost:2.45",
        "--entrypoint",
        "/agnhost",
        // As upstream's image: what a container does that names no command.
        "--cmd",
        "pause",
    ];
    Ok(vec![
        image(&pause, &kubernetes.join("pause"))?,
        image(&agnhost, &kubernetes.join("agnhost"))?,
    ])
}

/// A docker-archive of a directory or a static program.
fn image(arguments: &[&str], root: &Path) -> Result<PathBuf> {
    let mut script = Command::new(format!("{TESTS}/kube/image.sh"));
    script.args(arguments).arg(root);
    last_line(script)
}

/// The path that a script prints as its last line; its progress goes to standard error.
fn last_line(mut script: Command) -> Result<PathBuf> {
    let name = script.get_program().to_string_lossy().into_owned();
    let output = script.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("failed to run {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().with_context(|| format!("{name} printed nothing"))?;
    Ok(PathBuf::from(line))
}
