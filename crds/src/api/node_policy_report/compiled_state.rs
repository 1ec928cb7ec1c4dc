//! What a report says of the rules that the agent compiled.

use std::fmt;

use policy_engine::engine::hashes::Hashes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::inspection::OptionFacts;

/// Hashes of the rules that the agent compiled from the API objects, and what they depend on beside
/// the objects: the same objects and options have the same hashes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct CompiledState {
    /// A hash of the rules that each address of a pod of the node has.
    #[schemars(length(max = 16))]
    pub rules: String,
    /// A hash of the members of all sets that the rules refer to. As of `observedAt`: a new value
    /// alone is no reason to write the report.
    #[schemars(length(max = 16))]
    pub members: String,
    /// The options of the agent that the rules depend on.
    pub options: OptionFacts,
}

impl CompiledState {
    /// The state with these hashes.
    #[must_use]
    pub fn new(hashes: &Hashes, options: OptionFacts) -> Self {
        let Hashes { rules, members } = hashes;
        Self { rules: rules.to_string(), members: members.to_string(), options }
    }
}

/// Both hashes, as `RULES-MEMBERS`.
impl fmt::Display for CompiledState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.rules, self.members)
    }
}
