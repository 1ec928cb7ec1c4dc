//! What `portcullis verify` writes with `-o json`, and `kubectl whatif verify` reads: the compiled state
//! of a node, and in what the kernel differs from it.

use std::net::IpAddr;

use policy_engine::budget::Budgets;
use policy_engine::compiled::Compiled;
use policy_engine::labels::Str;
use policy_engine::world;
use policy_engine::world::enforcement::Enforcement;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::node_policy_report::CompiledState;

/// How long the name of a namespace may be.
const NAME_LENGTH_MAX: usize = 63;
/// How many system namespaces a report lists.
const SYSTEM_NAMESPACES_MAX: usize = 1000;
/// How long the text of an option may be in a report.
const TEXT_LENGTH_MAX: usize = 4000;

/// The compiled state of a node, and in what the kernel differs from it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// The node.
    pub node: NodeFacts,
    /// Which rulesets the addresses of the node's pods have.
    pub endpoints: Vec<EndpointFacts>,
    /// The sets that the rules refer to.
    pub sets: Vec<SetFacts>,
    /// How many chains of the kernel were compared.
    pub chains_compared: usize,
    /// How many rules of the kernel were compared.
    pub rules_compared: usize,
    /// In what the kernel differs.
    pub differences: Vec<Difference>,
}

/// What an agent is, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// The name of the node.
    pub node: String,
    /// `legacy` or `nft`, or `nftables` where no iptables is used.
    pub variant: String,
    /// The table that has the chains.
    pub table: String,
    /// `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// Whether all changes that the agent knows are applied.
    pub is_applied: bool,
    /// Hashes of the compiled rules, and what these depend on beside the objects.
    pub compiled_state: CompiledState,
}

/// The options of an agent that change verdicts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OptionFacts {
    /// Whether egress policies do not apply to packets from pods to their own node.
    pub allow_egress_to_own_node: bool,
    /// The namespace of Portcullis.
    #[schemars(length(max = NAME_LENGTH_MAX))]
    pub own_namespace: String,
    /// The system namespaces beside it and those of Kubernetes.
    #[schemars(
        length(max = SYSTEM_NAMESPACES_MAX),
        inner(length(max = NAME_LENGTH_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub system_namespaces: Vec<String>,
    /// As `--budgets` takes them.
    #[schemars(length(max = TEXT_LENGTH_MAX))]
    pub budgets: String,
    /// In which namespaces policies are enforced: a label selector; none for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = TEXT_LENGTH_MAX))]
    pub enforce_namespaces: Option<String>,
    /// Whether they are enforced nowhere.
    #[serde(default)]
    pub is_audit: bool,
}

/// The rulesets of an address of a pod. They are named by a hash of their rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct EndpointFacts {
    pub address: IpAddr,
    pub pod: String,
    pub ingress: Option<String>,
    pub egress: Option<String>,
    pub audited_ingress: Option<String>,
    pub audited_egress: Option<String>,
}

/// A set as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetFacts {
    /// Its name in the kernel.
    pub name: String,
    /// A hash of its definition; none if its members do not depend on labels.
    pub id: Option<String>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Whose addresses it holds.
    pub words: String,
    /// How many members it has.
    pub members: usize,
    /// The first members.
    pub first: Vec<String>,
    /// A hash of all members.
    pub digest: String,
}

/// Something in the kernel that is not as it should be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// `IPv4` or `IPv6`; none for sets.
    pub family: Option<String>,
    /// The chain or set.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// The pods whose packets it concerns.
    pub pods: Vec<String>,
}

impl OptionFacts {
    /// Whether they are within the limits of a report.
    #[must_use]
    pub fn fit_into_report(&self) -> bool {
        let fits = |text: &String, limit| text.chars().count() <= limit;
        let texts = std::iter::once(&self.budgets).chain(&self.enforce_namespaces);
        let names = std::iter::once(&self.own_namespace).chain(&self.system_namespaces);
        self.system_namespaces.len() <= SYSTEM_NAMESPACES_MAX
            && names.into_iter().all(|name| fits(name, NAME_LENGTH_MAX))
            && texts.into_iter().all(|text| fits(text, TEXT_LENGTH_MAX))
    }

    /// The facts about these options.
    #[must_use]
    pub fn new(options: &world::Options) -> Self {
        Self {
            allow_egress_to_own_node: options.allow_egress_to_own_node,
            own_namespace: options.own_namespace.to_string(),
            system_namespaces: options.system_namespaces.iter().map(ToString::to_string).collect(),
            budgets: options.budgets.to_string(),
            enforce_namespaces: match &options.enforcement {
                Enforcement::Namespaces(selector) => Some(selector.to_string()),
                Enforcement::Everywhere | Enforcement::Nowhere => None,
            },
            is_audit: options.enforcement == Enforcement::Nowhere,
        }
    }

    /// The options; `None` if the budgets are those of another version.
    #[must_use]
    pub fn options(&self) -> Option<world::Options> {
        let names = self.system_namespaces.iter();
        Some(world::Options {
            allow_egress_to_own_node: self.allow_egress_to_own_node,
            own_namespace: self.own_namespace.as_str().into(),
            system_namespaces: names.map(|name| Str::from(name.as_str())).collect(),
            budgets: self.budgets.parse::<Budgets>().ok()?,
            enforcement: match &self.enforce_namespaces {
                _ if self.is_audit => Enforcement::Nowhere,
                None => Enforcement::Everywhere,
                Some(selector) => Enforcement::Namespaces(selector.parse().ok()?),
            },
        })
    }
}

impl EndpointFacts {
    /// The facts about all addresses that have rulesets.
    #[must_use]
    pub fn all(compiled: &Compiled) -> Vec<Self> {
        let endpoints = compiled.endpoints.iter();
        let facts = endpoints.map(|(address, endpoint)| {
            let (enforced, audited) = (endpoint.enforced, endpoint.audited);
            Self {
                address: *address,
                pod: endpoint.pod.to_string(),
                ingress: enforced.ingress.map(|id| id.to_string()),
                egress: enforced.egress.map(|id| id.to_string()),
                audited_ingress: audited.ingress.map(|id| id.to_string()),
                audited_egress: audited.egress.map(|id| id.to_string()),
            }
        });
        facts.collect()
    }
}
