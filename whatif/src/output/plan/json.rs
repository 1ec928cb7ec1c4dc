//! `kind: Plan` of the JSON contract.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::groups::{Edge, ExternalEdge, Groups};
use super::{Counts, Effect, words};
use crate::output::json::{API_VERSION, DirectionJson, Ports, ports};
use crate::output::map::json::Group;
use crate::plan::{self, Causes, How, RiskKind};

/// The answer to `plan`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Plan")]
pub struct Plan {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Plan`.
    pub kind: &'static str,
    /// How many pairs change, all external addresses counted as one partner of each workload.
    pub summary: Counts,
    /// What a reviewer must know first.
    pub risks: Vec<Risk>,
    /// Pods that policies treat alike, before and after, and to which something happens. With
    /// `--by workload`, `changes` and `external` are written instead of `groups`, `edges` and
    /// `externalEdges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// What changes between groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edges: Option<Vec<Edge>>,
    /// What changes between groups and addresses that no pod and no node has; and to nodes, where
    /// policies name nodes by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_edges: Option<Vec<ExternalEdge>>,
    /// Every pair of workloads whose ports change; a pod always reaches itself, unsaid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// What changes to and from addresses that no pod and no node has; and to nodes, where policies
    /// name nodes by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<Vec<ExternalChange>>,
    /// Every object that differs, whether or not it changes a connection.
    pub objects: Vec<Cause>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

/// What changes from one workload to another.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `namespace/kind/name`.
    pub source: Arc<str>,
    /// As `source`.
    pub destination: Arc<str>,
    /// What happens.
    pub change: ChangeKind,
    /// Sorted and merged; empty when nothing was allowed.
    pub before: Arc<[Ports]>,
    /// Sorted and merged; empty when nothing is allowed any more.
    pub after: Arc<[Ports]>,
    /// The ports are the same: only protocols without ports, such as ICMP, change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_without_ports: bool,
    /// The objects that did it: undoing one of them alone brings `before` back. Where none does,
    /// the fewest that do together.
    pub because: Arc<[Cause]>,
}

/// What changes between a workload and external addresses.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ExternalChange {
    /// `namespace/kind/name`.
    pub workload: Arc<str>,
    /// Ingress: from the addresses to the workload.
    pub direction: DirectionJson,
    /// The addresses. One that a pod or node owns is that pod or node.
    pub cidrs: Arc<[String]>,
    /// The nodes whose addresses these are, as `node/NAME`; left out for external addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What happens.
    pub change: ChangeKind,
    /// As in `changes`.
    pub before: Arc<[Ports]>,
    /// As in `changes`.
    pub after: Arc<[Ports]>,
    /// As in `changes`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_without_ports: bool,
    /// As in `changes`.
    pub because: Arc<[Cause]>,
}

/// What happens to a pair.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// Nothing was allowed before.
    Opened,
    /// Nothing is allowed any more.
    Closed,
    /// More is allowed.
    Widened,
    /// Less is allowed.
    Narrowed,
    /// Some more and some less.
    Changed,
}

/// An object that differs.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Cause {
    /// `kind/namespace/name`, as `--without` takes it.
    pub object: String,
    /// What happened to it.
    pub change: How,
    /// Where it is written, as `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// Something that probably nobody wants.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Risk {
    /// What it is.
    pub risk: RiskWord,
    /// `namespace/kind/name`.
    pub workload: Arc<str>,
    /// The direction of the isolation that is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<DirectionJson>,
    /// What leads connections to it, as `kind/namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// From where it is newly reachable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// The ports of DNS or of a backend that are lost, or those that are newly reachable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// The objects that did it.
    pub because: Arc<[Cause]>,
}

/// What a risk is.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug)]
pub enum RiskWord {
    /// It can no longer look up names.
    DnsLost,
    /// An Ingress, a route of a Gateway, a LoadBalancer or a webhook leads to it, and none of its clients can connect any more.
    BackendLost,
    /// It is newly reachable from external addresses.
    ExternalOpened,
    /// No policy isolates it in this direction any more.
    IsolationLost,
}

impl From<Effect> for ChangeKind {
    fn from(kind: Effect) -> Self {
        match kind {
            Effect::Opened => Self::Opened,
            Effect::Closed => Self::Closed,
            Effect::Widened => Self::Widened,
            Effect::Narrowed => Self::Narrowed,
            Effect::Changed => Self::Changed,
        }
    }
}

