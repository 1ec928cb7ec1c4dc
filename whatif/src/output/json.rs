//! The JSON contract, `whatif.portcullis.dev/v1alpha1`. Fields are added, never changed.

use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::reach::PortSet;
use portcullis_crds::diagnostic::Diagnostic;
use schemars::JsonSchema;
use serde::Serialize;

use crate::judge;

/// The `apiVersion` of everything here.
pub const API_VERSION: &str = "whatif.portcullis.dev/v1alpha1";

/// The answer to `check`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Verdict")]
pub struct Verdict {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Verdict`.
    pub kind: &'static str,
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub judgement: Judgement,
    /// When source or destination stand for several that policies tell apart: each by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Judgement>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

/// What holds between a source and a destination.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Mixed: some of what was asked for is allowed, some is not.
    pub verdict: Word,
    /// `namespace/kind/name`, an address, `node/NAME` or `external`.
    pub source: String,
    /// As `source`.
    pub destination: String,
    /// The protocol that was asked for; left out without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The port that was asked for: the pod's, after the translation of a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What the policies of the source say.
    pub egress: DecisionJson,
    /// What the policies of the destination say.
    pub ingress: DecisionJson,
    /// What is allowed of all that was asked for.
    pub allowed: Vec<Ports>,
    /// What would be if the policies in audit were enforced; left out when it is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_be: Option<WouldBe>,
}

/// What would be if the policies in audit were enforced.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct WouldBe {
    /// As in what is.
    pub verdict: Word,
    /// What the policies of the source would say.
    pub egress: DecisionJson,
    /// What the policies of the destination would say.
    pub ingress: DecisionJson,
    /// What would be allowed of all that was asked for.
    pub allowed: Vec<Ports>,
}

/// A verdict in one word.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Word {
    Allowed,
    Denied,
    Mixed,
    Undetermined,
}

/// A protocol with ports.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Ports of one protocol, both ends included.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub from: u16,
    /// The last port.
    pub to: u16,
}

/// What one direction says.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Decision")]
pub struct DecisionJson {
    /// Whether this direction lets the connection pass.
    pub decision: AllowDeny,
    /// The tier that decided; None: nothing did, so it passes.
    pub tier: Tier,
    /// The policies of that tier that isolate the pod, as `namespace/name` or, those of the whole
    /// cluster, `Kind/name`.
    pub isolated_by: Vec<String>,
    /// The rules that admit it; or the one rule of a ClusterNetworkPolicy that accepts or denies.
    pub decided_by: Vec<RuleJson>,
    /// The rules of ClusterNetworkPolicies that left it to the next tier, in order.
    pub passed_by: Vec<RuleJson>,
    /// Why.
    pub reason: ReasonJson,
    /// When it is denied: every rule that could have admitted it, the closest first.
    pub near_misses: Vec<NearMissJson>,
}

/// Allow or deny.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum AllowDeny {
    Allow,
    Deny,
}

/// The tiers, in the order in which they decide.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Tier {
    Admin,
    NetworkPolicy,
    Baseline,
    Default,
    None,
}

/// Why a direction allows or denies.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug)]
#[schemars(rename = "Reason")]
pub enum ReasonJson {
    /// This side is no pod, so no policy is about it.
    NoSubject,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule of an isolating policy admits it.
    RuleAdmits,
    /// A pod always reaches itself.
    SamePod,
    /// A node always reaches its pods.
    OwnNode,
    /// Egress to the own node is not subject to policy, by choice.
    EgressToOwnNode,
    /// A rule of a ClusterNetworkPolicy accepts it.
    RuleAccepts,
    /// The pod is isolated, and no rule admits it.
    NoRuleAdmits,
    /// A rule of a ClusterNetworkPolicy denies it.
    RuleDenies,
}

/// A rule of a policy.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[schemars(rename = "Rule")]
pub struct RuleJson {
    /// `namespace/name` or `Kind/name`.
    pub policy: String,
    /// Its position in `ingress` or `egress`, from 1; 0 is the rule that `allowDNS` adds.
    pub rule: usize,
    /// Where the rule is written, as `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// A rule that does not admit it, and every part that failed.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[schemars(rename = "NearMiss")]
pub struct NearMissJson {
    /// `namespace/name` or `Kind/name`.
    pub policy: String,
    /// Its position in `ingress` or `egress`, from 1; 0 is the rule that `allowDNS` adds.
    pub rule: usize,
    /// Where the rule is written, as `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Empty when a peer matches, else why each does not, in the order of `from` or `to`.
    pub peers: Vec<Miss>,
    /// Empty when a port matches, else why each does not, in the order of `ports`.
    pub ports: Vec<Miss>,
}

/// Why one peer or port does not match.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Miss {
    /// For programs.
    pub reason: MissReason,
    /// For people: what it wants, and what there is.
    pub message: String,
}

