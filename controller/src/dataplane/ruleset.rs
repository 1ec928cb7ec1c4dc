//! A ruleset as the rules of one chain: what is allowed returns, the rest is denied.

use std::collections::BTreeMap;

use ipnet::IpNet;
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{AddressSet, Match, Ruleset, SetKind, Target, TrafficMatch};
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
                for target in self.target(rule.target) {
                    self.rule(ruleset.direction, &rule.matches, &target, &mut rules);
                }
            }
        }
        let otherwise = ruleset.map_or(Target::Deny, |ruleset| ruleset.otherwise);
        rules.extend(self.target(otherwise).iter().map(ToString::to_string));
        rules
    }

    /// The rules without a match that do what `target` says.
    fn target(&self, target: Target) -> Vec<Rule> {
        match target {
            Target::Allow => vec![Rule::jump("RETURN")],
            Target::Deny => self.deny_rules(),
            Target::Next(next) => vec![Rule::goto(&name::ruleset(&next))],
        }
    }

    fn rule(
        &mut self,
        direction: Direction,
        matches: &Match,
        target: &Rule,
        rules: &mut Vec<String>,
    ) {
        match matches {
            Match::Peers { traffic, labelled, cidrs } => {
                let peers = self.peers(labelled.as_ref(), cidrs);
                for traffic in traffic_matches(traffic) {
                    for peer in &peers {
                        let rule = traffic.narrow(target.clone());
                        rules.push(peer.narrow(direction, rule).to_string());
                    }
                }
            }
            Match::PeerPorts { set } => {
                // The port is the destination's in both directions, the address is the peer's.
                let sides = match direction {
                    Direction::Ingress => "src,dst",
                    Direction::Egress => "dst,dst",
                };
                if let Some(name) = self.engine_set(set, SetKind::AddressPorts) {
                    let rule = target.clone().matching(match_set(&name, sides));
                    rules.push(rule.to_string());
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

    fn deny_rules(&self) -> Vec<Rule> {
        let unreachable = match (self.deny, self.family) {
            (DenyAction::Drop, _) => return vec![Rule::jump("DROP")],
            (DenyAction::Reject, Family::V4) => "REJECT --reject-with icmp-port-unreachable",
            (DenyAction::Reject, Family::V6) => "REJECT --reject-with icmp6-port-unreachable",
        };
        // A reset needs no address of the node's own, an ICMP error does.
        let reset = Rule::jump("REJECT --reject-with tcp-reset").protocol("tcp");
        vec![reset, Rule::jump(unreachable)]
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
    fn narrow(&self, mut rule: Rule) -> Rule {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy_engine::id::ContentHasher;
    use policy_engine::tier::Tier;

    use super::*;

    fn ranges(ports: &[(u16, u16)]) -> Vec<PortRange> {
        ports.iter().map(|&(first, last)| PortRange::new(first, last).unwrap()).collect()
    }

    fn id(name: &str) -> SetId {
        SetId::new(ContentHasher::new(name).finish())
    }

    /// The rules for one allow rule, with the names of sets cut short.
    fn check(direction: Direction, family: Family, rule: Match, expected: &[&str]) {
        let set = |kind| AddressSet { kind, members: std::collections::BTreeSet::new() };
        let known = BTreeMap::from([
            (id("pods"), set(SetKind::Addresses)),
            (id("ports"), set(SetKind::AddressPorts)),
        ]);
        let (deny, needed) = (DenyAction::Drop, BTreeMap::new());
        let mut renderer = Renderer { family, deny, known: &known, needed };
        let ruleset = Arc::new(Ruleset {
            direction,
            tier: Tier::NetworkPolicy,
            rules: vec![policy_engine::compiled::Rule { matches: rule, target: Target::Allow }],
            otherwise: Target::Deny,
        });
        let rules = renderer.rules(Some(&ruleset));
        let mut shown: Vec<String> = rules.iter().map(|rule| shorten(rule)).collect();
        assert_eq!(shown.pop().as_deref(), Some("-j DROP"));
        assert_eq!(shown, expected);
    }

    fn shorten(rule: &str) -> String {
        let word = |word: &str| match word.strip_prefix(name::PREFIX) {
            Some(set) => set.chars().take(2).collect(),
            None => word.to_owned(),
        };
        rule.split(' ').map(word).collect::<Vec<String>>().join(" ")
    }

    fn peers(traffic: TrafficMatch, labelled: Option<SetId>, networks: &[&str]) -> Match {
        let network = |text: &&str| CidrSet::network(text.parse().unwrap());
        let cidrs = networks.iter().map(network);
        let cidrs = cidrs.fold(CidrSet::default(), |all, one| all.union(&one));
        Match::Peers { traffic, labelled, cidrs }
    }

    #[test]
    fn pods_and_networks_are_rules_of_their_own() {
        let tcp = TrafficMatch::Ports(Protocol::Tcp, ranges(&[(80, 80)]));
        let rule = peers(tcp, Some(id("pods")), &["10.0.0.0/8", "fd00::/64", "fd01::/64"]);
        let port = "-p tcp -m tcp --dport 80";
        let set = format!("{port} -m set --match-set 4a src -j RETURN");
        let network = format!("-s 10.0.0.0/8 {port} -j RETURN");
        check(Direction::Ingress, Family::V4, rule.clone(), &[&set, &network]);
        let pods = format!("{port} -m set --match-set 6a dst -j RETURN");
        let networks = format!("{port} -m set --match-set 6n dst -j RETURN");
        check(Direction::Egress, Family::V6, rule, &[&pods, &networks]);
    }

    #[test]
    fn a_whole_family_needs_no_look_up_and_an_empty_one_gets_no_rule() {
        let rule = peers(TrafficMatch::Any, Some(id("pods")), &["0.0.0.0/0"]);
        check(Direction::Ingress, Family::V4, rule, &["-j RETURN"]);
        let rule = peers(TrafficMatch::Any, None, &["10.0.0.0/8"]);
        check(Direction::Ingress, Family::V6, rule, &[]);
    }

    #[test]
    fn a_port_is_the_destinations_in_both_directions() {
        let rule = Match::PeerPorts { set: id("ports") };
        let ingress = "-m set --match-set 4p src,dst -j RETURN";
        check(Direction::Ingress, Family::V4, rule.clone(), &[ingress]);
        let egress = "-m set --match-set 6p dst,dst -j RETURN";
        check(Direction::Egress, Family::V6, rule, &[egress]);
    }

    #[test]
    fn a_set_that_is_missing_or_of_another_kind_allows_nothing() {
        for set in ["missing", "ports"] {
            let rule = peers(TrafficMatch::Any, Some(id(set)), &[]);
            check(Direction::Ingress, Family::V4, rule, &[]);
        }
    }

    #[test]
    fn ports_share_rules_of_fifteen_slots() {
        let mut ports: Vec<(u16, u16)> = (1..=14).map(|port| (port * 2, port * 2)).collect();
        // A range takes two slots, so it does not fit any more.
        ports.extend([(100, 101), (200, 200)]);
        let rule = peers(TrafficMatch::Ports(Protocol::Sctp, ranges(&ports)), None, &["0.0.0.0/0"]);
        let first: Vec<String> = (1..=14).map(|port| (port * 2).to_string()).collect();
        let first = format!("-p sctp -m multiport --dports {} -j RETURN", first.join(","));
        let second = "-p sctp -m multiport --dports 100:101,200 -j RETURN";
        check(Direction::Ingress, Family::V4, rule, &[&first, second]);
    }

    #[test]
    fn all_ports_of_a_protocol_need_no_match() {
        let udp = TrafficMatch::Ports(Protocol::Udp, vec![PortRange::ALL]);
        check(
            Direction::Egress,
            Family::V4,
            peers(udp, None, &["0.0.0.0/0"]),
            &["-p udp -j RETURN"],
        );
    }
}
