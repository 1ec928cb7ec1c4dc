//! The answer to `map`, `who` and `reach` as the JSON contract has it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::matrix::Matrix;
use crate::output::json::{API_VERSION, DirectionJson, Ports};

/// The answer to `map`, `who` and `reach`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Map")]
pub struct Map {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Map`.
    pub kind: &'static str,
    /// Every pair between which something is allowed; a pod always reaches itself, unsaid.
    pub entries: Vec<Entry>,
    /// What is allowed to and from external addresses: those that no pod and no node has.
    pub external: Vec<External>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

impl Map {
    /// The rows of matrices as the contract has them.
    #[must_use]
    pub fn new(matrices: &[Matrix], diagnostics: Vec<String>) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Map",
            entries: matrices.iter().flat_map(Matrix::entries).collect(),
            external: matrices.iter().flat_map(Matrix::external).collect(),
            diagnostics,
        }
    }
}

/// What one may open at another.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Entry {
    /// `namespace/kind/name`; with `--by namespace` `namespace/*`; `node/NAME` of a node that is
    /// asked about.
    pub source: Arc<str>,
    /// As `source`.
    pub destination: Arc<str>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
}

/// What is allowed between a workload and external addresses.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct External {
    /// `namespace/kind/name`; with `--by namespace` `namespace/*`.
    pub workload: Arc<str>,
    /// Ingress: from the addresses to the workload.
    pub direction: DirectionJson,
    /// The addresses. Those of them that a pod or node has are that pod or node, and are not external.
    pub cidrs: Arc<[String]>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
}
