//! Which policies apply to pods, in the order in which they are evaluated: `kind: Policies`.
//!
//! ```text
//! World::selecting ─► Policy::effective ─► Applied ─► json, yaml
//!                                             └─────► text
//! ```
//!
//! Pods to which the same policies apply share an entry.

mod rule;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::model::{Pod, PodKey};
use policy_engine::policy::{Body, EffectiveRule, Policy, Selected, adding_field};
use policy_engine::tier::Mode;
use portcullis_crds::convert::custom::is_to_come;
use schemars::JsonSchema;
use serde::Serialize;

use super::check::json::{AllowDeny, Tier};
use super::json::{self, API_VERSION};
use super::names;
use crate::model::Cluster;

/// The answer of `policies`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Policies {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Policies`.
    pub kind: &'static str,
    /// Pods to which the same policies apply, together.
    pub groups: Vec<Group>,
    /// What is wrong and what was assumed.
    pub diagnostics: Vec<String>,
}

/// Pods to which the same policies apply.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The pods, NAMESPACE/NAME; the workload of pods that do not run yet.
    pub pods: Vec<String>,
    /// What applies to connections to them.
    pub ingress: Side,
    /// What applies to connections from them.
    pub egress: Side,
}

/// What applies to one direction.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The policies, in the order in which they are evaluated.
    pub policies: Vec<Applied>,
    /// What happens to a connection that no rule matches.
    pub otherwise: AllowDeny,
}

/// A policy that applies.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Its name, as `namespace/name` or, those of the whole cluster, `Kind/name`.
    pub policy: String,
    /// The tier in which it is evaluated.
    pub tier: Tier,
    /// The priority in the tier, lower first; none where policies of a tier have no order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Whether it isolates the pods: then no tier below it is evaluated.
    pub isolates: bool,
    /// Whether it is in audit: then it denies nothing.
    pub is_audit: bool,
    /// Whether it is not known that it applies, for a part of it could not be understood. Then it
    /// fails closed.
    pub is_unsure: bool,
    /// Its rules for this direction.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The position in the policy, from 1; 0 for a rule that a field adds.
    pub rule: usize,
    /// The field that adds the rule: `allowDNS` or `allowAPIServer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_by: Option<&'static str>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: &'static str,
    /// Who is at the other side: one of these.
    pub peers: Vec<String>,
    /// The ports: one of these.
    pub ports: Vec<String>,
}

impl Policies {
    /// The policies of these pods, which the cluster has and which take part in policies.
    #[must_use]
    pub fn new<'p>(
        cluster: &Cluster,
        pods: impl IntoIterator<Item = &'p PodKey>,
        diagnostics: Vec<String>,
    ) -> Self {
        // By the policies that apply, in the order in which the first pod of each group was named.
        let mut groups: Vec<Group> = Vec::new();
        let mut seen: BTreeMap<Vec<(String, Selected, String)>, usize> = BTreeMap::new();
        for pod in pods.into_iter().filter_map(|key| cluster.world.pods().get(key)) {
            let selecting = cluster.world.selecting(pod);
            let named = |(policy, selected): &(&Arc<Policy>, Selected)| {
                let home = if policy.depends_on_namespace() { &*pod.key.namespace } else { "" };
                (policy.name.to_string(), *selected, home.to_owned())
            };
            let at = *seen.entry(selecting.iter().map(named).collect()).or_insert_with(|| {
                let side = |direction| side(cluster, pod, &selecting, direction);
                let (ingress, egress) = (side(Direction::Ingress), side(Direction::Egress));
                groups.push(Group { pods: Vec::new(), ingress, egress });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(at) {
                let name = if is_to_come(&pod.key.name) {
                    names::short(&cluster.pod_ref(&pod.key))
                } else {
                    pod.key.to_string()
                };
                if group.pods.last() != Some(&name) {
                    group.pods.push(name);
                }
            }
        }
        Self { api_version: API_VERSION, kind: "Policies", groups, diagnostics }
    }
}

fn side(
    cluster: &Cluster,
    pod: &Pod,
    selecting: &[(&Arc<Policy>, Selected)],
    direction: Direction,
) -> Side {
    let applies = selecting.iter().filter(|(policy, _)| policy.applies(direction));
    let policies: Vec<Applied> = applies
        .map(|(policy, selected)| applied(cluster, pod, policy, *selected, direction))
        .collect();
    let is_isolated = policies.iter().any(|found| found.isolates && !found.is_audit);
    Side { policies, otherwise: if is_isolated { AllowDeny::Deny } else { AllowDeny::Allow } }
}

fn applied(
    cluster: &Cluster,
    pod: &Pod,
    policy: &Policy,
    selected: Selected,
    direction: Direction,
) -> Applied {
    let priority = match policy.body {
        Body::Ordered { priority, .. } => Some(priority),
        Body::Isolating { .. } => None,
    };
    let rules =
        policy.effective(direction, selected).map(|EffectiveRule { number, action, rule }| {
            let rule = rule.in_namespace(&pod.key.namespace);
            Rule {
                rule: json::position(number),
                added_by: adding_field(number),
                action: action.as_str(),
                peers: rule::peers(cluster, &rule.peers),
                ports: rule::ports(&rule.ports),
            }
        });
    Applied {
        policy: policy.name.short(),
        tier: policy.tier.into(),
        priority,
        isolates: policy.isolates(direction),
        is_audit: policy.mode == Mode::Audit,
        is_unsure: selected == Selected::Unsure,
        rules: rules.collect(),
    }
}
