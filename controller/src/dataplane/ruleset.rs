//! A ruleset as the rules of one chain: allowed packets return, denied packets enter the chain of
//! that kind of denial, and passed packets enter the chain of the ruleset of the next tier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{self, Compiled, Match, Ruleset, SetKind, Target, TrafficMatch};
use policy_engine::id::{RulesetId, SetId};
use policy_engine::port::PortRange;
use policy_engine::tier::View;

use super::denial::{Cause, Denial, Outcome};
use super::name::{self, SetName};
use super::refusals::Refusals;
use super::rule::{self, Is, Rule, Side, Verdict};
use super::set::{DesiredSet, Kind, Source};

/// How many ports one match can have; a range takes two slots.
const PORT_SLOTS: usize = 15;

/// The input that rulesets of one family are rendered with, and what their rules need.
pub(super) struct Renderer<'a> {
    pub family: Family,
    pub compiled: &'a Compiled,
    pub refusals: &'a Refusals,
    pub needed: BTreeMap<SetName, DesiredSet>,
    /// The kinds of denial that the rules lead to.
    pub denials: BTreeSet<Denial>,
    /// The rulesets that the rules lead to.
    pub next: BTreeSet<RulesetId>,
    /// Why the rules of the last ruleset deny more than the ruleset: one of its sets was refused.
    pub refused: Option<Arc<str>>,
    /// Whether a set or ruleset that the rules refer to is missing.
    pub lacks_something: bool,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(family: Family, compiled: &'a Compiled, refusals: &'a Refusals) -> Self {
        let (needed, denials, next) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let (refused, lacks_something) = (None, false);
        Self { family, compiled, refusals, needed, denials, next, refused, lacks_something }
    }

    /// The rules of `ruleset`. In [`View::Audited`] denials are reported and not enforced.
    pub(super) fn rules(&mut self, view: View, ruleset: &Ruleset) -> Vec<Rule> {
        let mut rules = Vec::new();
        for rule in &ruleset.rules {
            self.rule(view, ruleset, rule, &mut rules);
        }
        rules.push(Rule::all(self.verdict(view, ruleset, ruleset.otherwise)));
        rules
    }

    /// The only rule of `ruleset` if its chain was refused.
    pub(super) fn deny(&mut self, view: View, ruleset: &Ruleset) -> Vec<Rule> {
        vec![Rule::all(self.verdict(view, ruleset, Target::Deny))]
    }

    fn verdict(&mut self, view: View, ruleset: &Ruleset, target: Target) -> Verdict {
        match target {
            Target::Allow => Verdict::Return,
            Target::Next(next) if self.compiled.rulesets.contains_key(&next) => {
                self.next.insert(next);
                Verdict::Goto(name::ruleset(view, &next))
            }
            // If the ruleset that should decide is missing, every packet is denied.
            Target::Next(_) | Target::Deny => {
                self.lacks_something |= target != Target::Deny;
                let outcome = match view {
                    View::Enforced => Outcome::Denied,
                    View::Audited => Outcome::WouldDeny,
                };
                let cause = Cause::Policies(ruleset.tier);
                let denial = Denial { outcome, direction: ruleset.direction, cause };
                self.denials.insert(denial);
                Verdict::Goto(denial.chain())
            }
        }
    }

    fn rule(
        &mut self,
        view: View,
        ruleset: &Ruleset,
        rule: &compiled::Rule,
        rules: &mut Vec<Rule>,
    ) {
        let (traffic, peers) = match &rule.matches {
            Match::Peers { traffic, labelled, cidrs } => {
                (traffic, self.peers(labelled.as_ref(), cidrs))
            }
            Match::PeerPorts { set } => {
                let set = self.engine_set(set, SetKind::AddressPorts);
                (&TrafficMatch::Any, set.map(|set| vec![Peer::WithPort(set)]))
            }
        };
        let (target, peers) = match (rule.target, peers) {
            (target, Ok(peers)) => (target, peers),
            (Target::Allow, Err(Missing { others })) => (Target::Allow, others),
            // The peers are not known: the rule applies to any peer.
            (Target::Deny | Target::Next(_), Err(Missing { .. })) => {
                (Target::Deny, vec![Peer::Any])
            }
        };
        if peers.is_empty() {
            return;
        }
        let verdict = self.verdict(view, ruleset, target);
        let side = Side::of_peer(ruleset.direction);
        for traffic in traffic_matches(traffic) {
            for peer in &peers {
                let matches = traffic.iter().cloned().chain(peer.matched_at(side));
                rules.push(Rule::new(matches, verdict.clone()));
            }
        }
    }

    /// The peers of one family. `None`: the rule matches no packet of this family.
    fn peers(&mut self, labelled: Option<&SetId>, cidrs: &CidrSet) -> Result<Vec<Peer>, Missing> {
        if cidrs.is_whole(self.family) {
            return Ok(vec![Peer::Any]);
        }
        let mut peers = Vec::new();
        let set = labelled.map(|id| self.engine_set(id, SetKind::Addresses)).transpose();
        peers.extend(set.as_ref().ok().copied().flatten().map(Peer::Set));
        let networks = cidrs.networks(self.family);
        let mut is_complete = set.is_ok();
        match networks.as_slice() {
            [] => {}
            [network] => peers.push(Peer::Network(*network)),
            _ => match self.network_set(networks) {
                Ok(set) => peers.push(Peer::Set(set)),
                Err(Missing { .. }) => is_complete = false,
            },
        }
        if is_complete { Ok(peers) } else { Err(Missing { others: peers }) }
    }

    /// The name of an engine's set; an error when the engine has no such set of that kind, or the
    /// set was refused.
    fn engine_set(&mut self, id: &SetId, kind: SetKind) -> Result<SetName, Missing> {
        let is_there = self.compiled.sets.get(id).is_some_and(|set| set.kind == kind);
        let kind = Kind::from(kind);
        let name = name::set(self.family, kind, id);
        self.check_refused(name)?;
        if !is_there {
            self.lacks_something = true;
            return Err(Missing { others: Vec::new() });
        }
        let source = Source::Engine(*id);
        self.needed.insert(name, DesiredSet { kind, family: self.family, source });
        Ok(name)
    }

    fn network_set(&mut self, networks: Vec<IpNet>) -> Result<SetName, Missing> {
        let name = name::network_set(self.family, &networks);
        self.check_refused(name)?;
        let source = Source::Networks(networks);
        let set = DesiredSet { kind: Kind::Network, family: self.family, source };
        self.needed.insert(name, set);
        Ok(name)
    }

    fn check_refused(&mut self, set: SetName) -> Result<(), Missing> {
        let Some(why) = self.refusals.of_set(set) else { return Ok(()) };
        self.refused = Some(why.clone());
        Err(Missing { others: Vec::new() })
    }
}

