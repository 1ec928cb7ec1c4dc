//! Policy cases: `tests/cases/*.yaml` as data, for tests, for a lab and for clusters alike.
//!
//! ```text
//! case file ─► Case ──run(families)──► Stage: manifests to apply, objects to delete,
//! world.yaml ──────────┘                      the world then, one Expectation per probe
//! ```
//!
//! Nothing here asks the engine what it thinks: the expectations are the authors'.
//! `tests/cases/README.md` describes the files.

mod address;
mod change;
mod expectation;
mod file;
mod group;
mod object;
mod probe;
mod service;
mod world;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use policy_engine::cidr::Family;
use policy_engine::world::Options;
use serde_json::Value;

pub use self::expectation::Expectation;
pub use self::file::Verdict;
pub use self::object::{Kind, Manifest, ObjectRef};
pub use self::probe::{Judged, PORTS, Port, Probe, Via};
pub use self::service::{Service, ServicePort};
pub use self::world::{Endpoint, Place, World};
pub use crate::lab::Families;

use self::file::{CaseFile, StepFile};

/// `apiVersion` of a case file.
pub const API_VERSION: &str = "whatif.portcullis.dev/v1alpha1";
/// `kind` of a case file.
pub const KIND: &str = "PolicyTest";

/// One case file.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    /// One sentence: what is proved, and which clause of the specification it is about.
    pub about: String,
    /// Why a real API server cannot hold these objects, if it cannot.
    pub without_api_server: Option<String>,
    /// What the agents are started with.
    pub options: Options,
    families: Vec<Family>,
    ports: Vec<Port>,
    steps: Vec<(StepFile, Vec<expectation::Assertion>)>,
}

/// A step of a case in a world of given families.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its position in the case, from 1.
    pub number: usize,
    /// What is special about it.
    pub about: Option<String>,
    /// What goes, before anything comes.
    pub deleted: Vec<ObjectRef>,
    /// What comes or changes, in this order.
    pub applied: Vec<Manifest>,
    /// Texts, each of which must be in some diagnostic about what is applied here. Without any,
    /// there must be no diagnostic.
    pub diagnostics: Vec<String>,
    /// All objects after the step.
    pub world: World,
    /// What has to come of every connection that can be tried.
    pub expectations: Vec<Expectation>,
}

/// The directory of the case files.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

impl World {
    /// The world of `world.yaml`, that every case starts from.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(families: Families) -> Result<Self> {
        Self::parse("world.yaml", &read(&directory().join("world.yaml"))?, families)
    }
}

impl Case {
    /// Every case of the directory, by name.
    ///
    /// # Errors
    /// When one of them cannot be read, or says something that it cannot mean.
    pub fn load_all() -> Result<Vec<Self>> {
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
        files.iter().map(|(name, path)| Self::parse(name, &read(path)?)).collect()
    }

    /// The case that `text` describes.
    ///
    /// # Errors
    /// When it is not a case, has a field that does not exist, or a word that is no group or port.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        Self::read(name, text).with_context(|| format!("failed to read case {name}"))
    }

    fn read(name: &str, text: &str) -> Result<Self> {
        let mut documents = yaml::documents(name, text)?;
        ensure!(documents.len() == 1, "a case file has one document, not {}", documents.len());
        let document = documents.pop().unwrap_or(Value::Null);
        let file: CaseFile = serde_json::from_value(document)?;
        ensure!(
            file.api_version == API_VERSION && file.kind == KIND,
            "it is a {} {}, not a {API_VERSION} {KIND}",
            file.api_version,
            file.kind
        );
        ensure!(!file.steps.is_empty(), "a case has steps");
        let families = match file.families {
            Some(names) => names.into_iter().map(Family::from).collect(),
            None => Family::BOTH.to_vec(),
        };
        let steps = file.steps.into_iter().enumerate().map(|(index, step)| {
            let lines = expectation::parse(&step).with_context(|| format!("step {}", index + 1))?;
            Ok((step, lines))
        });
        Ok(Self {
            name: name.to_owned(),
            about: file.about,
            without_api_server: file.without_api_server,
            options: Options { allow_egress_to_own_node: file.options.allow_egress_to_own_node },
            families,
            ports: file.ports.iter().map(|port| port.parse()).collect::<Result<_>>()?,
            steps: steps.collect::<Result<_>>()?,
        })
    }

    /// The families that the case is about.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Whether the case says anything about a world of these families.
    #[must_use]
    pub fn is_about(&self, families: Families) -> bool {
        families.each().iter().any(|family| self.families.contains(family))
    }

    /// The steps of the case, one after the other, in `world`.
    ///
    /// # Errors
    /// When a step deletes what is not there, names a group that matches nothing, or leaves a
    /// service without a pod.
    pub fn run(&self, mut world: World) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        let families: Vec<Family> = world.families().each().to_vec();
        let families: Vec<Family> =
            families.into_iter().filter(|family| self.families.contains(family)).collect();
        for (index, (step, lines)) in self.steps.iter().enumerate() {
            let stage = self
                .stage(index + 1, step, lines, &mut world, &families)
                .with_context(|| format!("case {}, step {}", self.name, index + 1))?;
            stages.push(stage);
        }
        Ok(stages)
    }

    fn stage(
        &self,
        number: usize,
        step: &StepFile,
        lines: &[expectation::Assertion],
        world: &mut World,
        families: &[Family],
    ) -> Result<Stage> {
        let deleted: Vec<ObjectRef> =
            step.delete.iter().map(|name| name.parse()).collect::<Result<_>>()?;
        deleted.iter().try_for_each(|object| world.delete(object))?;
        let applied =
            step.apply.iter().map(|manifest| world.apply(manifest)).collect::<Result<_>>()?;
        let expectations = expectation::expand(step, lines, world, families, &self.ports)?;
        Ok(Stage {
            number,
            about: step.about.clone(),
            deleted,
            applied,
            diagnostics: step.diagnostics.clone(),
            world: world.clone(),
            expectations,
        })
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}
