//! The chains that every packet enters, which do not depend on the policies. Pure.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::port::Protocol;

use super::attachment::Attachments;
use super::denial::Denial;
use super::feature::Feature;
use super::name::{self, ChainName};
use super::options::{AcceptAction, Options};
use super::rule::{Chains, Is, IsInterface, Match, Rule, Side, Verdict};

/// The input of the chains beside the family and the options.
#[derive(Clone, Copy)]
pub(super) struct Checks {
    /// Whether the interfaces of pods are compared with their addresses.
    pub addresses: bool,
    /// Whether there are sets of the isolated pods.
    pub midstream: bool,
}

/// The chains that exist for any policies.
pub(super) fn skeleton(
    family: Family,
    options: &Options,
    attachments: &Attachments,
    checks: Checks,
) -> Chains {
    let checks_addresses = checks.addresses;
    let mut chains = Chains::new();
    let accept = options.accept == AcceptAction::Accept;
    let established = if accept { Verdict::Goto(name::ACCEPT) } else { Verdict::Return };
    let routers = (checks_addresses && family == Family::V6).then_some(name::ROUTER);
    let mut forward = opening_or_established(options, name::JUDGE, established);
    if checks.midstream {
        forward.push(Rule::new([Match::TcpOfUnknown], Verdict::Jump(name::MIDSTREAM)));
        chains.insert(name::MIDSTREAM, midstream(family).into());
    }
    forward.extend(others(family, options, name::JUDGE, routers));
    chains.insert(name::FORWARD, forward.into());
    let [ingress, egress] = Direction::BOTH.map(name::root);
    let unknown = |direction| {
        let unknown = Match::NotInSet(name::attached_set(family), Side::of_subject(direction));
        let chain = name::unknown_address(direction);
        checks_addresses.then(|| Rule::new([unknown], Verdict::Jump(chain)))
    };
    if !options.allow_egress_to_own_node {
        // Never a terminal accept here: the node's own firewall decides next.
        let mut input = opening_or_established(options, name::NODE, Verdict::Return);
        input.extend(others(family, options, name::NODE, routers));
        chains.insert(name::INPUT, input.into());
        let mut node = Vec::from_iter(unknown(Direction::Egress));
        node.push(Rule::all(Verdict::Goto(egress)));
        chains.insert(name::NODE, node.into());
    }
    let mut judge = Vec::from_iter(unknown(Direction::Egress));
    judge.push(Rule::all(Verdict::Jump(egress)));
    judge.extend(unknown(Direction::Ingress));
    if accept {
        let local = name::local_set(family);
        let accept_local = |side| Rule::new([Match::Set(local, side)], Verdict::Accept);
        let rules = [Side::Source, Side::Destination].map(accept_local);
        chains.insert(name::ACCEPT, rules.into());
        judge.extend([Verdict::Jump(ingress), Verdict::Goto(name::ACCEPT)].map(Rule::all));
    } else {
        judge.push(Rule::all(Verdict::Goto(ingress)));
    }
    chains.insert(name::JUDGE, judge.into());
    chains.extend(routers.map(|chain| (chain, from_no_pod(attachments).into())));
    chains
}

/// The rules for packets that open a connection, which are judged, and of established connections.
fn opening_or_established(options: &Options, judge: ChainName, established: Verdict) -> Vec<Rule> {
    // A SYN or INIT opens a connection even if conntrack has an entry for its ports: an entry in
    // state CLOSE or LAST_ACK would make it ESTABLISHED.
    let mut rules = vec![Rule::new([Match::TcpSyn, Match::NotRelated], Verdict::Goto(judge))];
    // The rules below are for other protocols.
    let udp = Match::Ports(Protocol::Udp, Box::default());
    let udp = Rule::new([udp], Verdict::Goto(judge));
    if options.has(Feature::SctpChunks) {
        // Before this rule, since packets of other established connections are to meet two rules.
        let others = [Match::NotSctp, Match::RelatedOrEstablished];
        rules.push(Rule::new(others, established.clone()));
        rules.extend([udp, Rule::new([Match::SctpInit], Verdict::Goto(judge))]);
        rules.push(Rule::new([Match::RelatedOrEstablished], established));
    } else {
        rules.extend([Rule::new([Match::RelatedOrEstablished], established), udp]);
    }
    rules
}

