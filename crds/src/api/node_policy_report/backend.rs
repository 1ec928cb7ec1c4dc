//! What a report says of the backend of its node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node is programmed with.
#[derive(Serialize, Deserialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// What holds the rules.
    pub name: BackendName,
    /// Why the agent uses it: a flag, or what it found on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = super::MESSAGE_LENGTH_MAX))]
    pub reason: Option<String>,
    /// The address families that are enforced.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub families: Vec<Family>,
}

/// What holds the rules of a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendName {
    /// iptables and ipset, by the older interface of the kernel.
    #[serde(rename = "iptables-legacy")]
    IptablesLegacy,
    /// iptables and ipset, by the interface of nftables.
    #[serde(rename = "iptables-nft")]
    IptablesNft,
    /// nftables, without iptables and ipset.
    #[serde(rename = "nftables")]
    Nftables,
}

/// An address family, as Kubernetes writes it.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug,
)]
pub enum Family {
    /// IP version 4.
    IPv4,
    /// IP version 6.
    IPv6,
}
