//! Hashes of definitions and rules, from which sets and rulesets have their names.

use super::{PodMatch, PodPort, PortRef, SetDefinition};
use crate::cidr::{CidrSet, Family};
use crate::compiled::{Match, Ruleset, Target, TrafficMatch};
use crate::id::{ContentHasher, RulesetId, SetId};
use crate::policy::{Namespaces, PodPeer};
use crate::selector::Selector;
use crate::work::{self, Work};

pub(super) fn set_id(definition: &SetDefinition) -> SetId {
    let mut hasher = ContentHasher::new("set");
    match definition {
        SetDefinition::Peers { pods, nodes } => {
            work::done(Work::Name, pods.len() + nodes.len());
            hasher.text("peers");
            hasher.number(pods.len());
            pods.iter().for_each(|peer| hash_peer(&mut hasher, peer));
            hasher.number(nodes.len());
            nodes.iter().for_each(|node| hash_selector(&mut hasher, node));
        }
        SetDefinition::PodPorts(ports) => {
            work::done(Work::Name, ports.len());
            hasher.text("pod-ports");
            hasher.number(ports.len());
            ports.iter().for_each(|port| hash_pod_port(&mut hasher, port));
        }
    }
    SetId::new(hasher.finish())
}

pub(super) fn ruleset_id(ruleset: &Ruleset) -> RulesetId {
    let mut hasher = ContentHasher::new("ruleset");
    hasher.text(ruleset.direction.as_str());
    hasher.text(ruleset.tier.as_str());
    hasher.number(ruleset.rules.len());
    for rule in &ruleset.rules {
        match &rule.matches {
            Match::Peers { traffic, labelled, cidrs } => {
                hasher.text("peers");
                hash_traffic(&mut hasher, traffic);
                // A missing set is hashed as an empty text, because no set has an empty name.
                hasher.text(&labelled.map_or_else(String::new, |set| set.to_string()));
                hash_cidrs(&mut hasher, cidrs);
            }
            Match::PeerPorts { set } => {
                hasher.text("peer-ports");
                hasher.text(&set.to_string());
            }
        }
        hash_target(&mut hasher, rule.target);
    }
    hash_target(&mut hasher, ruleset.otherwise);
    RulesetId::new(hasher.finish())
}

fn hash_target(hasher: &mut ContentHasher, target: Target) {
    match target {
        Target::Allow => hasher.text("allow"),
        Target::Deny => hasher.text("deny"),
        Target::Next(next) => {
            hasher.text("next");
            hasher.text(&next.to_string());
        }
    }
}

fn hash_traffic(hasher: &mut ContentHasher, traffic: &TrafficMatch) {
    match traffic {
        TrafficMatch::Any => hasher.text("any"),
        TrafficMatch::Ports(protocol, ranges) => {
            hasher.text(protocol.as_str());
            hasher.number(ranges.len());
            for range in ranges {
                hasher.number(range.first().into());
                hasher.number(range.last().into());
            }
        }
    }
}

fn hash_cidrs(hasher: &mut ContentHasher, cidrs: &CidrSet) {
    for family in Family::BOTH {
        let networks = cidrs.networks(family);
        hasher.number(networks.len());
        networks.iter().for_each(|net| hasher.text(&net.to_string()));
    }
}

fn hash_pod_port(hasher: &mut ContentHasher, port: &PodPort) {
    match &port.pods {
        PodMatch::Labels(peer) => {
            hasher.text("labels");
            hash_peer(hasher, peer);
        }
        PodMatch::Addresses(cidrs) => {
            hasher.text("addresses");
            hash_cidrs(hasher, cidrs);
        }
    }
    hasher.text(port.protocol.as_str());
    match &port.port {
        PortRef::Number(number) => {
            hasher.text("number");
            hasher.number((*number).into());
        }
        PortRef::Named(name) => {
            hasher.text("name");
            hasher.text(name);
        }
    }
}

fn hash_peer(hasher: &mut ContentHasher, peer: &PodPeer) {
    match &peer.namespaces {
        Namespaces::Named(name) => {
            hasher.text("named");
            hasher.text(name);
        }
        Namespaces::Selected(selector) => {
            hasher.text("selected");
            hash_selector(hasher, selector);
        }
        Namespaces::Own => hasher.text("own"),
    }
    hash_selector(hasher, &peer.pods);
}

fn hash_selector(hasher: &mut ContentHasher, selector: &Selector) {
    hasher.number(selector.requirements().len());
    for requirement in selector.requirements() {
        hasher.text(&requirement.key);
        let (operator, values) = requirement.operator.name_and_values();
        hasher.text(operator);
        hasher.number(values.map_or(0, <[_]>::len));
        values.into_iter().flatten().for_each(|value| hasher.text(value));
    }
}
