//! A ruleset as the rules of one chain: what is allowed returns, the rest is denied.

use std::collections::BTreeMap;

use ipnet::IpNet;
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{AddressSet, AllowRule, Ruleset, SetKind, TrafficMatch};
use policy_engine::id::SetId;
use policy_engine::model::Direction;
use policy_engine::port::{PortRange, Protocol};

use super::name;
use super::options::DenyAction;
use super::rule::{Is, Rule};
use super::set::{DesiredSet, Kind, Source, lower_case};

/// How many ports a multiport match takes; a range takes two slots.
const MULTIPORT_SLOTS: usize = 15;

/// What rulesets of one family are rendered with, and the sets they turned out to need.
pub(super) struct Renderer<'a> {
    pub family: Family,
    pub deny: DenyAction,
    pub known: &'a BTreeMap<SetId, AddressSet>,
    pub needed: BTreeMap<String, DesiredSet<'a>>,
}

impl Renderer<'_> {
    /// The rules of `ruleset`; without one, the rule that denies all.
    pub(super) fn rules(&mut self, ruleset: Option<&Ruleset>) -> Vec<String> {
        let mut rules = Vec::new();
        if let Some(ruleset) = ruleset {
            for rule in &ruleset.rules {
                self.allow(ruleset.direction, rule, &mut rules);
            }
        }
        rules.push(self.deny_rule());
        rules
    }

    fn allow(&mut self, direction: Direction, rule: &AllowRule, rules: &mut Vec<String>) {
        match rule {
            AllowRule::Peers { traffic, pods, cidrs } => {
                let peers = self.peers(pods.as_ref(), cidrs);
                for traffic in traffic_matches(traffic) {
                    for peer in &peers {
                        rules.push(peer.narrow(direction, traffic.rule()).to_string());
                    }
                }
            }
            AllowRule::PeerPorts { set } => {
                // The port is the destination's in both directions, the address is the peer's.
                let sides = match direction {
                    Direction::Ingress => "src,dst",
                    Direction::Egress => "dst,dst",
                };
                if let Some(name) = self.engine_set(set, SetKind::AddressPorts) {
                    let rule = Rule::jump("RETURN");
                    rules.push(rule.matching(match_set(&name, sides)).to_string());
                }
            }
        }
    }

    /// The peers of one family. None: the rule is of no use in this family.
    fn peers(&mut self, pods: Option<&SetId>, cidrs: &CidrSet) -> Vec<Peer> {
        if cidrs.is_whole(self.family) {
            return vec![Peer::Any];
        }
        let mut peers = Vec::new();
        if let Some(name) = pods.and_then(|id| self.engine_set(id, SetKind::Addresses)) {
            peers.push(Peer::Set(name));
        }
        let networks = cidrs.networks(self.family);
        match networks.as_slice() {
            [] => {}
            [network] => peers.push(Peer::Network(*network)),
            _ => peers.push(Peer::Set(self.network_set(networks))),
        }
        peers
    }

    /// The name of an engine's set; none when the engine has no such set of that kind. A rule
    /// without its set allows nothing.
    fn engine_set(&mut self, id: &SetId, kind: SetKind) -> Option<String> {
        let set = self.known.get(id).filter(|set| set.kind == kind)?;
        let kind = Kind::from(kind);
        let name = name::set(self.family, kind, id);
        let source = Source::Engine(*id, set);
        self.needed.insert(name.clone(), DesiredSet { kind, family: self.family, source });
        Some(name)
    }

    fn network_set(&mut self, networks: Vec<IpNet>) -> String {
        let name = name::network_set(self.family, &networks);
        let source = Source::Networks(networks);
        let set = DesiredSet { kind: Kind::Network, family: self.family, source };
        self.needed.insert(name.clone(), set);
        name
    }

    fn deny_rule(&self) -> String {
        let target = match (self.deny, self.family) {
            (DenyAction::Drop, _) => "DROP",
            (DenyAction::Reject, Family::V4) => "REJECT --reject-with icmp-port-unreachable",
            (DenyAction::Reject, Family::V6) => "REJECT --reject-with icmp6-port-unreachable",
        };
        Rule::jump(target).to_string()
    }
}

enum Peer {
    Any,
    Set(String),
    Network(IpNet),
}

impl Peer {
    fn narrow(&self, direction: Direction, rule: Rule) -> Rule {
        match (self, direction) {
            (Self::Any, _) => rule,
            (Self::Set(name), Direction::Ingress) => rule.matching(match_set(name, "src")),
            (Self::Set(name), Direction::Egress) => rule.matching(match_set(name, "dst")),
            (Self::Network(network), Direction::Ingress) => rule.source(Is::Within(*network)),
            (Self::Network(network), Direction::Egress) => rule.destination(Is::Within(*network)),
        }
    }
}

pub(super) fn match_set(name: &str, sides: &str) -> String {
    format!("-m set --match-set {name} {sides}")
}

/// Traffic that one rule can match.
struct OneMatch {
    protocol: Option<Protocol>,
    ports: Option<String>,
}

impl OneMatch {
    fn rule(&self) -> Rule {
        let mut rule = Rule::jump("RETURN");
        if let Some(protocol) = self.protocol {
            rule = rule.protocol(lower_case(protocol));
        }
        if let Some(ports) = &self.ports {
            rule = rule.matching(ports);
        }
        rule
    }
}

fn traffic_matches(traffic: &TrafficMatch) -> Vec<OneMatch> {
    match traffic {
        TrafficMatch::Any => vec![OneMatch { protocol: None, ports: None }],
        // Without a port match: a match of 0:65535 is not printed back.
        TrafficMatch::Ports(protocol, ranges) if ranges.contains(&PortRange::ALL) => {
            vec![OneMatch { protocol: Some(*protocol), ports: None }]
        }
        TrafficMatch::Ports(protocol, ranges) => in_slots(ranges)
            .into_iter()
            .map(|ranges| OneMatch {
                protocol: Some(*protocol),
                ports: Some(port_match(*protocol, &ranges)),
            })
            .collect(),
    }
}

/// `ranges` in order, in groups that each fit a multiport match.
fn in_slots(ranges: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut groups: Vec<Vec<PortRange>> = Vec::new();
    let mut free = 0;
    for range in ranges {
        let slots = if range.count() == 1 { 1 } else { 2 };
        match groups.last_mut() {
            Some(group) if slots <= free => group.push(*range),
            _ => {
                groups.push(vec![*range]);
                free = MULTIPORT_SLOTS;
            }
        }
        free -= slots;
    }
    groups
}

fn port_match(protocol: Protocol, ranges: &[PortRange]) -> String {
    let ports: Vec<String> = ranges.iter().map(|range| show_ports(*range)).collect();
    match ports.as_slice() {
        [port] => format!("-m {} --dport {port}", lower_case(protocol)),
        _ => format!("-m multiport --dports {}", ports.join(",")),
    }
}

fn show_ports(range: PortRange) -> String {
    if range.count() == 1 {
        range.first().to_string()
    } else {
        format!("{}:{}", range.first(), range.last())
    }
}