/// A set that a rule refers to is missing.
struct Missing {
    /// The rule's peers without the missing set.
    others: Vec<Peer>,
}

enum Peer {
    Any,
    Set(SetName),
    /// The peers of a set of addresses with ports.
    WithPort(SetName),
    Network(IpNet),
}

impl Peer {
    /// The match of packets with this peer at `side`.
    fn matched_at(&self, side: Side) -> Option<rule::Match> {
        Some(match self {
            Self::Any => return None,
            Self::Set(name) => rule::Match::Set(*name, side),
            // The port is the destination's in both directions, the address is the peer's.
            Self::WithPort(name) => rule::Match::SetWithPort(*name, side),
            Self::Network(network) => rule::Match::Address(side, Is::Within(*network)),
        })
    }
}

/// One match for each rule that `traffic` needs; none in a rule for all traffic.
fn traffic_matches(traffic: &TrafficMatch) -> Vec<Option<rule::Match>> {
    match traffic {
        TrafficMatch::Any => vec![None],
        // Without a port match: iptables does not print one of 0:65535.
        TrafficMatch::Ports(protocol, ranges) if ranges.contains(&PortRange::ALL) => {
            vec![Some(rule::Match::Ports(*protocol, Box::default()))]
        }
        TrafficMatch::Ports(protocol, ranges) => {
            let groups = in_slots(ranges).into_iter();
            groups.map(|ports| Some(rule::Match::Ports(*protocol, ports.into()))).collect()
        }
    }
}

