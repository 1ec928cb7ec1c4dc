//! A test file as it is written: the types for serde, without their interpretation.
//! `tests/cases/README.md` describes the fields.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

/// `apiVersion` of a test file.
pub const API_VERSION: &str = "whatif.portcullis.dev/v1alpha1";
/// `kind` of a test file.
pub const KIND: &str = "PolicyTest";

/// `kind: PolicyTest`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TestFile {
    pub api_version: String,
    pub kind: String,
    pub about: Option<String>,
    pub families: Option<Vec<FamilyName>>,
    #[serde(default)]
    pub ports: Vec<String>,
    #[serde(default)]
    pub options: OptionsFile,
    pub without_api_server: Option<String>,
    #[serde(default)]
    pub steps: Vec<StepFile>,
    pub default: Option<Verdict>,
    #[serde(default)]
    pub tests: Vec<Line>,
    pub audit: Option<AuditFile>,
}

impl TestFile {
    /// The file that a document holds.
    ///
    /// # Errors
    /// When it is of another kind, or has a field that does not exist.
    pub fn read(document: &Value) -> Result<Self> {
        let file: Self = serde_json::from_value(document.clone())?;
        ensure!(
            file.api_version == API_VERSION && file.kind == KIND,
            "it is a {} {}, not a {API_VERSION} {KIND}",
            file.api_version,
            file.kind
        );
        ensure!(
            file.steps.is_empty()
                || (file.tests.is_empty() && file.default.is_none() && file.audit.is_none()),
            "a file has tests or steps, not both"
        );
        Ok(file)
    }
}

/// `options`: options of the agents.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct OptionsFile {
    #[serde(default)]
    pub allow_egress_to_own_node: bool,
}

/// One item of `steps`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct StepFile {
    pub about: Option<String>,
    #[serde(default)]
    pub apply: Vec<Value>,
    #[serde(default)]
    pub delete: Vec<String>,
    #[serde(default)]
    pub diagnostics: Vec<String>,
    pub default: Verdict,
    #[serde(default)]
    pub tests: Vec<Line>,
    pub audit: Option<AuditFile>,
}

/// `audit`: the verdicts if policies in audit were enforced.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AuditFile {
    pub default: Verdict,
    #[serde(default)]
    pub tests: Vec<Line>,
}

/// One item of `tests`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Line {
    pub name: Option<String>,
    pub from: Option<OneOrMany<Who>>,
    pub only_from: Option<OneOrMany<Who>>,
    pub to: Option<OneOrMany<Who>>,
    pub only_to: Option<OneOrMany<Who>>,
    pub ports: Option<OneOrMany<Text>>,
    pub family: Option<FamilyName>,
    pub expect: Option<Verdict>,
}

/// The expected verdict for a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The packet reaches its destination, whether or not a program listens there.
    Allowed,
    /// The packet is dropped.
    Denied,
}

/// An address family as the Kubernetes API writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum FamilyName {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// One item, or a list of items.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One item.
    One(T),
    /// A list.
    Many(Vec<T>),
}

/// A text; the number `80` is read as `"80"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Text.
    Text(String),
    /// A number.
    Number(u16),
}

/// A group: a word, or pods by their labels.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// A word.
    Word(String),
    /// Labels.
    Labels(Map<String, Value>),
}

/// Pods by their labels, as a peer of a NetworkPolicy has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LabelsFile {
    pub namespace: Option<String>,
    pub namespace_selector: Option<Value>,
    pub pod_selector: Option<Value>,
}

impl<T> OneOrMany<T> {
    /// The items in order.
    #[must_use]
    pub fn items(&self) -> &[T] {
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
    /// The word of a group, by its position among the words of the source, then of the destination.
    #[must_use]
    pub fn word(&self, position: usize) -> Option<String> {
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
