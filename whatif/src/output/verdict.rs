//! An answer as the JSON contract has it.

use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::{NearMiss, PeerMiss, PortMiss};
use policy_engine::flow::Traffic;
use policy_engine::object::ObjectRef;
use policy_engine::reach::PortSet;
use policy_engine::tier;
use portcullis_crds::diagnostic::Origin;

use super::json::{
    API_VERSION, AllowDeny, DecisionJson, Judgement, Miss, MissReason, NearMissJson, ReasonJson,
    RuleJson, Tier, Verdict, WouldBe, ports,
};
use super::words;
use crate::judge::{self, Answer, Part};
use crate::model::Cluster;

impl Verdict {
    /// The answer as the contract has it.
    #[must_use]
    pub fn new(cluster: &Cluster, answer: &Answer, diagnostics: Vec<String>) -> Option<Self> {
        // The worst part explains the whole: what people ask for is why something fails.
        let worst = answer.parts.iter().find(|part| part.verdict == judge::Verdict::Denied);
        let telling = worst.or(answer.parts.first())?;
        let mut judgement = judgement(cluster, telling);
        judgement.verdict = answer.verdict.into();
        judgement.source.clone_from(&answer.source);
        judgement.destination.clone_from(&answer.destination);
        let several = answer.parts.len() > 1;
        if several {
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
        verdict: part.verdict.into(),
        source: part.sources.join(", "),
        destination: part.destinations.join(", "),
        protocol: asked.map(|port| port.protocol.into()),
        port: asked.map(|port| port.number),
        egress: decision(cluster, Direction::Egress, &decisions.egress, &misses.egress, part),
        ingress: decision(cluster, Direction::Ingress, &decisions.ingress, &misses.ingress, part),
        allowed: ports(&part.allowed),
        would_be: part.would_be.as_ref().map(|would| would_be(cluster, would, part)),
    }
}

fn would_be(cluster: &Cluster, would: &judge::WouldBe, part: &Part) -> WouldBe {
    let (misses, judged) = (&would.explanation, &would.explanation.verdict);
    WouldBe {
        verdict: would.verdict.into(),
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
        tier: match decision.tier {
            None => Tier::None,
            Some(tier::Tier::Admin) => Tier::Admin,
            Some(tier::Tier::NetworkPolicy) => Tier::NetworkPolicy,
            Some(tier::Tier::Baseline) => Tier::Baseline,
            Some(tier::Tier::Default) => Tier::Default,
        },
        isolated_by: decision.isolated_by.iter().map(ObjectRef::short).collect(),
        decided_by: rules(&decision.decided_by),
        passed_by: rules(&decision.passed_by),
        reason: match decision.reason {
            Reason::NoSubject => ReasonJson::NoSubject,
            Reason::NotIsolated => ReasonJson::NotIsolated,
            Reason::RuleAdmits => ReasonJson::RuleAdmits,
            Reason::SamePod => ReasonJson::SamePod,
            Reason::OwnNode => ReasonJson::OwnNode,
            Reason::EgressToOwnNode => ReasonJson::EgressToOwnNode,
            Reason::RuleAccepts => ReasonJson::RuleAccepts,
            Reason::NoRuleAdmits => ReasonJson::NoRuleAdmits,
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
    RuleJson { policy: rule.policy.short(), rule: rule.rule, origin }
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
        rule: miss.rule.rule,
        origin: origin.as_ref().map(Origin::to_string),
        peers: miss.peers.iter().map(Miss::peer).collect(),
        ports: miss.ports.iter().map(|port| Miss::port(port, traffic)).collect(),
    }
}

impl Miss {
    fn peer(miss: &PeerMiss) -> Self {
        let reason = match miss {
            PeerMiss::NotAPod => MissReason::NotAPod,
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
