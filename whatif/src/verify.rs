//! Compares what a node enforces with the API objects: its compiled state, with the state that the
//! same engine compiles here. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use policy_engine::cidr::Family;
use policy_engine::engine::{Engine, Scope};
use policy_engine::id::digest;
use policy_engine::model::Change;
use policy_engine::words::few;
use portcullis_crds::api::inspection::{Difference, EndpointFacts, Verification};
use portcullis_crds::api::node_policy_report::{CompiledState, NodePolicyReportStatus};
use schemars::JsonSchema;
use serde::Serialize;

const OTHER_VERSION: &str = "the agent is of another version: its budgets are not known";
/// How many pods a difference names.
const PODS_NAMED: usize = 5;

/// The result for a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The node.
    pub node: String,
    /// The hash of the compiled state that the node enforces; `None` if its agent did not answer.
    pub hash: Option<String>,
    /// How many rules and sets in its kernel were compared.
    pub compared: Option<(usize, usize)>,
    /// Why its report was compared instead of what its agent answers.
    pub by_report: Option<String>,
    /// The differences, one sentence each.
    pub differences: Vec<String>,
    /// The reason why the comparison was not possible.
    pub unknown: Option<String>,
}

/// Whether a node and the API objects agree.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// The node enforces the policies of the objects, and its kernel has the same rules.
    Agrees,
    /// The node enforces something else, or its kernel has other rules.
    Differs,
    /// The comparison was not possible.
    Unknown,
}

impl Finding {
    /// A node for which the comparison was not possible.
    #[must_use]
    pub fn unknown(node: &str, why: String, hash: Option<String>) -> Self {
        let (node, unknown) = (node.to_owned(), Some(why));
        Self { node, hash, compared: None, by_report: None, differences: Vec::new(), unknown }
    }

    /// The result.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        match (&self.unknown, self.differences.is_empty()) {
            (Some(_), _) => Agreement::Unknown,
            (None, true) => Agreement::Agrees,
            (None, false) => Agreement::Differs,
        }
    }
}

/// Compares what a node enforces with what follows from these objects, and with its kernel.
#[must_use]
pub fn compare(theirs: &Verification, objects: &[Change]) -> Finding {
    let node = &theirs.node.node;
    let state = &theirs.node.compiled_state;
    let Some(engine) = compiled(node, state, objects) else {
        return Finding::unknown(node, OTHER_VERSION.to_owned(), Some(state.to_string()));
    };
    let mut differences = endpoints(&engine, &theirs.endpoints);
    differences.extend(sets(&engine, theirs));
    differences.extend(theirs.differences.iter().map(|found| {
        let Difference { family, name, what, pods } = found;
        let family = family.as_deref().map(|family| format!("{family} ")).unwrap_or_default();
        let pods = match pods.as_slice() {
            [] => String::new(),
            pods => format!("; pods: {}", few(pods, PODS_NAMED)),
        };
        format!("kernel: {family}{name} {what}{pods}")
    }));
    if !theirs.node.is_applied {
        differences.push("the agent has not applied all changes that it knows".to_owned());
    }
    Finding {
        node: node.clone(),
        hash: Some(state.to_string()),
        compared: Some((theirs.rules_compared, theirs.sets.len())),
        by_report: None,
        differences,
        unknown: None,
    }
}

/// Compares the hashes in the report of a node with what follows from these objects. `why` is the reason
/// why the agent was not asked.
#[must_use]
pub fn compare_report(
    node: &str,
    report: &Result<&NodePolicyReportStatus, String>,
    objects: &[Change],
    why: String,
    now: SystemTime,
) -> Finding {
    let unknown = |what: &str, hash| Finding::unknown(node, format!("{why}; {what}"), hash);
    let report = match report {
        Ok(report) => report,
        Err(what) => return unknown(what, None),
    };
    let Some(theirs) = &report.compiled_state else {
        return unknown("its report has no compiled state", None);
    };
    let hash = Some(theirs.to_string());
    let Some(engine) = compiled(node, theirs, objects) else { return unknown(OTHER_VERSION, hash) };
    let ours = CompiledState::new(&engine.hashes(), theirs.options.clone());
    let age = report.age(now).unwrap_or_default().as_secs();
    if ours.rules == theirs.rules && ours.members != theirs.members {
        let what = format!(
            "its rules agree with the API objects, but not the members of its sets in the report of \
             {age} s ago: pods may have changed since, because an agent does not write a report for that"
        );
        return unknown(&what, hash);
    }
    let differs = (ours.rules != theirs.rules).then(|| {
        format!(
            "by its report of {age} s ago, the node enforces other rules than the API objects say"
        )
    });
    let differences = differs.into_iter().collect();
    let node = node.to_owned();
    Finding { node, hash, compared: None, by_report: Some(why), differences, unknown: None }
}

