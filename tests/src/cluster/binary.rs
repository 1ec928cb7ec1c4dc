//! The binary that is proved.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The binary, built from the sources as they are when cargo runs us.
///
/// # Errors
/// When it is not there or does not build.
pub fn portcullis() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || build("portcullis");
    let binary = BUILT.get_or_init(|| build().map_err(|failure| format!("{failure:#}")));
    binary.clone().map_err(anyhow::Error::msg)
}

/// The binary of `kubectl whatif`, as [`portcullis`].
///
/// # Errors
/// When it is not there or does not build.
pub fn kubectl_whatif() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || build("kubectl-whatif");
    let binary = BUILT.get_or_init(|| build().map_err(|failure| format!("{failure:#}")));
    binary.clone().map_err(anyhow::Error::msg)
}

fn build(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/PROFILE/demo, or target/PROFILE/deps/test-HASH.
    let profile = own
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"))
        .context("a test binary lies in a target directory")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        // With the features of the whole workspace, or shared dependencies are built twice.
        command.args(["build", "--quiet", "--workspace", "--bins"]);
        if profile.ends_with("release") {
            command.arg("--release");
        }
        let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
        ensure!(status.success(), "{name} does not build");
    }
    let binary = profile.join(name);
    ensure!(binary.is_file(), "{} is not there: `cargo build` makes it", binary.display());
    Ok(binary)
}
