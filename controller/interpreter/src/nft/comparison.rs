//! The comparisons of a rule, as conditions and as text.

use ipnet::IpNet;
use serde_json::Value;

use super::listing::{Expression, Key, Match, Payload, SctpChunk};
use super::unknown;
use super::value::{address_of_bits, bad, network, number, protocol_number, ranges, small, text};
use crate::error::Problem;
use crate::matches::{Block, Condition, InterfaceName, PortOf, Question};
use crate::packet::{ConntrackState, Family, ICMP, ICMPV6, SCTP, Side, TCP, TcpFlags, UDP};

/// A comparison as conditions and as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) conditions: Vec<Condition>,
    pub(super) text: String,
    /// The network that an address is compared with: the elements of a map are sorted by it.
    pub(super) network: Option<IpNet>,
}

impl Comparison {
    fn new(conditions: impl IntoIterator<Item = Condition>, text: String) -> Self {
        Self { conditions: conditions.into_iter().collect(), text, network: None }
    }

    /// The text of the comparison of the protocol that this one implies.
    pub(super) fn implied_protocol(&self) -> Option<String> {
        match self.conditions.as_slice() {
            [Condition { negated: false, question: Question::Protocol(number) }, _, ..] => {
                Some(format!("meta l4proto {}", protocol_text(*number)))
            }
            _ => None,
        }
    }
}

/// How a value is compared: `==`, `!=`, any of several bits, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Any,
    None,
}

impl Operator {
    fn read(name: &str) -> Result<Self, Problem> {
        match name {
            "==" => Ok(Self::Equal),
            "!=" => Ok(Self::Unequal),
            "in" => Ok(Self::Any),
            "!" => Ok(Self::None),
            _ => Err(unknown("operator", name)),
        }
    }

    /// Whether unequal values match; only for values that are compared as a whole.
    fn negated(self) -> Result<bool, Problem> {
        match self {
            Self::Equal => Ok(false),
            Self::Unequal => Ok(true),
            Self::Any | Self::None => Err(unknown("operator", "in or !")),
        }
    }

    /// The sign in front of the value.
    fn sign(self) -> &'static str {
        match self {
            Self::Equal | Self::Any => "",
            Self::Unequal => "!= ",
            Self::None => "! ",
        }
    }
}

fn is(question: Question) -> Condition {
    Condition { negated: false, question }
}

/// Reads a comparison.
pub(super) fn read(comparison: &Match) -> Result<Comparison, Problem> {
    equal(&comparison.left, Operator::read(&comparison.op)?, &comparison.right)
}

/// Reads the comparison with the key of one element of a map.
pub(super) fn element(key: &Expression, value: &Value) -> Result<Comparison, Problem> {
    equal(key, Operator::Equal, value)
}

fn equal(left: &Expression, operator: Operator, right: &Value) -> Result<Comparison, Problem> {
    if let Some((family, side)) = address_of(left) {
        return address(family, side, left, operator, right);
    }
    match left {
        Expression::Payload(payload) => field(payload, operator, right),
        Expression::Meta(Key { key }) => meta(key, operator, right),
        Expression::Conntrack(Key { key }) => conntrack(key, operator, right),
        Expression::Concatenation(parts) => concatenation(parts, operator, right),
        Expression::Masked(masked) => flags(&masked.0, &masked.1, operator, right),
        Expression::SctpChunk(SctpChunk { name }) => match (name.as_str(), right) {
            ("init", Value::Bool(true)) if operator == Operator::Equal => {
                let conditions = [is(Question::Protocol(SCTP)), is(Question::SctpInit)];
                Ok(Comparison::new(conditions, "sctp chunk init exists".to_owned()))
            }
            _ => Err(unknown("chunk", name)),
        },
    }
}

