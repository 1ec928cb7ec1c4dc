//! The JSON of `nft -j list`, as libnftables-json(5) describes it: the parts that the interpreter
//! reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Everything that one call lists.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// Objects, each under the name of its type.
    pub(super) nftables: Vec<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TableObject {
    pub(super) family: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ChainObject {
    pub(super) name: String,
    /// Only base chains have a hook, a priority and a policy.
    pub(super) hook: Option<String>,
    pub(super) prio: Option<i32>,
    pub(super) policy: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RuleObject {
    pub(super) chain: String,
    pub(super) handle: usize,
    pub(super) expr: Vec<Statement>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CounterObject {
    pub(super) name: String,
    pub(super) packets: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct SetObject {
    pub(super) family: String,
    pub(super) name: String,
    /// One type, or the types of a concatenation.
    #[serde(rename = "type")]
    pub(super) kind: Value,
    #[serde(default)]
    pub(super) elem: Vec<Value>,
    /// Only sets whose elements expire have one.
    pub(super) timeout: Option<u64>,
}

/// One part of a rule. Parts of other types are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Statement {
    Match(Match),
    Vmap(VerdictMap),
    Counter(Value),
    /// Adds an element to a set, with a condition for each element.
    Set(Update),
    Limit(Limit),
    Log(Log),
    Reject(Option<Reject>),
    Accept,
    Drop,
    Return,
    Jump(Chain),
    Goto(Chain),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    pub(super) op: String,
    pub(super) left: Expression,
    pub(super) right: Value,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerdictMap {
    pub(super) key: Expression,
    pub(super) data: MapData,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MapData {
    pub(super) set: Vec<(Value, Statement)>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    pub(super) op: String,
    pub(super) elem: Expression,
    pub(super) set: String,
    pub(super) stmt: Vec<Statement>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    pub(super) rate: u64,
    pub(super) per: String,
    pub(super) burst: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) prefix: String,
    pub(super) group: u16,
    pub(super) snaplen: Option<u32>,
    #[serde(rename = "queue-threshold")]
    pub(super) queue_threshold: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reject {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) expr: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chain {
    pub(super) target: String,
}

/// A field of a packet.
#[derive(Debug, Clone, Deserialize)]
pub(super) enum Expression {
    #[serde(rename = "payload")]
    Payload(Payload),
    #[serde(rename = "meta")]
    Meta(Key),
    #[serde(rename = "ct")]
    Conntrack(Key),
    #[serde(rename = "concat")]
    Concatenation(Vec<Self>),
    #[serde(rename = "&")]
    Masked(Box<(Self, Value)>),
    #[serde(rename = "sctp chunk")]
    SctpChunk(SctpChunk),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Payload {
    /// A field that `nft` has a name for.
    Named { protocol: String, field: String },
    /// A number of bits: in tables for bridges, `nft` has no names for fields of IP headers.
    Bits { base: String, offset: u32, len: u32 },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) key: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SctpChunk {
    pub(super) name: String,
}
