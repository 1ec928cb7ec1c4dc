//! Rules as `nft` prints them, for people and for programs that compare them with the kernel. Pure.
//!
//! The backend does not use these texts to write or read rules: it writes and recognises bytes.

use policy_engine::cidr::Family;
use policy_engine::port::Protocol;

use super::name::{self, ChainName, SetName};
use super::rule::{
    FIRST_CLIENT_PORT, Is, IsInterface, Match, Rate, Rule, Side, Verdict, protocol_name,
};

/// The texts of a rule of `chain`: one rule of nftables, or two where one cannot express it.
#[must_use]
pub fn rules(family: Family, chain: ChainName, rule: &Rule) -> Vec<String> {
    let written = |without_connection| {
        let verdict = verdict(chain, &rule.verdict);
        let parts = rule.matches.iter().filter_map(|part| match part {
            // `nft` prints no protocol in front of an answer that only TCP has.
            Match::Ports(Protocol::Tcp, ports)
                if ports.is_empty() && rule.verdict == Verdict::RejectTcp =>
            {
                None
            }
            Match::NotTranslated if without_connection => {
                Some("ct state invalid,untracked".to_owned())
            }
            part => matching(family, part),
        });
        parts.chain([verdict]).collect::<Vec<_>>().join(" ")
    };
    // A packet without a connection has no status that could be compared.
    let is_split = rule.matches.contains(&Match::NotTranslated);
    [Some(false), is_split.then_some(true)].into_iter().flatten().map(written).collect()
}

fn matching(family: Family, part: &Match) -> Option<String> {
    Some(match part {
        Match::Address(side, is) => {
            let (network, sign) = match is {
                Is::Within(network) => (network, ""),
                Is::Outside(network) => (network, "!= "),
            };
            let is_host = network.prefix_len() == network.max_prefix_len();
            let shown = if is_host { network.addr().to_string() } else { network.to_string() };
            format!("{} {sign}{shown}", address(family, *side))
        }
        // In the chains for ports of a bridge, they are the interfaces.
        Match::Interface(side, is) | Match::BridgePort(side, is) => interface(*side, *is),
        Match::Ports(protocol, ranges) => {
            let protocol = protocol_name(*protocol);
            match ranges.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice() {
                [] => format!("meta l4proto {protocol}"),
                [one] => format!("{protocol} dport {one}"),
                many => format!("{protocol} dport {{ {} }}", many.join(", ")),
            }
        }
        Match::TcpSyn => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
        Match::TcpOfUnknown => "meta l4proto tcp ct state new".to_owned(),
        Match::TcpFromClient => {
            let last = FIRST_CLIENT_PORT - 1;
            format!("tcp sport {FIRST_CLIENT_PORT}-65535 tcp dport 0-{last}")
        }
        Match::SctpInit => "sctp chunk init exists".to_owned(),
        Match::Icmpv6(kind) => format!("icmpv6 type {kind}"),
        Match::NotSctp => "meta l4proto != sctp".to_owned(),
        Match::NotIcmpv6 => "meta l4proto != ipv6-icmp".to_owned(),
        Match::HopLimit(limit) => format!("ip6 hoplimit {limit}"),
        Match::NotBridged | Match::Comment(_) => return None,
        Match::RelatedOrEstablished => "ct state established,related".to_owned(),
        Match::NotRelated => "ct state != related".to_owned(),
        Match::NotTranslated => "ct status ! dnat".to_owned(),
        Match::Set(set, side) => format!("{} @{set}", set_address(*set, *side)),
        Match::NotInSet(set, side) => format!("{} != @{set}", set_address(*set, *side)),
        Match::SetWithPort(set, side) => {
            format!("{} . meta l4proto . th dport @{set}", set_address(*set, *side))
        }
        Match::RatePerAddress { rate, by, number, addresses_max: _ } => {
            format!("update @rate-{number} {{ {} {} }}", address(family, *by), limit(*rate))
        }
        Match::Rate(rate) => limit(*rate),
    })
}

fn address(family: Family, side: Side) -> &'static str {
    match (family, side) {
        (Family::V4, Side::Source) => "ip saddr",
        (Family::V4, Side::Destination) => "ip daddr",
        (Family::V6, Side::Source) => "ip6 saddr",
        (Family::V6, Side::Destination) => "ip6 daddr",
    }
}

fn set_address(set: SetName, side: Side) -> &'static str {
    address(name::family(set), side)
}

fn interface(side: Side, is: IsInterface) -> String {
    let key = if side == Side::Source { "iifname" } else { "oifname" };
    match is {
        IsInterface::Named(name) => format!("{key} \"{name}\""),
        IsInterface::NotNamed(name) => format!("{key} != \"{name}\""),
        IsInterface::Begins(beginning) => format!("{key} \"{beginning}*\""),
    }
}

fn limit(Rate { per_second, burst }: Rate) -> String {
    format!("limit rate {per_second}/second burst {burst} packets")
}

fn verdict(chain: ChainName, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => format!("counter name \"{chain}\""),
        Verdict::Return => "return".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::RejectTcp => "reject with tcp reset".to_owned(),
        Verdict::Reject(_) => "reject".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Log { prefix, group, bytes } => {
            format!("log prefix \"{prefix}\" group {group} snaplen {bytes} queue-threshold 1")
        }
        Verdict::Unknown(text) => text.to_string(),
    }
}
