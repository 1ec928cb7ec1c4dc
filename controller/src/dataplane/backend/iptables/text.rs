//! Rules in the order and spelling of `iptables-save`. Pure.
//!
//! A rule has one spelling only, since read-back compares texts. The spelling is the same for
//! iptables-legacy and iptables-nft (a kernel test checks that for every shape of rule).

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::port::PortRange;

use super::sets::parse_protocol;
use crate::dataplane::rule::{
    FIRST_CLIENT_PORT, Hook, Is, IsInterface, Match, Rate, Rule, Side, Verdict, protocol_name,
};

/// A rule behind `-A CHAIN`.
#[must_use]
pub fn rule(rule: &Rule) -> String {
    let mut parts: Vec<String> = rule.matches.iter().map(matching).collect();
    parts.extend(verdict(&rule.verdict));
    parts.join(" ")
}

/// The rule of a hook in the kernel's own chain.
#[must_use]
pub fn hook(hook: Hook) -> String {
    format!("-j {}", hook.target())
}

fn matching(part: &Match) -> String {
    match part {
        Match::Address(side, is) => {
            let option = if *side == Side::Source { "-s" } else { "-d" };
            match is {
                Is::Within(network) => format!("{option} {network}"),
                Is::Outside(network) => format!("! {option} {network}"),
            }
        }
        Match::Interface(side, is) => {
            let option = if *side == Side::Source { "-i" } else { "-o" };
            interface(option, *is)
        }
        Match::Ports(protocol, ranges) => {
            let protocol = protocol_name(*protocol);
            match ranges.iter().copied().map(ports).collect::<Vec<_>>().as_slice() {
                [] => format!("-p {protocol}"),
                [one] => format!("-p {protocol} -m {protocol} --dport {one}"),
                many => format!("-p {protocol} -m multiport --dports {}", many.join(",")),
            }
        }
        Match::TcpSyn => "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN".to_owned(),
        Match::TcpOfUnknown => "-p tcp -m conntrack --ctstate NEW".to_owned(),
        Match::TcpFromClient => {
            let last = FIRST_CLIENT_PORT - 1;
            format!("-p tcp -m tcp --sport {FIRST_CLIENT_PORT}:65535 --dport 0:{last}")
        }
        Match::SctpInit => "-p sctp -m sctp --chunk-types any INIT".to_owned(),
        Match::Icmpv6(kind) => format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind}"),
        Match::NotSctp => "! -p sctp".to_owned(),
        Match::NotIcmpv6 => "! -p ipv6-icmp".to_owned(),
        Match::HopLimit(limit) => format!("-m hl --hl-eq {limit}"),
        Match::BridgePort(Side::Source, is) => {
            format!("-m physdev {}", interface("--physdev-in", *is))
        }
        Match::BridgePort(Side::Destination, is) => {
            format!("-m physdev {} --physdev-is-bridged", interface("--physdev-out", *is))
        }
        Match::NotBridged => "-m physdev ! --physdev-is-bridged".to_owned(),
        Match::RelatedOrEstablished => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
        Match::NotRelated => "-m conntrack ! --ctstate RELATED".to_owned(),
        Match::NotTranslated => "-m conntrack ! --ctstate DNAT".to_owned(),
        Match::Set(name, side) => format!("-m set --match-set {name} {}", side_name(*side)),
        Match::NotInSet(name, side) => format!("-m set ! --match-set {name} {}", side_name(*side)),
        // The port is always the packet's destination port.
        Match::SetWithPort(name, side) => {
            format!("-m set --match-set {name} {},dst", side_name(*side))
        }
        Match::Comment(text) => format!("-m comment --comment \"{text}\""),
        Match::RatePerAddress { rate, by, addresses_max, number } => {
            let (Rate { per_second, burst }, side) = (rate, side_name(*by));
            format!(
                "-m hashlimit --hashlimit-upto {per_second}/sec --hashlimit-burst {burst} \
                 --hashlimit-mode {side}ip --hashlimit-name portcullis-{number} \
                 --hashlimit-htable-size 1024 --hashlimit-htable-max {addresses_max}"
            )
        }
        Match::Rate(Rate { per_second, burst }) => {
            format!("-m limit --limit {per_second}/sec --limit-burst {burst}")
        }
    }
}