impl Plan {
    /// The answer by groups.
    #[must_use]
    pub fn of_groups(plan: &plan::Plan<'_>, diagnostics: Vec<String>) -> Self {
        let Groups { all, edges, external } = Groups::new(plan);
        Self {
            groups: Some(all),
            edges: Some(edges),
            external_edges: Some(external),
            ..Self::empty(plan, diagnostics)
        }
    }

    /// The answer by pairs of workloads.
    #[must_use]
    pub fn of_pairs(plan: &plan::Plan<'_>, diagnostics: Vec<String>) -> Self {
        Self {
            changes: Some(changes(plan)),
            external: Some(external(plan)),
            ..Self::empty(plan, diagnostics)
        }
    }

    fn empty(plan: &plan::Plan<'_>, diagnostics: Vec<String>) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Plan",
            summary: Counts::new(plan),
            risks: risks(plan),
            groups: None,
            edges: None,
            external_edges: None,
            changes: None,
            external: None,
            objects: plan.objects.iter().map(cause).collect(),
            diagnostics,
        }
    }
}

fn cause(object: &plan::Changed) -> Cause {
    Cause {
        object: object.name.to_string(),
        change: object.how,
        origin: object.origin.as_ref().map(ToString::to_string),
    }
}

fn because(plan: &plan::Plan<'_>, causes: &Causes) -> Arc<[Cause]> {
    causes.iter().filter_map(|number| plan.objects.get(*number)).map(cause).collect()
}

fn changes(plan: &plan::Plan<'_>) -> Vec<Change> {
    let mut all = Vec::new();
    for change in &plan.changes {
        let (before, after): (Arc<[Ports]>, Arc<[Ports]>) =
            (ports(&change.before).into(), ports(&change.after).into());
        let because = because(plan, &change.because);
        for (from, to) in plan.unit_pairs(change) {
            all.push(Change {
                source: from.name.clone(),
                destination: to.name.clone(),
                change: Effect::of(&change.before, &change.after).into(),
                only_without_ports: before == after,
                before: before.clone(),
                after: after.clone(),
                because: because.clone(),
            });
        }
    }
    all.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
    all
}

fn external(plan: &plan::Plan<'_>) -> Vec<ExternalChange> {
    let mut all = Vec::new();
    for change in &plan.external {
        let (before, after): (Arc<[Ports]>, Arc<[Ports]>) =
            (ports(&change.before).into(), ports(&change.after).into());
        let cidrs: Arc<[String]> = words::networks(&change.addresses).into();
        let because = because(plan, &change.because);
        for unit in plan.units.of(change.group) {
            all.push(ExternalChange {
                workload: unit.name.clone(),
                direction: change.direction.into(),
                cidrs: cidrs.clone(),
                nodes: change.nodes.iter().map(|name| format!("node/{name}")).collect(),
                change: Effect::of(&change.before, &change.after).into(),
                only_without_ports: before == after,
                before: before.clone(),
                after: after.clone(),
                because: because.clone(),
            });
        }
    }
    all.sort_by(|a, b| a.workload.cmp(&b.workload));
    all
}

fn risks(plan: &plan::Plan<'_>) -> Vec<Risk> {
    let mut all = Vec::new();
    for found in &plan.risks {
        let (mut direction, mut cidrs, mut of_risk) = (None, Vec::new(), Vec::new());
        let mut frontend = None;
        let risk = match &found.kind {
            RiskKind::DnsLost(lost) => {
                of_risk = ports(lost);
                RiskWord::DnsLost
            }
            RiskKind::ExternalOpened(addresses, gained) => {
                (cidrs, of_risk) = (words::networks(addresses), ports(gained));
                RiskWord::ExternalOpened
            }
            RiskKind::BackendLost(object, lost, _) => {
                frontend = Some(object.to_string());
                of_risk = ports(lost);
                RiskWord::BackendLost
            }
            RiskKind::IsolationLost(lost) => {
                direction = Some((*lost).into());
                RiskWord::IsolationLost
            }
        };
        let because = because(plan, &found.because);
        for unit in plan.units_of(found) {
            let (workload, because) = (unit.name.clone(), because.clone());
            let (frontend, cidrs, ports) = (frontend.clone(), cidrs.clone(), of_risk.clone());
            all.push(Risk { risk, workload, direction, frontend, cidrs, ports, because });
        }
    }
    all
}
