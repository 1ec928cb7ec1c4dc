//! A case file as it is written: the types that serde fills, and nothing that interprets them.

use serde::Deserialize;
use serde_json::Value;

/// `kind: PolicyTest`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CaseFile {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) about: String,
    #[serde(default)]
    pub(super) families: Option<Vec<FamilyName>>,
    #[serde(default)]
    pub(super) ports: Vec<String>,
    #[serde(default)]
    pub(super) options: OptionsFile,
    #[serde(default)]
    pub(super) without_api_server: Option<String>,
    pub(super) steps: Vec<StepFile>,
}

/// `options`: what the agents are started with.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OptionsFile {
    #[serde(default)]
    pub(super) allow_egress_to_own_node: bool,
}

/// One item of `steps`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StepFile {
    #[serde(default)]
    pub(super) about: Option<String>,
    #[serde(default)]
    pub(super) apply: Vec<Value>,
    #[serde(default)]
    pub(super) delete: Vec<String>,
    #[serde(default)]
    pub(super) diagnostics: Vec<String>,
    pub(super) default: Verdict,
    #[serde(default)]
    pub(super) tests: Vec<Line>,
}

/// One item of `tests`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default)]
    pub(super) from: Option<OneOrMany>,
    #[serde(default)]
    pub(super) only_from: Option<OneOrMany>,
    #[serde(default)]
    pub(super) to: Option<OneOrMany>,
    #[serde(default)]
    pub(super) only_to: Option<OneOrMany>,
    #[serde(default)]
    pub(super) ports: Option<OneOrMany>,
    #[serde(default)]
    pub(super) family: Option<FamilyName>,
    #[serde(default)]
    pub(super) expect: Option<Verdict>,
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
pub(super) enum FamilyName {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// A text, a number (a port), or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(Text),
    Many(Vec<Text>),
}

/// A text; `80` is as good as `"80"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Text(String),
    Number(u16),
}

impl OneOrMany {
    /// The texts in order.
    pub(super) fn texts(&self) -> Vec<String> {
        let items = match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        };
        let text = |item: &Text| match item {
            Text::Text(text) => text.clone(),
            Text::Number(number) => number.to_string(),
        };
        items.iter().map(text).collect()
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