fn interface(option: &str, is: IsInterface) -> String {
    match is {
        IsInterface::Named(name) => format!("{option} {name}"),
        IsInterface::NotNamed(name) => format!("! {option} {name}"),
        IsInterface::Begins(beginning) => format!("{option} {beginning}+"),
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Source => "src",
        Side::Destination => "dst",
    }
}

fn ports(range: PortRange) -> String {
    if range.count() == 1 {
        range.first().to_string()
    } else {
        format!("{}:{}", range.first(), range.last())
    }
}

fn verdict(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Continue => return None,
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Accept => "-j ACCEPT".to_owned(),
        Verdict::Drop => "-j DROP".to_owned(),
        Verdict::RejectTcp => "-j REJECT --reject-with tcp-reset".to_owned(),
        Verdict::Reject(Family::V4) => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
        Verdict::Reject(Family::V6) => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        Verdict::Jump(chain) => format!("-j {chain}"),
        Verdict::Goto(chain) => format!("-g {chain}"),
        // Threshold 1: each packet is handed over at once, not when a buffer is full.
        Verdict::Log { prefix, group, bytes } => format!(
            "-j NFLOG --nflog-prefix \"{prefix}\" --nflog-group {group} --nflog-size {bytes} \
             --nflog-threshold 1"
        ),
        Verdict::Unknown(text) => text.to_string(),
    })
}

/// A saved rule in our spelling: addresses as Rust writes them, protocols by name.
///
/// C libraries and iptables versions differ in how they print `::1.2.3.4` or protocol 58. Such a
/// rule must not count as changed.
pub(super) fn normalise(rule: &str) -> String {
    let mut before = "";
    let words = rule.split(' ').map(|word| {
        let spelled = match before {
            "-s" | "-d" => word.parse::<IpNet>().map_or(word.to_owned(), |net| net.to_string()),
            "-p" => match word {
                "58" | "icmpv6" | "icmp6" => "ipv6-icmp".to_owned(),
                other => {
                    parse_protocol(other).map_or(other, |known| protocol_name(known)).to_owned()
                }
            },
            _ => word.to_owned(),
        };
        before = word;
        spelled
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use policy_engine::port::Protocol;

    use super::*;
    use crate::dataplane::name;

    #[test]
    fn parts_are_in_the_order_of_iptables_save() {
        let net: IpNet = "10.0.0.1/32".parse().unwrap();
        let source = |is: fn(IpNet) -> Is| Match::Address(Side::Source, is(net));
        let sides = [Match::Address(Side::Destination, Is::Within(net)), source(Is::Outside)];
        let shown = rule(&Rule::new(sides, Verdict::Goto(name::JUDGE)));
        assert_eq!(shown, "! -s 10.0.0.1/32 -d 10.0.0.1/32 -g PORTCULLIS-JUDGE");
        let ports = [80, 443].map(PortRange::single);
        let ports = Match::Ports(Protocol::Tcp, ports.into());
        let shown = rule(&Rule::new([ports, source(Is::Within)], Verdict::Return));
        assert_eq!(shown, "-s 10.0.0.1/32 -p tcp -m multiport --dports 80,443 -j RETURN");
    }

    #[test]
    fn spellings_of_other_tools_are_normalised() {
        assert_eq!(normalise("-s ::1.2.3.4/128 -p 58 -j X"), "-s ::102:304/128 -p ipv6-icmp -j X");
        for (name, number) in [("tcp", 6), ("udp", 17), ("sctp", 132), ("ipv6-icmp", 58)] {
            assert_eq!(normalise(&format!("! -p {number} -j X")), format!("! -p {name} -j X"));
        }
        let ours = "-s fd00::1/128 ! -d fd00::1/128 -g X";
        assert_eq!(normalise(ours), ours);
    }
}