/// Why a peer or port does not match.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum MissReason {
    NotAPod,
    OtherNamespace,
    NamespaceLabels,
    PodLabels,
    NoAddress,
    OutsideBlock,
    InExcept,
    NotANode,
    NodeLabels,
    OtherProtocol,
    OutsideRange,
    NameMissing,
    NameElsewhere,
    NameWithoutLabels,
    NoPorts,
    Invalid,
}

/// The answer to `map`, `who` and `reach`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Map")]
pub struct Map {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Map`.
    pub kind: &'static str,
    /// Every pair between which something is allowed; a pod always reaches itself, unsaid.
    pub entries: Vec<Entry>,
    /// What is allowed to and from addresses that no pod and no node has.
    pub external: Vec<External>,
    /// What is wrong with what was read, and what was assumed.
    pub diagnostics: Vec<String>,
}

/// What one may open at another.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct Entry {
    /// `namespace/kind/name`; with `--by namespace` `namespace/*`; `node/NAME` of a node that is
    /// asked about.
    pub source: Arc<str>,
    /// As `source`.
    pub destination: Arc<str>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
}

/// What is allowed between a workload and addresses outside.
#[derive(Serialize, JsonSchema, Clone, Debug)]
pub struct External {
    /// `namespace/kind/name`; with `--by namespace` `namespace/*`.
    pub workload: Arc<str>,
    /// Ingress: from outside to the workload.
    pub direction: DirectionJson,
    /// The addresses. One that a pod or node owns is that pod or node.
    pub cidrs: Arc<[String]>,
    /// Sorted and merged; never empty.
    pub allowed: Arc<[Ports]>,
}

/// Towards the workload, or from it.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[schemars(rename = "Direction")]
#[allow(missing_docs)]
pub enum DirectionJson {
    Ingress,
    Egress,
}

impl From<Direction> for DirectionJson {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl From<policy_engine::port::Protocol> for Protocol {
    fn from(protocol: policy_engine::port::Protocol) -> Self {
        match protocol {
            policy_engine::port::Protocol::Tcp => Self::Tcp,
            policy_engine::port::Protocol::Udp => Self::Udp,
            policy_engine::port::Protocol::Sctp => Self::Sctp,
        }
    }
}

impl From<judge::Verdict> for Word {
    fn from(verdict: judge::Verdict) -> Self {
        match verdict {
            judge::Verdict::Allowed => Self::Allowed,
            judge::Verdict::Denied => Self::Denied,
            judge::Verdict::Mixed => Self::Mixed,
            judge::Verdict::Undetermined => Self::Undetermined,
        }
    }
}

/// A port set as the contract has it.
#[must_use]
pub fn ports(set: &PortSet) -> Vec<Ports> {
    let each = set.iter();
    each.map(|(protocol, range)| Ports {
        protocol: protocol.into(),
        from: range.first(),
        to: range.last(),
    })
    .collect()
}

/// What is wrong and what was assumed, one text each.
#[must_use]
pub fn diagnostics(diagnostics: &[Diagnostic], notes: &[String]) -> Vec<String> {
    let found = diagnostics.iter().map(ToString::to_string);
    found.chain(notes.iter().map(|note| format!("note: {note}"))).collect()
}
