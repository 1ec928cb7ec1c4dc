//! `kind: PolicyTest`: compares the lines of a test file with the verdicts of the engine.
//!
//! ```text
//! file ─► Suite ─┬─ tests: lines about the cluster of the sources ─► cells: those that neither
//!                │                                                  lines nor policies tell apart
//!                └─ steps: the same with objects applied and deleted, step by step
//!        both ─► Outcome, one per line
//! ```
//!
//! `tests/cases` has the same format. A lab runs its steps in a world with addresses of its own.

pub mod file;
pub mod group;
pub mod line;
pub mod member;

mod cells;
mod expected;
mod lines;
mod steps;

use anyhow::{Context, Result, bail, ensure};
use policy_engine::explain::Explanation;
use policy_engine::flow::Flow;
use policy_engine::reach::PortSet;
use policy_engine::tier::View;
use portcullis_crds::diagnostic::Origin;
use portcullis_crds::manifest::{Document, Manifest};

pub use self::expected::expected;
use self::file::{TestFile, Verdict};
use crate::model::{Cluster, Inventory};

/// How many failures of one line are kept; the others are counted.
const KEPT: usize = 20;

/// One document of a test file.
pub struct Suite {
    document: Document,
    file: TestFile,
}

impl Suite {
    /// All documents of a file.
    ///
    /// # Errors
    /// When it cannot be read, or a document is no `PolicyTest`.
    pub fn read(name: &str, text: &str) -> Result<Vec<Self>> {
        let manifest = Manifest::parse(name, text);
        if let Some(diagnostic) = manifest.diagnostics.first() {
            bail!("{diagnostic}");
        }
        ensure!(!manifest.documents.is_empty(), "{name} holds no test");
        let suite = |document: Document| {
            let file = TestFile::read(document.value())
                .with_context(|| format!("{} cannot be understood", document.origin()))?;
            Ok(Self { document, file })
        };
        manifest.documents.into_iter().map(suite).collect()
    }

    /// Whether it defines its own worlds, step by step.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        !self.file.steps.is_empty()
    }

    /// Whether it exempts egress from a pod to its own node.
    #[must_use]
    pub fn allow_egress_to_own_node(&self) -> bool {
        self.file.options.allow_egress_to_own_node
    }
}

/// The result of one line.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The statement of the line.
    pub name: String,
    /// Where it is written.
    pub origin: Origin,
    /// How many connections were evaluated; those that nothing distinguishes count as one.
    pub connections: usize,
    /// The reason why the line cannot be tested.
    pub problem: Option<String>,
    /// The first connections that differ from what the line states.
    pub failures: Vec<Failure>,
    /// How many connections differ.
    pub failed: usize,
}

/// A connection that differs from what a line states.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The source.
    pub source: String,
    /// The destination.
    pub destination: String,
    /// The expected verdict for the ports.
    pub expected: Verdict,
    /// The ports with the opposite verdict.
    pub ports: PortSet,
    /// A flow that stands for the ports.
    pub flow: Flow,
    /// The reasons for the verdict.
    pub explanation: Explanation,
    /// The places of the rules that decide, in the order of the names of the rules.
    pub why: Vec<String>,
}

impl Outcome {
    fn new(name: String, origin: Origin) -> Self {
        Self { name, origin, connections: 0, problem: None, failures: Vec::new(), failed: 0 }
    }

    /// Whether all connections are as the line states. A line without connections does not pass.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problem.is_none() && self.failed == 0
    }

    fn fail(&mut self, failure: impl FnOnce() -> Failure) {
        self.failed += 1;
        if self.failures.len() < KEPT {
            self.failures.push(failure());
        }
    }

    /// Reports a line that applies to no connection, or that later lines override completely.
    fn finish(&mut self, applies: bool, decides: bool) {
        if self.problem.is_some() {
            return;
        }
        if !applies {
            self.problem = Some("tests nothing: no connection matches it".to_owned());
        } else if !decides {
            self.problem = Some("tests nothing: later lines undo all that it says".to_owned());
        }
    }
}

/// The results of the lines of a view.
fn in_view(view: View, stated: String) -> String {
    match view {
        View::Enforced => stated,
        View::Audited => format!("as audited, {stated}"),
    }
}

/// Runs a document; `inventory` and `cluster` are of the sources.
///
/// # Errors
/// When a line cannot be understood, or a step cannot start from what the sources hold.
pub fn run(suite: &Suite, inventory: &Inventory, cluster: &Cluster) -> Result<Vec<Outcome>> {
    if suite.has_steps() {
        steps::run(suite, inventory, cluster)
    } else {
        lines::run(suite, cluster)
    }
}
