//! Exposure to pods that do not exist yet: `kind: Exposure`, and text.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Labels;
use policy_engine::words::{few, pod_peer};
use schemars::JsonSchema;
use serde::Serialize;

use super::json::{API_VERSION, Ports, ports};
use super::{short, words};
use crate::exposure::{Allowed, Example, Exposed, NewPods};

/// How many names of workloads are written out.
const NAMES_SHOWN: usize = 6;

/// The answer of `exposure`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Exposure`.
    pub kind: &'static str,
    /// Workloads that are treated alike, together.
    pub groups: Vec<Group>,
    /// What is wrong and what was assumed.
    pub diagnostics: Vec<String>,
}

/// Workloads that are treated alike.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Their names.
    pub workloads: Vec<Arc<str>>,
    /// What new pods can connect to at them.
    pub ingress: Vec<Entry>,
    /// What they can connect to at new pods.
    pub egress: Vec<Entry>,
}

/// What is allowed for some new pods.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Which new pods, in words.
    pub pods: String,
    /// How many pods at present are so; 0 means that only new pods can use it.
    pub at_present: usize,
    /// One of them: the pod that was tried.
    pub example: Pod,
    /// The ports.
    pub allowed: Vec<Ports>,
}

/// A pod that could be created.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace; none for a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The labels of its namespace, if that is new.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The addresses that it was tried with, for an `ipBlock` may contain them; none if no pod has one.
    pub addresses: Vec<String>,
}

impl Exposure {
    /// The answer as the contract has it.
    #[must_use]
    pub fn new(all: &[Exposed], diagnostics: Vec<String>) -> Self {
        let group = |exposed: &Exposed| Group {
            workloads: exposed.names.clone(),
            ingress: exposed.allowed.ingress.iter().map(entry).collect(),
            egress: exposed.allowed.egress.iter().map(entry).collect(),
        };
        let groups = all.iter().map(group).collect();
        Self { api_version: API_VERSION, kind: "Exposure", groups, diagnostics }
    }
}

fn entry(allowed: &Allowed) -> Entry {
    let Example { namespace, namespace_labels, labels, addresses } = &allowed.example;
    let map = |labels: &Labels| labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    Entry {
        pods: new_pods(&allowed.pods),
        at_present: allowed.at_present,
        example: Pod {
            namespace: namespace.clone(),
            namespace_labels: map(namespace_labels),
            labels: map(labels),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        },
        allowed: ports(&allowed.ports),
    }
}

/// The words for a kind of new pods.
fn new_pods(pods: &NewPods) -> String {
    match pods {
        NewPods::Anywhere => "pods without labels in a new namespace".to_owned(),
        NewPods::Beside(namespace) => format!("pods without labels in namespace {namespace}"),
        NewPods::Matched(peer) => pod_peer(peer),
    }
}

/// Writes the answer for people.
///
/// # Errors
/// When the output cannot be written.
pub fn text(all: &[Exposed], out: &mut dyn Write) -> io::Result<()> {
    for (number, exposed) in all.iter().enumerate() {
        let names = exposed.names.iter().map(|name| short(name));
        writeln!(out, "{}{}", if number > 0 { "\n" } else { "" }, few(names, NAMES_SHOWN))?;
        for direction in Direction::BOTH {
            let (word, preposition) = (direction.field(), direction.peers_field());
            let mut lines: Vec<(String, String)> = exposed
                .allowed
                .get(direction)
                .iter()
                .map(|entry| line(entry, preposition))
                .collect();
            if lines.is_empty() {
                lines.push(("nothing".to_owned(), format!("{preposition} new pods")));
            }
            let width = lines.iter().map(|(ports, _)| ports.chars().count()).max().unwrap_or(0);
            let width = width.min(40);
            for (ports, pods) in lines {
                writeln!(out, "  {word:<7}  {ports:<width$}  {pods}")?;
            }
        }
    }
    Ok(())
}

fn line(allowed: &Allowed, preposition: &str) -> (String, String) {
    let present = match (&allowed.pods, allowed.at_present) {
        (NewPods::Matched(_), 0) => " (none at present)".to_owned(),
        (NewPods::Matched(_), count) => format!(" ({count} at present)"),
        (NewPods::Anywhere | NewPods::Beside(_), _) => String::new(),
    };
    let pods = format!("{preposition} {}{present}", new_pods(&allowed.pods));
    (words::ports(&allowed.ports), pods)
}