/// The side whose address an expression loads.
pub(super) fn address_of(expression: &Expression) -> Option<(Family, Side)> {
    match expression {
        Expression::Payload(Payload::Named { protocol, field }) => {
            let family = match protocol.as_str() {
                "ip" => Family::V4,
                "ip6" => Family::V6,
                _ => return None,
            };
            match field.as_str() {
                "saddr" => Some((family, Side::Source)),
                "daddr" => Some((family, Side::Destination)),
                _ => None,
            }
        }
        Expression::Payload(Payload::Bits { base, offset, len }) if base == "nh" => {
            match (*offset, *len) {
                (96, 1..=32) => Some((Family::V4, Side::Source)),
                (128, 1..=32) => Some((Family::V4, Side::Destination)),
                (64, 33..=128) => Some((Family::V6, Side::Source)),
                (192, 1..=128) => Some((Family::V6, Side::Destination)),
                _ => None,
            }
        }
        Expression::Masked(masked) => address_of(&masked.0),
        _ => None,
    }
}

/// The text of the address of one side.
pub(super) fn address_text(family: Family, side: Side) -> String {
    let protocol = if family == Family::V4 { "ip" } else { "ip6" };
    format!("{protocol} {}", if side == Side::Source { "saddr" } else { "daddr" })
}

fn address(
    family: Family,
    side: Side,
    left: &Expression,
    operator: Operator,
    right: &Value,
) -> Result<Comparison, Problem> {
    let negated = operator.negated()?;
    let text = format!("{} {}", address_text(family, side), operator.sign());
    if let Some(name) = right.as_str().and_then(|word| word.strip_prefix('@')) {
        let question = Question::Set { name: name.to_owned(), sides: vec![side] };
        return Ok(Comparison::new([Condition { negated, question }], format!("{text}@{name}")));
    }
    let network = compared_network(family, left, right)?;
    let shown = if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    };
    let block = Block::parse(&network.to_string())?;
    let condition = Condition { negated, question: Question::Address { side, block } };
    let network = Some(network);
    Ok(Comparison { network, ..Comparison::new([condition], format!("{text}{shown}")) })
}

fn compared_network(family: Family, left: &Expression, right: &Value) -> Result<IpNet, Problem> {
    let bad = || bad("an address of this family", right);
    let (payload, mask) = match left {
        Expression::Masked(masked) => (&masked.0, Some(number(&masked.1)?)),
        payload => (payload, None),
    };
    // Elements of a map are addresses for any expression.
    let is_network =
        right.is_object() || right.as_str().is_some_and(|word| !word.starts_with("0x"));
    let (false, Expression::Payload(Payload::Bits { len, .. })) = (is_network, payload) else {
        let network = network(right)?;
        return if Family::of(network.addr()) == family { Ok(network) } else { Err(bad()) };
    };
    let prefix_len = match mask {
        None => *len,
        Some(mask) => {
            let ones = mask.count_ones();
            let is_prefix = mask.trailing_zeros() + ones == *len;
            if is_prefix { ones } else { return Err(bad()) }
        }
    };
    let address = address_of_bits(family, number(right)?, *len).ok_or_else(bad)?;
    let prefix_len = u8::try_from(prefix_len).map_err(|_| bad())?;
    IpNet::new(address, prefix_len).map_err(|_| bad())
}

fn field(payload: &Payload, operator: Operator, right: &Value) -> Result<Comparison, Problem> {
    let negated = operator.negated()?;
    let sign = operator.sign();
    let (protocol, name) = match payload {
        Payload::Named { protocol, field } => (protocol.as_str(), field.as_str()),
        Payload::Bits { base, offset: 56, len: 8 } if base == "nh" => ("ip6", "hoplimit"),
        Payload::Bits { .. } => return Err(unknown("field", &format!("{payload:?}"))),
    };
    let compared = |question| Condition { negated, question };
    match (protocol, name) {
        ("ip6", "hoplimit") | ("ip", "ttl") => {
            let limit = small(right)?;
            let text = format!("{protocol} {name} {sign}{limit}");
            Ok(Comparison::new([compared(Question::HopLimit(limit))], text))
        }
        ("tcp" | "udp" | "sctp", "sport" | "dport") => {
            let number = match protocol {
                "tcp" => TCP,
                "udp" => UDP,
                _ => SCTP,
            };
            let of = if name == "sport" { PortOf::Source } else { PortOf::Destination };
            let ranges = ranges(right)?;
            let text = format!("{protocol} {name} {sign}{}", ranges_text(&ranges));
            let question = Question::Ports { of, ranges };
            Ok(Comparison::new([is(Question::Protocol(number)), compared(question)], text))
        }
        ("icmp" | "icmpv6", "type") => {
            let number = if protocol == "icmp" { ICMP } else { ICMPV6 };
            let kind = icmp_type(number, right)?;
            let question = Question::Icmp { kind, codes: (0, u8::MAX) };
            let conditions = [is(Question::Protocol(number)), compared(question)];
            Ok(Comparison::new(conditions, format!("{protocol} type {sign}{kind}")))
        }
        _ => Err(unknown("field", &format!("{protocol} {name}"))),
    }
}

