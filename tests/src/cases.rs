//! The policy cases of `tests/cases`: where they are. What they mean is read by
//! [`portcullis_whatif::cases`], so that `kubectl whatif test` and the lab read one format.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use portcullis_whatif::cases::{
    API_VERSION, Case, Endpoint, Expectation, Families, Judged, KIND, Manifest, PORTS, Place, Port,
    Probe, Service, ServicePort, Stage, Verdict, Via, World,
};

/// The directory of the case files.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// The world of `world.yaml`, that every case starts from.
///
/// # Errors
/// When the file cannot be read.
pub fn world(families: Families) -> Result<World> {
    World::parse("world.yaml", &read(&directory().join("world.yaml"))?, families)
}

/// Every case of the directory, by name.
///
/// # Errors
/// When one of them cannot be read, or says something that it cannot mean.
pub fn all() -> Result<Vec<Case>> {
    files()?.iter().map(|(name, path)| Case::parse(name, &read(path)?)).collect()
}

/// Whether the environment asks for this case: `PORTCULLIS_CASE` has its name, or `tier-*` for all
/// whose names begin so. Without it every case is asked for.
#[must_use]
pub fn is_asked_for(case: &Case) -> bool {
    let Ok(only) = std::env::var("PORTCULLIS_CASE") else { return true };
    match only.strip_suffix('*') {
        Some(beginning) => case.name.starts_with(beginning),
        None => case.name == only,
    }
}

/// The case files by name.
///
/// # Errors
/// When the directory cannot be listed.
pub fn files() -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let directory = directory();
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("failed to list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|ending| ending == "yaml");
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        if is_yaml && name != "world" {
            files.insert(name.to_owned(), path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}
