//! A case file: steps, each with the objects that it applies and what is expected of every
//! connection then.

use anyhow::{Context, Result, ensure};
use policy_engine::cidr::Family;
use policy_engine::object::ObjectRef;
use policy_engine::world::Options;
use portcullis_lab::Families;
use portcullis_whatif::policytest::file::{StepFile, TestFile};
use portcullis_whatif::policytest::member::Port;
use serde_json::Value;

use super::expectation::{self, Block, Expectation};
use super::object::{self, Manifest};
use super::world::World;
use super::yaml;

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
        let file = TestFile::read(&documents.pop().unwrap_or(Value::Null))?;
        ensure!(!file.steps.is_empty(), "a case has steps");
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
