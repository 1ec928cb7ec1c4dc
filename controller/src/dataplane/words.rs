//! Rules and sets in words, for people who inspect a node. Pure.

use policy_engine::direction::Direction;
use policy_engine::id::SetId;
use policy_engine::words::few;

use super::denial::{Cause, Denial, Outcome};
use super::name::{self, ChainName, SetName};
use super::rule::{Is, IsInterface, Match, Rate, Rule, Side, Verdict};
use super::set::{DesiredSet, Source};

/// The most networks of a set, and items of its definition, that are written out.
const NAMED: usize = 4;

/// What a rule of `chain` does: `TCP 80 from pods with app=web in namespace shop: allow`. `set`
/// returns the words for a set.
#[must_use]
pub fn rule(chain: ChainName, rule: &Rule, set: &dyn Fn(SetName) -> String) -> String {
    let matches: Vec<String> = rule.matches.iter().filter_map(|part| matching(part, set)).collect();
    let verdict = verdict(chain, &rule.verdict);
    if matches.is_empty() { verdict } else { format!("{}: {verdict}", matches.join(", ")) }
}

fn matching(part: &Match, set: &dyn Fn(SetName) -> String) -> Option<String> {
    Some(match part {
        Match::Address(side, Is::Within(network)) => format!("{} {network}", preposition(*side)),
        Match::Address(side, Is::Outside(network)) => {
            format!("not {} {network}", preposition(*side))
        }
        Match::Interface(Side::Source, is) => format!("in by {}", interface("interface", *is)),
        Match::Interface(Side::Destination, is) => {
            format!("out by {}", interface("interface", *is))
        }
        Match::BridgePort(Side::Source, is) => format!("in by {}", interface("bridge port", *is)),
        Match::BridgePort(Side::Destination, is) => {
            format!("out by {}", interface("bridge port", *is))
        }
        Match::Ports(protocol, ranges) if ranges.is_empty() => protocol.to_string(),
        Match::Ports(protocol, ranges) => {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            format!("{protocol} {}", ranges.join(", "))
        }
        Match::TcpSyn => "TCP SYN".to_owned(),
        Match::TcpOfUnknown => "TCP of a connection that conntrack does not know".to_owned(),
        Match::TcpFromClient => "TCP from a port of clients to another port".to_owned(),
        Match::SctpInit => "SCTP INIT".to_owned(),
        Match::Icmpv6(kind) => format!("ICMPv6 type {kind}"),
        Match::NotSctp => "not SCTP".to_owned(),
        Match::NotIcmpv6 => "not ICMPv6".to_owned(),
        Match::HopLimit(limit) => format!("hop limit {limit}"),
        Match::NotBridged => "routed".to_owned(),
        Match::RelatedOrEstablished => "of an established or related connection".to_owned(),
        Match::NotRelated => "not of a related connection".to_owned(),
        Match::NotTranslated => "destination not translated".to_owned(),
        Match::Set(name, side) | Match::SetWithPort(name, side) => {
            format!("{} {}", preposition(*side), set(*name))
        }
        Match::NotInSet(name, side) => format!("not {} {}", preposition(*side), set(*name)),
        Match::Comment(_) => return None,
        Match::RatePerAddress { rate: Rate { per_second, .. }, by, .. } => {
            let side = if *by == Side::Source { "source" } else { "destination" };
            format!("at most {per_second} packets a second for each {side}")
        }
        Match::Rate(Rate { per_second, .. }) => format!("at most {per_second} packets a second"),
    })
}

fn preposition(side: Side) -> &'static str {
    match side {
        Side::Source => "from",
        Side::Destination => "to",
    }
}

fn interface(what: &str, is: IsInterface) -> String {
    match is {
        IsInterface::Named(name) => format!("{what} {name}"),
        IsInterface::NotNamed(name) => format!("any {what} but {name}"),
        IsInterface::Begins(beginning) => format!("{what}s whose name begins with {beginning}"),
    }
}

fn verdict(chain: ChainName, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "count".to_owned(),
        Verdict::Return if name::is_ruleset(chain) => "allow".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::RejectTcp | Verdict::Reject(_) => "reject".to_owned(),
        Verdict::Log { .. } => "log".to_owned(),
        Verdict::Jump(chain) | Verdict::Goto(chain) => to(*chain),
        Verdict::Unknown(text) => text.to_string(),
    }
}

/// The meaning of a jump to a chain, in words.
fn to(chain: ChainName) -> String {
    let of_bridge = Direction::BOTH.into_iter().find(|it| name::bridge_denial(*it) == chain);
    Denial::all()
        .find(|kind| kind.chain() == chain)
        .or(of_bridge.map(Denial::by_address))
        .map_or_else(|| format!("continue in {chain}"), denial)
}

