//! Renders the report from the status that the agent publishes. Pure and deterministic.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use policy_engine::cidr::Family;
use policy_engine::engine::selection::{Applied, Selection};
use policy_engine::object::ObjectRef;
use policy_engine::tier::Mode;
use policy_engine::world;
use portcullis_crds::api::inspection::OptionFacts;
use portcullis_crds::api::node_policy_report as api;
use portcullis_crds::diagnostic::{Diagnostic, Severity};

use super::pace::News;
use crate::dataplane::Dataplane;
use crate::dataplane::backend::iptables::Variant;
use crate::dataplane::denial::Outcome;
use crate::node::state::State;
use crate::node::status::{Latency, Status};

/// The parts of a report that do not change while the agent runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// The agent's version and pod.
    pub agent: api::Agent,
    /// How the agent programs the node.
    pub backend: api::Backend,
    /// The options that the compiled rules depend on.
    pub options: OptionFacts,
}

/// The condition that the agent writes, without reason and message.
#[derive(Clone, PartialEq, Debug)]
pub struct Transition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The time since which the condition has this status.
    pub since: Time,
}

impl Facts {
    /// The facts of an agent that programs `dataplane` with these options of the engine.
    #[must_use]
    pub fn new(dataplane: &Dataplane, options: &world::Options, pod_name: Option<String>) -> Self {
        let families = dataplane.families().iter().map(|family| match family {
            Family::V4 => api::Family::IPv4,
            Family::V6 => api::Family::IPv6,
        });
        let name = match dataplane.variant() {
            Some(Variant::Legacy) => api::BackendName::IptablesLegacy,
            Some(Variant::Nft) => api::BackendName::IptablesNft,
            None => api::BackendName::Nftables,
        };
        let reason = Some(bounded(dataplane.reason(), api::MESSAGE_LENGTH_MAX));
        Self {
            agent: api::Agent { version: env!("CARGO_PKG_VERSION").to_owned(), pod_name },
            backend: api::Backend { name, reason, families: families.collect() },
            options: OptionFacts::new(options),
        }
    }
}

/// What has changed from `written`, the status in the report, to `now`.
///
/// Times, latencies, members of sets and counts of denials are no news. They change with every pod of
/// the cluster or with every packet, and the API server could not handle a write from every node for each change.
#[must_use]
pub fn news(written: Option<&Status>, now: &Status) -> News {
    let Some(written) = written else {
        return if now.state() == State::Loading { News::Loading } else { News::Some };
    };
    let same = written.state() == now.state()
        && written.drift_repairs == now.drift_repairs
        && written.hashes.rules == now.hashes.rules
        && same(&written.diagnostics, &now.diagnostics, |a, b| a == b)
        && same(&written.selection, &now.selection, |a, b| {
            let counts =
                |of: &Selection| [of.pods, of.isolated, of.isolated_ingress, of.isolated_egress];
            counts(a) == counts(b) && policies(a).eq(policies(b))
        });
    if same { News::None } else { News::Some }
}

fn same<T>(a: &Arc<T>, b: &Arc<T>, equal: impl FnOnce(&T, &T) -> bool) -> bool {
    Arc::ptr_eq(a, b) || equal(a, b)
}

/// The report of `status`. `before` is the condition in the report that was written last, by this
/// agent or by an earlier one.
#[must_use]
pub fn render(
    facts: &Facts,
    status: &Status,
    before: Option<&Transition>,
    now: SystemTime,
) -> api::NodePolicyReportStatus {
    let selection = &status.selection;
    let findings = &status.diagnostics;
    let enforced = selection.policies.len();
    let policies: Vec<_> = policies(selection).take(api::POLICIES_MAX).collect();
    let first = findings.first.iter().take(api::DIAGNOSTICS_MAX);
    let diagnostics: Vec<_> = first.map(diagnostic).collect();
    let found = findings.count();
    let pods = api::Pods {
        local: count(selection.pods),
        isolated: count(selection.isolated),
        isolated_ingress: count(selection.isolated_ingress),
        isolated_egress: count(selection.isolated_egress),
    };
    // Before the first round the numbers of pods and policies are unknown: 0 would be wrong.
    let known = status.last_success.is_some();
    api::NodePolicyReportStatus {
        observed_at: Some(time(now)),
        agent: Some(api::Agent {
            pod_name: facts.agent.pod_name.as_deref().map(|name| bounded(name, 253)),
            version: bounded(&facts.agent.version, 64),
        }),
        backend: Some(facts.backend.clone()),
        compiled_state: (known && facts.options.fit_into_report())
            .then(|| api::CompiledState::new(&status.hashes, facts.options.clone())),
        pods: known.then_some(pods),
        policies_enforced: known.then_some(count(enforced)),
        policies_omitted: known.then(|| count(enforced - policies.len())),
        policies,
        last_successful_sync: status.last_success.map(time),
        sync_latency_microseconds: status.latency.map(latency),
        sync_latency: status.latency.map(|latency| with_unit(latency.p50)),
        drift_repairs: Some(i64::try_from(status.drift_repairs).unwrap_or(i64::MAX)),
        denials: known.then(|| denials(status)),
        diagnostics_found: Some(count(found)),
        diagnostics_omitted: Some(count(found - diagnostics.len())),
        diagnostics,
        conditions: vec![condition(&status.state(), before, time(now))],
        state: Some(state(&status.state())),
    }
}

