//! The answer to `check` as the JSON contract has it.

use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::{NearMiss, PeerMiss, PortMiss};
use policy_engine::flow::Traffic;
use policy_engine::object::ObjectRef;
use policy_engine::policy::adding_field;
use policy_engine::reach::PortSet;
use policy_engine::tier;
use portcullis_crds::diagnostic::Origin;
use schemars::JsonSchema;
use serde::Serialize;

use crate::judge::{self, Answer, Over, Part};
use crate::model::Cluster;
use crate::output::json::{self, API_VERSION, Ports, Protocol, ports};
use crate::output::words;

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
    pub verdict: judge::Verdict,
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
    /// The address family that it holds for, where the families differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<FamilyJson>,
    /// The addresses of source and destination that it holds for, where addresses of one family
    /// differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<[IpAddr; 2]>,
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

/// A family of addresses.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[schemars(rename = "Family")]
#[allow(missing_docs)]
pub enum FamilyJson {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl From<Family> for FamilyJson {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

/// What would be if the policies in audit were enforced.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct WouldBe {
    /// As in what is.
    pub verdict: judge::Verdict,
    /// What the policies of the source would say.
    pub egress: DecisionJson,
    /// What the policies of the destination would say.
    pub ingress: DecisionJson,
    /// What would be allowed of all that was asked for.
    pub allowed: Vec<Ports>,
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
    /// The rules that allow it; or the one rule of a ClusterNetworkPolicy that accepts or denies.
    pub decided_by: Vec<RuleJson>,
    /// The rules of ClusterNetworkPolicies that left it to the next tier, in order.
    pub passed_by: Vec<RuleJson>,
    /// Why.
    pub reason: ReasonJson,
    /// When it is denied: every rule that could have allowed it, the closest first.
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

impl From<tier::Tier> for Tier {
    fn from(tier: tier::Tier) -> Self {
        match tier {
            tier::Tier::Admin => Self::Admin,
            tier::Tier::NetworkPolicy => Self::NetworkPolicy,
            tier::Tier::Baseline => Self::Baseline,
            tier::Tier::Default => Self::Default,
        }
    }
}

/// Why a direction allows or denies.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug)]
#[schemars(rename = "Reason")]
pub enum ReasonJson {
    /// Policies do not apply to this side: a node, an external address or a hostNetwork pod.
    NoSubject,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule of an isolating policy allows it.
    RuleAllows,
    /// A pod always reaches itself.
    SamePod,
    /// A node always reaches its pods.
    OwnNode,
    /// Egress to the own node is not subject to policy, by choice.
    EgressToOwnNode,
    /// A rule of a ClusterNetworkPolicy accepts it.
    RuleAccepts,
    /// The pod is isolated, and no rule allows it.
    NoRuleAllows,
    /// A rule of a ClusterNetworkPolicy denies it.
    RuleDenies,
}

/// A rule of a policy.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Rule")]
pub struct RuleJson {
    /// `namespace/name` or `Kind/name`.
    pub policy: String,
    /// Its position in `ingress` or `egress`, from 1; 0 is a rule that a field adds.
    pub rule: usize,
    /// The field that adds the rule: `allowDNS` or `allowAPIServer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_by: Option<&'static str>,
    /// Where the rule is written, as `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// A rule that does not allow it, and every part that failed.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "NearMiss")]
pub struct NearMissJson {
    /// `namespace/name` or `Kind/name`.
    pub policy: String,
    /// Its position in `ingress` or `egress`, from 1; 0 is a rule that a field adds.
    pub rule: usize,
    /// The field that adds the rule: `allowDNS` or `allowAPIServer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_by: Option<&'static str>,
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
    ContestedAddress,
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

impl Verdict {
    /// The answer as the contract has it.
    #[must_use]
    pub fn new(cluster: &Cluster, answer: &Answer, diagnostics: Vec<String>) -> Option<Self> {
        // The worst part explains the whole answer: users ask why a connection fails.
        let worst = answer.parts.iter().find(|part| part.verdict == judge::Verdict::Denied);
        let worst_part = worst.or(answer.parts.first())?;
        let mut judgement = judgement(cluster, worst_part);
        judgement.verdict = answer.verdict;
        judgement.source.clone_from(&answer.source);
        judgement.destination.clone_from(&answer.destination);
        let several = answer.parts.len() > 1;
        if several {
            (judgement.family, judgement.addresses) = (None, None);
            let all = answer.parts.iter().map(|part| &part.allowed);
            let every = all.fold(PortSet::default(), PortSet::union);
            judgement.allowed = ports(&every);
        }
        let parts = answer.parts.iter().filter(|_| several);
        let parts = parts.map(|part| self::judgement(cluster, part)).collect();
        Some(Self { api_version: API_VERSION, kind: "Verdict", judgement, parts, diagnostics })
    }
}

fn judgement(cluster: &Cluster, part: &Part) -> Judgement {
    let asked = part.asked.as_ref();
    let decisions = part.decisions();
    let misses = &part.explanation;
    Judgement {
        verdict: part.verdict,
        source: part.sources.join(", "),
        destination: part.destinations.join(", "),
        protocol: asked.map(|port| port.protocol.into()),
        port: asked.map(|port| port.number),
        family: part.over.map(|over| match over {
            Over::Family(family) => family.into(),
            Over::Addresses(source, _) => Family::of(source).into(),
        }),
        addresses: part.over.and_then(|over| match over {
            Over::Family(_) => None,
            Over::Addresses(source, destination) => Some([source, destination]),
        }),
        egress: decision(cluster, Direction::Egress, &decisions.egress, &misses.egress, part),
        ingress: decision(cluster, Direction::Ingress, &decisions.ingress, &misses.ingress, part),
        allowed: ports(&part.allowed),
        would_be: part.would_be.as_ref().map(|would| would_be(cluster, would, part)),
    }
}

fn would_be(cluster: &Cluster, would: &judge::WouldBe, part: &Part) -> WouldBe {
    let (misses, judged) = (&would.explanation, &would.explanation.verdict);
    WouldBe {
        verdict: would.verdict,
        egress: decision(cluster, Direction::Egress, &judged.egress, &misses.egress, part),
        ingress: decision(cluster, Direction::Ingress, &judged.ingress, &misses.ingress, part),
        allowed: ports(&would.allowed),
    }
}

fn decision(
    cluster: &Cluster,
    direction: Direction,
    decision: &Decision,
    misses: &[NearMiss],
    part: &Part,
) -> DecisionJson {
    let rules = |all: &[RuleRef]| -> Vec<RuleJson> {
        all.iter().map(|one| rule(cluster, direction, one)).collect()
    };
    DecisionJson {
        decision: if decision.is_allowed() { AllowDeny::Allow } else { AllowDeny::Deny },
        tier: decision.tier.map_or(Tier::None, Tier::from),
        isolated_by: decision.isolated_by.iter().map(ObjectRef::short).collect(),
        decided_by: rules(&decision.decided_by),
        passed_by: rules(&decision.passed_by),
        reason: match decision.reason {
            Reason::NoSubject => ReasonJson::NoSubject,
            Reason::NotIsolated => ReasonJson::NotIsolated,
            Reason::RuleAllows => ReasonJson::RuleAllows,
            Reason::SamePod => ReasonJson::SamePod,
            Reason::OwnNode => ReasonJson::OwnNode,
            Reason::EgressToOwnNode => ReasonJson::EgressToOwnNode,
            Reason::RuleAccepts => ReasonJson::RuleAccepts,
            Reason::NoRuleAllows => ReasonJson::NoRuleAllows,
            Reason::RuleDenies => ReasonJson::RuleDenies,
        },
        near_misses: misses
            .iter()
            .map(|miss| near_miss(cluster, direction, miss, part.flow.traffic))
            .collect(),
    }
}

fn rule(cluster: &Cluster, direction: Direction, rule: &RuleRef) -> RuleJson {
    let origin = cluster.rule_origin(&rule.policy, direction, rule.rule);
    let origin = origin.as_ref().map(Origin::to_string);
    RuleJson {
        policy: rule.policy.short(),
        rule: json::position(rule.rule),
        added_by: adding_field(rule.rule),
        origin,
    }
}

fn near_miss(
    cluster: &Cluster,
    direction: Direction,
    miss: &NearMiss,
    traffic: Traffic,
) -> NearMissJson {
    let origin = cluster.rule_origin(&miss.rule.policy, direction, miss.rule.rule);
    NearMissJson {
        policy: miss.rule.policy.short(),
        rule: json::position(miss.rule.rule),
        added_by: adding_field(miss.rule.rule),
        origin: origin.as_ref().map(Origin::to_string),
        peers: miss.peers.iter().map(Miss::peer).collect(),
        ports: miss.ports.iter().map(|port| Miss::port(port, traffic)).collect(),
    }
}

impl Miss {
    fn peer(miss: &PeerMiss) -> Self {
        let reason = match miss {
            PeerMiss::NotAPod => MissReason::NotAPod,
            PeerMiss::Contested(_) => MissReason::ContestedAddress,
            PeerMiss::OtherNamespace { .. } => MissReason::OtherNamespace,
            PeerMiss::NamespaceLabels { .. } => MissReason::NamespaceLabels,
            PeerMiss::PodLabels { .. } => MissReason::PodLabels,
            PeerMiss::NoAddress => MissReason::NoAddress,
            PeerMiss::OutsideBlock(_) => MissReason::OutsideBlock,
            PeerMiss::InExcept(_) => MissReason::InExcept,
            PeerMiss::NotANode => MissReason::NotANode,
            PeerMiss::NodeLabels { .. } => MissReason::NodeLabels,
            PeerMiss::Invalid => MissReason::Invalid,
        };
        Self { reason, message: words::peer_miss(miss) }
    }

    fn port(miss: &PortMiss, asked: Traffic) -> Self {
        let reason = match miss {
            PortMiss::OtherProtocol(_) => MissReason::OtherProtocol,
            PortMiss::OutsideRange(_) => MissReason::OutsideRange,
            PortMiss::NameMissing { .. } => MissReason::NameMissing,
            PortMiss::NameElsewhere { .. } => MissReason::NameElsewhere,
            PortMiss::NameWithoutLabels => MissReason::NameWithoutLabels,
            PortMiss::NoPorts => MissReason::NoPorts,
            PortMiss::Invalid => MissReason::Invalid,
        };
        Self { reason, message: words::port_miss(miss, asked) }
    }
}