/// The rules for all other packets. `routers` is the chain for messages that only routers send.
fn others(
    family: Family,
    options: &Options,
    judge: ChainName,
    routers: Option<ChainName>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    if family == Family::V6 {
        rules.push(Rule::new([Match::NotIcmpv6], Verdict::Goto(judge)));
        rules.extend(discovery_rules(options, &routers.map_or(Verdict::Return, Verdict::Goto)));
    }
    rules.push(Rule::all(Verdict::Goto(judge)));
    rules
}

/// Denies segments in the middle of TCP connections without a conntrack entry where they may be
/// answers to connections that policies do not allow any more. conntrack would take such an answer
/// for the first packet of a connection in the reverse direction, and the client's packets for
/// answers.
///
/// A segment from a port of clients is judged as the first packet of its sender. So is a segment
/// whose reverse direction is allowed as a whole: the sender is not isolated for ingress, and the
/// receiver is not isolated for egress.
fn midstream(family: Family) -> Vec<Rule> {
    let isolated = |direction: Direction, packet: Direction| {
        let set = name::isolated_set(family, direction);
        let isolated = Match::Set(set, Side::of_subject(packet));
        Rule::new([isolated], Verdict::Goto(Denial::by_connection(packet).chain()))
    };
    vec![
        Rule::new([Match::TcpFromClient], Verdict::Return),
        isolated(Direction::Ingress, Direction::Egress),
        isolated(Direction::Egress, Direction::Ingress),
    ]
}

/// The rules for messages that IPv6 requires. Routers do not forward them: the rules match only
/// messages that cannot have come from another link, nor leave this one.
pub(super) fn discovery_rules(options: &Options, from_routers: &Verdict) -> Vec<Rule> {
    let mut rules = Vec::new();
    for kind in NEIGHBOUR_DISCOVERY {
        let verdict = match kind {
            ROUTER_ADVERTISEMENT | REDIRECT => from_routers.clone(),
            _ => Verdict::Return,
        };
        rules.push(Rule::new(discovery(options, kind, 255), verdict));
    }
    for kind in MULTICAST_LISTENER_DISCOVERY {
        let link = Match::Address(Side::Destination, Is::Within(link_scope()));
        let matches = discovery(options, kind, 1).chain([link]);
        rules.push(Rule::new(matches, Verdict::Return));
    }
    rules
}

/// The matches of a discovery message.
fn discovery(options: &Options, kind: u8, hop_limit: u8) -> impl Iterator<Item = Match> {
    let hop_limit = options.has(Feature::HopLimit).then_some(Match::HopLimit(hop_limit));
    [Match::Icmpv6(kind)].into_iter().chain(hop_limit)
}

/// RFC 4861, 4.2.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// RFC 4861, 4.5.
const REDIRECT: u8 = 137;
/// RFC 4861: all have hop limit 255, which no router passes on.
const NEIGHBOUR_DISCOVERY: [u8; 5] = [133, ROUTER_ADVERTISEMENT, 135, 136, REDIRECT];
/// RFC 2710 and RFC 3810: all have hop limit 1, and an address of this link as destination.
const MULTICAST_LISTENER_DISCOVERY: [u8; 4] = [130, 131, 132, 143];

/// `fe80::/10`, RFC 4291, 2.5.6.
pub(super) fn link_local() -> IpNet {
    let first = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    Ipv6Net::new(first, 10).map(IpNet::from).expect("10 is a length of an IPv6 prefix")
}

/// `ff02::/16`: multicast on one link, RFC 4291, 2.7.
fn link_scope() -> IpNet {
    let first = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0);
    Ipv6Net::new(first, 16).map(IpNet::from).expect("16 is a length of an IPv6 prefix")
}

/// Pods are not routers: a message that only routers send is dropped if it comes from a pod.
fn from_no_pod(attachments: &Attachments) -> Vec<Rule> {
    let deny = Denial::by_address(Direction::Egress).chain();
    let from = |interface| Match::Interface(Side::Source, IsInterface::Named(interface));
    let bridges: BTreeSet<_> =
        attachments.addresses.values().filter_map(|attachment| attachment.bridge).collect();
    // A routed pod is alone on its link: only its own node receives the message.
    let of_pods = bridges.intersection(&attachments.pod_interfaces).copied();
    of_pods.map(|bridge| Rule::new([from(bridge)], Verdict::Goto(deny))).collect()
}