fn ranges_text(ranges: &[(u16, u16)]) -> String {
    let one = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    match ranges {
        [range] => one(range),
        many => format!("{{ {} }}", many.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

/// The number of a type of message; `nft` has names for some.
fn icmp_type(protocol: u8, value: &Value) -> Result<u8, Problem> {
    let Some(name) = value.as_str() else { return small(value) };
    let known = ICMP_TYPES.iter().find(|(of, known, _)| (*of, *known) == (protocol, name));
    known.map(|(_, _, kind)| *kind).ok_or_else(|| unknown("type of ICMP message", name))
}

/// The names that `nft` has for types of messages.
const ICMP_TYPES: [(u8, &str, u8); 21] = [
    (ICMP, "echo-reply", 0),
    (ICMP, "destination-unreachable", 3),
    (ICMP, "redirect", 5),
    (ICMP, "echo-request", 8),
    (ICMP, "time-exceeded", 11),
    (ICMPV6, "destination-unreachable", 1),
    (ICMPV6, "packet-too-big", 2),
    (ICMPV6, "time-exceeded", 3),
    (ICMPV6, "parameter-problem", 4),
    (ICMPV6, "echo-request", 128),
    (ICMPV6, "echo-reply", 129),
    (ICMPV6, "mld-listener-query", 130),
    (ICMPV6, "mld-listener-report", 131),
    (ICMPV6, "mld-listener-done", 132),
    (ICMPV6, "mld-listener-reduction", 132),
    (ICMPV6, "nd-router-solicit", 133),
    (ICMPV6, "nd-router-advert", 134),
    (ICMPV6, "nd-neighbor-solicit", 135),
    (ICMPV6, "nd-neighbor-advert", 136),
    (ICMPV6, "nd-redirect", 137),
    (ICMPV6, "mld2-listener-report", 143),
];

fn meta(key: &str, operator: Operator, right: &Value) -> Result<Comparison, Problem> {
    let negated = operator.negated()?;
    let sign = operator.sign();
    let compared = |question| [Condition { negated, question }];
    match key {
        "iifname" | "oifname" => {
            let word = text("an interface", right)?;
            let side = if key == "iifname" { Side::Source } else { Side::Destination };
            // `+` is how iptables writes that more follows.
            let name = match word.strip_suffix('*') {
                Some(beginning) => InterfaceName::parse(format!("{beginning}+"))?,
                None => InterfaceName::exactly(word)?,
            };
            let question = Question::Interface { side, name };
            Ok(Comparison::new(compared(question), format!("{key} {sign}\"{word}\"")))
        }
        "l4proto" => {
            let number = protocol_number(right)?;
            let text = format!("meta l4proto {sign}{}", protocol_text(number));
            Ok(Comparison::new(compared(Question::Protocol(number)), text))
        }
        "protocol" => {
            let name = text("a protocol of Ethernet", right)?;
            let question = Question::Family(super::named_family(name)?);
            Ok(Comparison::new(compared(question), format!("meta protocol {sign}{name}")))
        }
        _ => Err(unknown("key of meta", key)),
    }
}

/// The text of a protocol, which does not depend on whether `nft` knows its name.
fn protocol_text(number: u8) -> String {
    match number {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        SCTP => "sctp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    }
}

/// One word, or several.
fn words<'a>(what: &'static str, value: &'a Value) -> Result<Vec<&'a str>, Problem> {
    match value.as_array().or_else(|| value.get("|").and_then(Value::as_array)) {
        Some(list) => list.iter().map(|word| text(what, word)).collect(),
        None => Ok(vec![text(what, value)?]),
    }
}

fn conntrack(key: &str, operator: Operator, right: &Value) -> Result<Comparison, Problem> {
    let words = words("a state or status", right)?;
    let text = format!("ct {key} {}{}", operator.sign(), words.join(","));
    match (key, operator) {
        // A packet has exactly one state. Without a connection, it is invalid or untracked.
        ("state", Operator::Equal | Operator::Unequal | Operator::Any) => {
            let mut states = Vec::new();
            for word in words {
                states.push(state(word)?);
            }
            let negated = operator == Operator::Unequal;
            let question = Question::State { states, or_translated: false };
            Ok(Comparison::new([Condition { negated, question }], text))
        }
        // A packet without a connection has no status: the rule does not match.
        ("status", Operator::Any | Operator::None) if words == ["dnat"] => {
            let tracked =
                [ConntrackState::New, ConntrackState::Established, ConntrackState::Related];
            let tracked = Question::State { states: tracked.into(), or_translated: false };
            let translated = Question::State { states: Vec::new(), or_translated: true };
            let negated = operator == Operator::None;
            let conditions = [is(tracked), Condition { negated, question: translated }];
            Ok(Comparison::new(conditions, text))
        }
        _ => Err(unknown("comparison of connections", &text)),
    }
}

fn state(word: &str) -> Result<ConntrackState, Problem> {
    Ok(match word {
        "new" => ConntrackState::New,
        "established" => ConntrackState::Established,
        "related" => ConntrackState::Related,
        "invalid" => ConntrackState::Invalid,
        "untracked" => ConntrackState::Untracked,
        _ => return Err(unknown("state", word)),
    })
}

/// An address with the protocol and the destination port of the packet, in a set.
fn concatenation(
    parts: &[Expression],
    operator: Operator,
    right: &Value,
) -> Result<Comparison, Problem> {
    let unknown = || unknown("concatenation", &format!("{parts:?}"));
    let [address, Expression::Meta(meta), Expression::Payload(Payload::Named { protocol, field })] =
        parts
    else {
        return Err(unknown());
    };
    if (meta.key.as_str(), protocol.as_str(), field.as_str()) != ("l4proto", "th", "dport") {
        return Err(unknown());
    }
    let (family, side) = address_of(address).ok_or_else(unknown)?;
    let set = right.as_str().and_then(|word| word.strip_prefix('@')).ok_or_else(unknown)?;
    let question = Question::Set { name: set.to_owned(), sides: vec![side, Side::Destination] };
    let condition = Condition { negated: operator.negated()?, question };
    let (address, sign) = (address_text(family, side), operator.sign());
    let text = format!("{address} . meta l4proto . th dport {sign}@{set}");
    Ok(Comparison::new([condition], text))
}

/// The flags of TCP.
fn flags(
    left: &Expression,
    mask: &Value,
    operator: Operator,
    right: &Value,
) -> Result<Comparison, Problem> {
    let is_flags = matches!(left, Expression::Payload(Payload::Named { protocol, field })
        if protocol == "tcp" && field == "flags");
    if !is_flags {
        return Err(unknown("masked field", &format!("{left:?}")));
    }
    let what = "flags of TCP";
    let (mask, right) = (words(what, mask)?, words(what, right)?);
    let union = |words: &[&str]| {
        words.iter().try_fold(TcpFlags::NONE, |all, word| Ok(all.with(flag(word)?)))
    };
    let question = Question::TcpFlags { mask: union(&mask)?, compare: union(&right)? };
    let condition = Condition { negated: operator.negated()?, question };
    let sign = if condition.negated { "!=" } else { "==" };
    let text = format!("tcp flags & ({}) {sign} {}", mask.join(" | "), right.join(" | "));
    Ok(Comparison::new([is(Question::Protocol(TCP)), condition], text))
}

fn flag(word: &str) -> Result<TcpFlags, Problem> {
    Ok(match word {
        "fin" => TcpFlags::FIN,
        "syn" => TcpFlags::SYN,
        "rst" => TcpFlags::RST,
        "psh" => TcpFlags::PSH,
        "ack" => TcpFlags::ACK,
        "urg" => TcpFlags::URG,
        _ => return Err(unknown("flag", word)),
    })
}