/// `ranges` in order, in groups that each fit one match.
fn in_slots(ranges: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut groups: Vec<Vec<PortRange>> = Vec::new();
    let mut free = 0;
    for range in ranges {
        let slots = if range.count() == 1 { 1 } else { 2 };
        match groups.last_mut() {
            Some(group) if slots <= free => group.push(*range),
            _ => {
                groups.push(vec![*range]);
                free = PORT_SLOTS;
            }
        }
        free -= slots;
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy_engine::compiled::AddressSet;
    use policy_engine::direction::Direction;
    use policy_engine::id::ContentHasher;
    use policy_engine::port::Protocol;
    use policy_engine::tier::Tier;

    use super::*;
    use crate::dataplane::backend::iptables::text;

    fn ranges(ports: &[(u16, u16)]) -> Vec<PortRange> {
        ports.iter().map(|&(first, last)| PortRange::new(first, last).unwrap()).collect()
    }

    fn id(name: &str) -> SetId {
        SetId::new(ContentHasher::new(name).finish())
    }

    /// The rules for one allow rule, with the names of sets cut short.
    fn check(direction: Direction, family: Family, rule: Match, expected: &[&str]) {
        let mut shown = render(View::Enforced, family, &ruleset(direction, rule, Target::Allow));
        let cause = Cause::Policies(Tier::NetworkPolicy);
        let deny = Denial { outcome: Outcome::Denied, direction, cause };
        assert_eq!(shown.pop(), Some(format!("-g {}", deny.chain())));
        assert_eq!(shown, expected);
    }

    fn ruleset(direction: Direction, matches: Match, target: Target) -> Ruleset {
        let rules = vec![compiled::Rule { matches, target }];
        Ruleset { direction, tier: Tier::NetworkPolicy, rules, otherwise: Target::Deny }
    }

    /// The rules of `ruleset` in a world of one other, with the names of sets cut short.
    fn render(view: View, family: Family, ruleset: &Ruleset) -> Vec<String> {
        let set = |kind| AddressSet { kind, members: BTreeSet::new() };
        let mut compiled = Compiled::default();
        compiled.sets.insert(id("pods"), set(SetKind::Addresses));
        compiled.sets.insert(id("ports"), set(SetKind::AddressPorts));
        compiled.rulesets.insert(below(), Arc::new(ruleset.clone()));
        let rules = Renderer::new(family, &compiled, &Refusals::default()).rules(view, ruleset);
        rules.iter().map(|rule| shorten(&text::rule(rule))).collect()
    }

    fn below() -> RulesetId {
        RulesetId::new(ContentHasher::new("below").finish())
    }

    fn shorten(rule: &str) -> String {
        let word = |word: &str| match word.strip_prefix(name::PREFIX) {
            Some(set) if set.starts_with(['4', '6']) => set.chars().take(2).collect(),
            _ => word.to_owned(),
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

    #[test]
    fn what_is_missing_denies() {
        let nowhere = Target::Next(RulesetId::new(ContentHasher::new("nowhere").finish()));
        let unknown = peers(TrafficMatch::Any, Some(id("missing")), &["10.0.0.0/8"]);
        let check = |matches: &Match, target, expected: &[&str]| {
            let ruleset = ruleset(Direction::Ingress, matches.clone(), target);
            let rules = render(View::Enforced, Family::V4, &ruleset);
            assert_eq!(rules, [expected, &["-g PORTCULLIS-DENY-IN-POLICY"]].concat());
        };
        // The peers to deny are not known, so all are denied.
        for target in [Target::Deny, Target::Next(below())] {
            check(&unknown, target, &["-g PORTCULLIS-DENY-IN-POLICY"]);
            let ports = Match::PeerPorts { set: id("missing") };
            check(&ports, target, &["-g PORTCULLIS-DENY-IN-POLICY"]);
        }
        check(&unknown, Target::Allow, &["-s 10.0.0.0/8 -j RETURN"]);
        let known = peers(TrafficMatch::Any, None, &["10.0.0.0/8"]);
        check(&known, nowhere, &["-s 10.0.0.0/8 -g PORTCULLIS-DENY-IN-POLICY"]);
    }

    #[test]
    fn audit_only_reports_and_leads_to_audit() {
        let all = peers(TrafficMatch::Any, None, &["10.0.0.0/8"]);
        let ruleset = ruleset(Direction::Egress, all, Target::Next(below()));
        let check = |view, letter, deny: &str| {
            let next = format!("-d 10.0.0.0/8 -g PORTCULLIS-{letter}{}", below());
            let expected = [next, format!("-g PORTCULLIS-{deny}-OUT-POLICY")];
            assert_eq!(render(view, Family::V4, &ruleset), expected);
        };
        check(View::Enforced, 'R', "DENY");
        check(View::Audited, 'A', "AUDIT");
    }
}
