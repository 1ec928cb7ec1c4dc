//! The policy cases of `tests/cases`: where they are, and the world with addresses in which a lab
//! plays them.
//!
//! ```text
//! case file ─► Case ──run(families)──► Stage: manifests to apply, objects to delete,
//! world.yaml ──────────┘                      the world then, one Expectation per probe
//! ```
//!
//! Nothing here asks the engine what it thinks: the expectations are the authors'. The format is
//! that of [`portcullis_whatif::policytest`]; `tests/cases/README.md` describes the files.

mod address;
mod case;
mod change;
mod expectation;
mod object;
mod probe;
mod service;
mod world;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use case::{Case, Stage};
pub use expectation::Expectation;
pub use object::Manifest;
pub use portcullis_lab::Families;
pub use portcullis_whatif::policytest::file::{API_VERSION, KIND, Verdict};
pub use portcullis_whatif::policytest::member::{Member, PORTS, Place, Port};
pub use probe::{Judged, Probe, Via};
pub use service::{Service, ServicePort};
pub use world::World;

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