fn state(state: &State<'_>) -> api::State {
    match state {
        State::Loading => api::State::Loading,
        State::Enforcing => api::State::Enforcing,
        State::Auditing => api::State::Auditing,
        State::Degraded { .. } => api::State::Degraded,
        State::Bypassed { .. } => api::State::Bypassed,
        State::Failing { .. } => api::State::Failing,
    }
}

fn condition(state: &State<'_>, before: Option<&Transition>, now: Time) -> Condition {
    let status = match state {
        State::Loading => "Unknown",
        State::Enforcing => "True",
        State::Auditing
        | State::Degraded { .. }
        | State::Bypassed { .. }
        | State::Failing { .. } => "False",
    };
    let since = before.filter(|before| before.status == status).map(|before| before.since.clone());
    Condition {
        type_: api::ENFORCING.to_owned(),
        status: status.to_owned(),
        reason: state.reason().to_owned(),
        message: bounded(&state.to_string(), api::MESSAGE_LENGTH_MAX),
        last_transition_time: since.unwrap_or(now),
        observed_generation: None,
    }
}

/// Cluster-scoped policies first, so that a list that is full never omits them.
fn policies(selection: &Selection) -> impl Iterator<Item = api::Policy> {
    let of_cluster = |(name, _): &(&ObjectRef, &Applied)| name.namespace.is_empty();
    let all = || selection.policies.iter();
    all()
        .filter(of_cluster)
        .chain(all().filter(move |policy| !of_cluster(policy)))
        .filter_map(|(name, policy)| listed(name, policy))
}

/// The entry of a policy; `None` for an object that is no policy.
fn listed(object: &ObjectRef, policy: &Applied) -> Option<api::Policy> {
    let ObjectRef { kind, namespace, name } = object;
    Some(api::Policy {
        kind: api::PolicyKind::of(*kind)?,
        namespace: bounded(namespace, 63),
        name: bounded(name, 253),
        uid: policy.revision.uid.as_deref().map(str::to_owned),
        observed_generation: policy.revision.generation,
        mode: match policy.mode {
            Mode::Enforce => None,
            Mode::Audit => Some(api::PolicyMode::Audit),
        },
        pods: Some(count(policy.pods)),
    })
}

fn diagnostic(found: &Diagnostic) -> api::Diagnostic {
    api::Diagnostic {
        severity: match found.severity {
            Severity::Error => api::Severity::Error,
            Severity::Warning => api::Severity::Warning,
        },
        object: bounded(&found.about.to_string(), api::PLACE_LENGTH_MAX),
        field: bounded(&found.field.to_string(), api::PLACE_LENGTH_MAX),
        message: bounded(&found.message, api::MESSAGE_LENGTH_MAX),
    }
}

fn denials(status: &Status) -> api::Denials {
    let of = |wanted: Outcome| {
        let all = status.denials.iter().filter(|(denial, _)| denial.outcome == wanted);
        let packets = all.fold(0_u64, |sum, (_, counts)| sum.saturating_add(counts.packets));
        i64::try_from(packets).unwrap_or(i64::MAX)
    };
    api::Denials { denied: of(Outcome::Denied), would_deny: of(Outcome::WouldDeny) }
}

fn latency(latency: Latency) -> api::SyncLatency {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    api::SyncLatency {
        last: micros(latency.last),
        p50: micros(latency.p50),
        max: micros(latency.max),
        samples: count(latency.samples),
    }
}

/// A latency with its unit: `0.4ms`, `14.2ms`, `1.5s`.
fn with_unit(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1}ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}

/// At most `limit` characters on one line; an ellipsis replaces the rest.
fn bounded(text: &str, limit: usize) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    if text.chars().nth(limit).is_none() {
        return text.chars().map(plain).collect();
    }
    text.chars().take(limit.saturating_sub(1)).map(plain).chain(['…']).collect()
}

/// A time in whole seconds, like all times of the Kubernetes API.
fn time(time: SystemTime) -> Time {
    let now = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
