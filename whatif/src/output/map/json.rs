//! The answer to `map`, `who` and `reach` as the JSON contract has it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::frontends::FrontendEdge;
use super::groups::Groups;
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
    /// Pods that policies treat alike. With `--by`, `entries` and `external` are written instead of
    /// `groups`, `edges` and `externalEdges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// What is allowed between groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edges: Option<Vec<Edge>>,
    /// What is allowed between groups and external addresses: those that no pod and no node has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_edges: Option<Vec<ExternalEdge>>,
    /// Every pair between which something is allowed; a pod always reaches itself, unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<Entry>>,
    /// What is allowed to and from external addresses: those that no pod and no node has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Vec<External>>,
    /// Ingresses and routes of Gateways with the backends that their clients can connect to; only of
    /// `map`, and only if there are some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<FrontendEdge>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

impl Map {
    /// Every pair of the units of matrices.
    #[must_use]
    pub fn of_pairs(matrices: &[Matrix], diagnostics: Vec<String>) -> Self {
        Self {
            entries: Some(matrices.iter().flat_map(Matrix::entries).collect()),
            external: Some(matrices.iter().flat_map(Matrix::external).collect()),
            ..Self::empty(diagnostics)
        }
    }

    /// The groups of matrices, and what is allowed between them.
    #[must_use]
    pub fn of_groups(matrices: &[Matrix], diagnostics: Vec<String>) -> Self {
        let Groups { all, edges, external } = Groups::new(matrices);
        Self {
            groups: Some(all),
            edges: Some(edges),
            external_edges: Some(external),
            ..Self::empty(diagnostics)
        }
    }

    fn empty(diagnostics: Vec<String>) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Map",
            groups: None,
            edges: None,
            external_edges: None,
            entries: None,
            external: None,
            frontends: Vec::new(),
            diagnostics,
        }
    }
}

/// Pods that policies treat alike.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Group {
    /// The number of the group in this answer.
    pub id: usize,
    /// `namespace/kind/name`; `node/NAME` of a node that is asked about.
    pub members: Vec<Arc<str>>,
    /// The groups that this one consists of, ascending: several edges have them in common. Then there
    /// are no members of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<usize>,
}

/// What each pod of some groups may open at each other pod of some groups. A group in `from` and `to`
/// that has one pod is not an exception: a pod always reaches itself.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Edge {
    /// The groups that connect, ascending.
    pub from: Arc<[usize]>,
    /// The groups that they connect to, ascending.
    pub to: Arc<[usize]>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
}

/// What is allowed between groups and external addresses.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct ExternalEdge {
    /// The groups, ascending.
    pub groups: Vec<usize>,
    /// Ingress: from the addresses to the groups.
    pub direction: DirectionJson,
    /// As in `external`.
    pub cidrs: Arc<[String]>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
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