/// A kind of denial in words.
fn denial(Denial { outcome, direction, cause }: Denial) -> String {
    let verb = match outcome {
        Outcome::Denied => "deny",
        Outcome::WouldDeny => "would deny (audit)",
    };
    match (cause, direction) {
        (Cause::Policies(tier), _) => format!("{verb}: {direction}, tier {tier}"),
        (Cause::Address, Direction::Egress) => {
            format!("{verb}: the source is not an address of a known pod at that interface")
        }
        (Cause::Address, Direction::Ingress) => {
            format!("{verb}: the destination is not an address of a known pod at that interface")
        }
        (Cause::Connection, _) => {
            format!("{verb}: conntrack does not know the TCP connection, and who has opened it")
        }
    }
}

/// A set in words. `describe` returns the definition of a set of the engine.
#[must_use]
pub fn set(
    name: SetName,
    set: Option<&DesiredSet>,
    describe: &dyn Fn(&SetId) -> Option<Vec<String>>,
) -> String {
    let Some(set) = set else { return format!("the set {name}") };
    match &set.source {
        Source::Engine(id) => match describe(id) {
            Some(items) if items.is_empty() => "nobody".to_owned(),
            Some(items) => few(items, NAMED),
            None => format!("the set {name}"),
        },
        Source::Networks(networks) => few(networks, NAMED),
        Source::Local(_) => local(name),
    }
}

fn local(name: SetName) -> String {
    let family = name::family(name);
    let what = if name == name::attached_set(family) {
        "pods of this node whose interface is known"
    } else if name == name::unattached_set(family) {
        "pods of this node whose interface is not known"
    } else if name == name::isolated_set(family, Direction::Ingress) {
        "pods of this node that are isolated for ingress"
    } else if name == name::isolated_set(family, Direction::Egress) {
        "pods of this node that are isolated for egress"
    } else {
        "isolated pods of this node"
    };
    format!("{} addresses of {what}", family.as_str())
}

#[cfg(test)]
mod tests {
    use policy_engine::cidr::Family;
    use policy_engine::port::{PortRange, Protocol};
    use policy_engine::tier::Tier;

    use super::*;

    fn check(matches: impl IntoIterator<Item = Match>, verdict: Verdict, expected: &str) {
        let peers = |name: SetName| format!("<{name}>");
        let chain = ChainName::parse("PORTCULLIS-Raaaaaaaaaaaaaaaa").unwrap();
        assert_eq!(rule(chain, &Rule::new(matches, verdict), &peers), expected);
    }

    #[test]
    fn a_rule_is_a_sentence() {
        let set = name::attached_set(Family::V4);
        let ports = Match::Ports(Protocol::Tcp, [80, 443].map(PortRange::single).into());
        let peers = Match::Set(set, Side::Source);
        check(
            [ports, peers],
            Verdict::Return,
            "TCP 80, 443, from <PORTCULLIS-4attached-pods>: allow",
        );
        let cause = Cause::Policies(Tier::NetworkPolicy);
        let denial = Denial { outcome: Outcome::Denied, direction: Direction::Ingress, cause };
        check([], Verdict::Goto(denial.chain()), "deny: Ingress, tier NetworkPolicy");
        let of_frame = Verdict::Goto(name::bridge_denial(Direction::Egress));
        let expected = "deny: the source is not an address of a known pod at that interface";
        check([], of_frame, expected);
        let own = Match::Address(Side::Source, Is::Outside("10.0.0.1/32".parse().unwrap()));
        let next = Verdict::Jump(name::JUDGE);
        check([own], next, "not from 10.0.0.1/32: continue in PORTCULLIS-JUDGE");
    }

    #[test]
    fn a_return_allows_in_the_rules_of_policies_only() {
        let rule = |chain| super::rule(chain, &Rule::all(Verdict::Return), &|_| String::new());
        assert_eq!(rule(name::FORWARD), "return");
    }

    #[test]
    fn a_set_is_described_by_its_definition() {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
        let set = |source| {
            let desired =
                DesiredSet { kind: super::super::set::Kind::Network, family: Family::V4, source };
            super::set(name::attached_set(Family::V4), Some(&desired), &|_| None)
        };
        assert_eq!(set(Source::Networks(networks)), "10.0.0.0/8, 192.0.2.0/24");
        let local = set(Source::Local([].into()));
        assert_eq!(local, "IPv4 addresses of pods of this node whose interface is known");
    }
}