/// What a node with these options has to enforce; `None` if the options are those of another version.
fn compiled(node: &str, theirs: &CompiledState, objects: &[Change]) -> Option<Engine> {
    let mut engine = Engine::new(Scope::Node(node.into()), theirs.options.options()?);
    objects.iter().for_each(|change| engine.apply(change.clone()));
    engine.flush();
    Some(engine)
}

fn endpoints(engine: &Engine, theirs: &[EndpointFacts]) -> Vec<String> {
    let ours = EndpointFacts::all(engine.compiled());
    let by_address = |all: &[EndpointFacts]| -> BTreeMap<_, _> {
        all.iter().map(|found| (found.address, found.clone())).collect()
    };
    let (ours, theirs) = (by_address(&ours), by_address(theirs));
    let mut pods: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for address in ours.keys().chain(theirs.keys()) {
        let (own, other) = (ours.get(address), theirs.get(address));
        let Some(pod) = own.or(other).map(|found| found.pod.clone()) else { continue };
        let directions = [
            ("ingress", own.map(|own| &own.ingress), other.map(|other| &other.ingress)),
            ("egress", own.map(|own| &own.egress), other.map(|other| &other.egress)),
            (
                "audited ingress",
                own.map(|own| &own.audited_ingress),
                other.map(|other| &other.audited_ingress),
            ),
            (
                "audited egress",
                own.map(|own| &own.audited_egress),
                other.map(|other| &other.audited_egress),
            ),
        ];
        // An address without rules is not listed.
        let none = None;
        for (direction, own, other) in directions {
            if own.unwrap_or(&none) != other.unwrap_or(&none) {
                pods.entry(pod.clone()).or_default().insert(direction);
            }
        }
        if own.map(|own| &own.pod) != other.map(|other| &other.pod)
            && own.is_some()
            && other.is_some()
        {
            pods.entry(pod).or_default().insert("address");
        }
    }
    let sentence = |(pod, what): (String, BTreeSet<&str>)| {
        let policies: BTreeSet<String> = pod
            .split_once('/')
            .map(|(namespace, name)| policy_engine::model::PodKey::new(namespace, name))
            .into_iter()
            .flat_map(|key| {
                engine
                    .policies_selecting(&key)
                    .map(|policy| policy.name.short())
                    .collect::<Vec<_>>()
            })
            .collect();
        let by = match policies.len() {
            0 => "no policy selects it by the API objects".to_owned(),
            _ => format!("policies that select it: {}", few(policies, PODS_NAMED)),
        };
        let what = what.into_iter().collect::<Vec<_>>().join(" and ");
        format!("pod {pod}: the node enforces other {what} rules than the API objects say; {by}")
    };
    pods.into_iter().map(sentence).collect()
}

fn sets(engine: &Engine, theirs: &Verification) -> Vec<String> {
    let compiled = engine.compiled();
    let mut ours: BTreeMap<(String, &str), (usize, String)> = BTreeMap::new();
    for (id, set) in &compiled.sets {
        for family in Family::BOTH {
            let members = set.members.iter();
            let members: Vec<String> = members
                .filter(|member| {
                    Family::of(member.address()) == family && !member.address().is_unspecified()
                })
                .map(ToString::to_string)
                .collect();
            let found = (members.len(), digest(&members).to_string());
            ours.insert((id.to_string(), family.as_str()), found);
        }
    }
    let mut sentences = Vec::new();
    for set in &theirs.sets {
        let Some(id) = &set.id else { continue };
        let own = ours.get(&(id.clone(), set.family.as_str()));
        // A set that only the node has is not listed: the pods whose rules refer to it are.
        let Some((count, own)) = own else { continue };
        if *own != set.digest {
            sentences.push(format!(
                "{} set {} ({}): the node has {} members, and {count} follow from the API objects",
                set.family, set.name, set.words, set.members
            ));
        }
    }
    sentences
}
