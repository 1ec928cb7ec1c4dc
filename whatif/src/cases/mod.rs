//! `kind: PolicyTest`: expectations as data, for `kubectl whatif test`, for tests and for a lab
//! alike.
//!
//! ```text
//! case file ─► Case ──run(families)──► Stage: manifests to apply, objects to delete,
//! world.yaml ──────────┘                      the world then, one Expectation per probe
//! lines without a world ─► crate::assertions, which asks a whole cluster
//! ```
//!
//! Nothing here asks the engine what it thinks: the expectations are the authors'.
//! `tests/cases/README.md` describes the files.

mod address;
mod change;
pub(crate) mod expectation;
pub(crate) mod file;
pub(crate) mod group;
mod object;
mod probe;
mod service;
mod world;
mod yaml;

use anyhow::{Context, Result, ensure};
use policy_engine::cidr::Family;
use policy_engine::object::ObjectRef;
use policy_engine::world::Options;
use serde_json::Value;

pub use self::expectation::Expectation;
pub use self::file::Verdict;
pub use self::object::Manifest;
pub use self::probe::{Judged, PORTS, Port, Probe, Via};
pub use self::service::{Service, ServicePort};
pub use self::world::{Endpoint, Place, World};

use self::expectation::Block;
use self::file::{CaseFile, StepFile};

/// The families that nodes, pods and services have addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone, the underlay included.
    V6,
    /// Both; addresses are listed IPv4 first.
    Dual,
}

impl Families {
    /// Each choice of families.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    /// The single families, IPv4 first.
    #[must_use]
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &Family::BOTH,
        }
    }
}

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
    steps: Vec<Step>,
}

/// A step as it is written, its lines parsed.
#[derive(Clone, Debug)]
struct Step {
    file: StepFile,
    tests: Block,
    audit: Option<Block>,
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

impl Case {
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
        Self::of(name, file(&documents.pop().unwrap_or(Value::Null))?)
    }

    /// The case of a file that was read.
    pub(crate) fn of(name: &str, file: CaseFile) -> Result<Self> {
        ensure!(!file.steps.is_empty(), "a case has steps");
        ensure!(
            file.tests.is_empty() && file.default.is_none() && file.audit.is_none(),
            "a file has tests or steps, not both"
        );
        let families = match file.families {
            Some(names) => names.into_iter().map(Family::from).collect(),
            None => Family::BOTH.to_vec(),
        };
        let steps =
            file.steps.into_iter().enumerate().map(|(index, step)| {
                Step::parse(step).with_context(|| format!("step {}", index + 1))
            });
        Ok(Self {
            name: name.to_owned(),
            about: file.about.context("`about` is missing")?,
            without_api_server: file.without_api_server,
            options: Options {
                allow_egress_to_own_node: file.options.allow_egress_to_own_node,
                ..Options::default()
            },
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
        for (index, step) in self.steps.iter().enumerate() {
            let stage = self
                .stage(index + 1, step, &mut world, &families)
                .with_context(|| format!("case {}, step {}", self.name, index + 1))?;
            stages.push(stage);
        }
        Ok(stages)
    }

    fn stage(
        &self,
        number: usize,
        step: &Step,
        world: &mut World,
        families: &[Family],
    ) -> Result<Stage> {
        let Step { file: step, tests, audit } = step;
        let deleted: Vec<ObjectRef> =
            step.delete.iter().map(|name| object::named(name)).collect::<Result<_>>()?;
        deleted.iter().try_for_each(|object| world.delete(object))?;
        let applied =
            step.apply.iter().map(|manifest| world.apply(manifest)).collect::<Result<_>>()?;
        let expectations =
            expectation::expand(tests, audit.as_ref(), world, families, &self.ports)?;
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

impl Step {
    fn parse(file: StepFile) -> Result<Self> {
        let tests = Block::parse("tests", file.default, &file.tests)?;
        let audit = file.audit.as_ref();
        let audit = audit.map(|audit| Block::parse("audit", audit.default, &audit.tests));
        Ok(Self { tests, audit: audit.transpose()?, file })
    }
}

/// The file that a document holds.
pub(crate) fn file(document: &Value) -> Result<CaseFile> {
    let file: CaseFile = serde_json::from_value(document.clone())?;
    ensure!(
        file.api_version == API_VERSION && file.kind == KIND,
        "it is a {} {}, not a {API_VERSION} {KIND}",
        file.api_version,
        file.kind
    );
    Ok(file)
}
