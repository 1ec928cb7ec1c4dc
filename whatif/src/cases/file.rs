//! A case file as it is written: the types that serde fills, and nothing that interprets them.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// `kind: PolicyTest`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CaseFile {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) about: Option<String>,
    #[serde(default)]
    pub(crate) families: Option<Vec<FamilyName>>,
    #[serde(default)]
    pub(crate) ports: Vec<String>,
    #[serde(default)]
    pub(crate) options: OptionsFile,
    #[serde(default)]
    pub(crate) without_api_server: Option<String>,
    #[serde(default)]
    pub(crate) steps: Vec<StepFile>,
    #[serde(default)]
    pub(crate) default: Option<Verdict>,
    #[serde(default)]
    pub(crate) tests: Vec<Line>,
    #[serde(default)]
    pub(crate) audit: Option<AuditFile>,
}

/// `options`: what the agents are started with.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OptionsFile {
    #[serde(default)]
    pub(crate) allow_egress_to_own_node: bool,
}

/// One item of `steps`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StepFile {
    #[serde(default)]
    pub(crate) about: Option<String>,
    #[serde(default)]
    pub(crate) apply: Vec<Value>,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
    #[serde(default)]
    pub(crate) diagnostics: Vec<String>,
    pub(crate) default: Verdict,
    #[serde(default)]
    pub(crate) tests: Vec<Line>,
    #[serde(default)]
    pub(crate) audit: Option<AuditFile>,
}

/// `audit`: what would come of connections if policies in audit were in force.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuditFile {
    pub(crate) default: Verdict,
    #[serde(default)]
    pub(crate) tests: Vec<Line>,
}

/// One item of `tests`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Line {
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) from: Option<OneOrMany<Who>>,
    #[serde(default)]
    pub(crate) only_from: Option<OneOrMany<Who>>,
    #[serde(default)]
    pub(crate) to: Option<OneOrMany<Who>>,
    #[serde(default)]
    pub(crate) only_to: Option<OneOrMany<Who>>,
    #[serde(default)]
    pub(crate) ports: Option<OneOrMany<Text>>,
    #[serde(default)]
    pub(crate) family: Option<FamilyName>,
    #[serde(default)]
    pub(crate) expect: Option<Verdict>,
}

/// What a connection is expected to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet reaches its destination, whether or not something listens there.
    Allowed,
    /// The packet is dropped.
    Denied,
}

/// An address family as the Kubernetes API writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) enum FamilyName {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// A thing, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A text; `80` is as good as `"80"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Text(String),
    Number(u16),
}

/// A group: a word, or pods by their labels.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Who {
    Word(String),
    Labels(Map<String, Value>),
}

/// Pods by their labels, as a peer of a NetworkPolicy has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LabelsFile {
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) namespace_selector: Option<Value>,
    #[serde(default)]
    pub(crate) pod_selector: Option<Value>,
}

impl<T> OneOrMany<T> {
    /// The items in order.
    pub(crate) fn items(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}

impl<T: fmt::Display> fmt::Display for OneOrMany<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.items().iter().map(T::to_string).collect();
        formatter.write_str(&words.join(", "))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Number(number) => number.fmt(formatter),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => formatter.write_str(word),
            Self::Labels(fields) => Value::Object(fields.clone()).fmt(formatter),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        })
    }
}

impl Line {
    /// The word of a group, counted through those of the source and then the destination's.
    pub(crate) fn word(&self, position: usize) -> Option<String> {
        let sides = [[&self.from, &self.only_from], [&self.to, &self.only_to]];
        let words = sides.iter().flat_map(|side| {
            let written = side.iter().find_map(|groups| groups.as_ref());
            let words = written.map(|groups| groups.items().iter().map(Who::to_string).collect());
            words.unwrap_or_else(|| vec!["*".to_owned()])
        });
        words.into_iter().nth(position)
    }
}

impl fmt::Display for Line {
    /// What the line states: its name, or `shop/web → shop/db 5432: allowed`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            return formatter.write_str(name);
        }
        match (&self.from, &self.only_from) {
            (_, Some(groups)) => write!(formatter, "only {groups}")?,
            (Some(groups), None) => groups.fmt(formatter)?,
            (None, None) => formatter.write_str("*")?,
        }
        match (&self.to, &self.only_to) {
            (_, Some(groups)) => write!(formatter, " → only {groups}")?,
            (Some(groups), None) => write!(formatter, " → {groups}")?,
            (None, None) => formatter.write_str(" → *")?,
        }
        if let Some(ports) = &self.ports {
            write!(formatter, " {ports}")?;
        }
        if let Some(family) = self.family {
            write!(formatter, " {:?}", policy_engine::cidr::Family::from(family))?;
        }
        match self.expect {
            Some(verdict) => write!(formatter, ": {verdict}"),
            None => Ok(()),
        }
    }
}

impl From<FamilyName> for policy_engine::cidr::Family {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::V4 => Self::V4,
            FamilyName::V6 => Self::V6,
        }
    }
}
