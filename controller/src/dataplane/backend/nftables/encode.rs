//! The rules of a chain as nftables holds them. Pure.
//!
//! Rules that each send one address or one interface to another chain become one rule with a map: a
//! packet meets one look-up, however many rules there are.
//!
//! ```text
//! -s 10.0.0.2/32 -g P1
//! -s 10.0.0.3/32 -g P2   ─►   ip saddr vmap { 10.0.0.2 : goto P1, 10.0.0.3 : goto P2, … }
//! …
//! ```
//!
//! A rule in the kernel has its hash as comment. A rule that is read back with this comment is this
//! rule: no program can change a rule in place, only replace it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::id::ContentHasher;
use policy_engine::port::{PortRange, Protocol};

use super::expression::{Expressions, Field, Holds, Outcome, SetReference, address_bytes};
use super::sets::{KeyType, OwnSet};
use crate::dataplane::attachment::InterfaceName;
use crate::dataplane::name::ChainName;
use crate::dataplane::rule::{FIRST_CLIENT_PORT, Is, IsInterface, Match, Rule, Side, Verdict};

/// The fewest rules that become a map.
const MAP_MIN: usize = 3;

/// `NF_CT_STATE_BIT` of packets without a connection, and of those that are not tracked.
const NO_CONNECTION: u32 = 1 | 64;
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
/// FIN, SYN, RST and ACK.
const TCP_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const SCTP_INIT: u8 = 1;
const ICMPV6: u8 = 58;
const INTERFACE_BYTES: usize = 16;

/// Consecutive rules of a chain, and the rules of the kernel for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line<'a> {
    /// The rules.
    pub rules: &'a [Rule],
    /// The rules of the kernel: mostly one.
    pub kernel: Vec<KernelRule>,
}

/// A rule of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KernelRule {
    /// The matches and the verdict.
    pub expressions: Expressions,
    /// The sets that no other rule uses.
    pub own_sets: Vec<OwnSet>,
    /// The comment that it is recognised by.
    pub comment: String,
}

/// The rules of the chain `name` as the kernel has them.
pub(super) fn lines(family: Family, name: ChainName, rules: &[Rule]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = rules;
    while let Some(first) = rest.first() {
        let (rules, kernel) = match mappable(rest) {
            length if length >= MAP_MIN => {
                let (rules, after) = rest.split_at(length);
                rest = after;
                (rules, vec![map(family, rules)])
            }
            _ => {
                let (rules, after) = rest.split_at(1);
                rest = after;
                (rules, single(family, name, first))
            }
        };
        lines.push(Line { rules, kernel });
    }
    lines
}

/// The sets with a name that these rules need for their rates: how many addresses each has room for.
pub(super) fn rate_sets<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> BTreeMap<String, u32> {
    let matches = rules.into_iter().flat_map(|rule| rule.matches.iter());
    matches
        .filter_map(|part| match part {
            Match::RatePerAddress { addresses_max, number, .. } => {
                Some((rate_set(*number), *addresses_max))
            }
            _ => None,
        })
        .collect()
}

/// The name of the set that remembers the rates of addresses.
fn rate_set(number: u32) -> String {
    format!("rate-{number}")
}

/// The key of a map: a property of which a packet has one value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Address(Side, IpNet),
    Interface(Side, InterfaceName),
}

impl Key {
    fn of(rule: &Rule) -> Option<(Self, Outcome)> {
        let key = match rule.matches.as_ref() {
            [Match::Address(side, Is::Within(network))] if is_host(*network) => {
                Self::Address(*side, *network)
            }
            [
                Match::Interface(side, IsInterface::Named(name))
                | Match::BridgePort(side, IsInterface::Named(name)),
            ] => Self::Interface(*side, *name),
            _ => return None,
        };
        Some((key, outcome(&rule.verdict)?))
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(a, _), Self::Address(b, _))
            | (Self::Interface(a, _), Self::Interface(b, _)) => a == b,
            (Self::Address(..), Self::Interface(..)) | (Self::Interface(..), Self::Address(..)) => {
                false
            }
        }
    }
}

fn is_host(network: IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// How many of the first rules can become one map.
fn mappable(rules: &[Rule]) -> usize {
    let Some((first, _)) = rules.first().and_then(Key::of) else { return 0 };
    let mut keys = BTreeSet::new();
    let is_next = |rule: &&Rule| match Key::of(rule) {
        Some((key, _)) => key.is_like(&first) && keys.insert(key),
        None => false,
    };
    rules.iter().take_while(is_next).count()
}

fn map(family: Family, rules: &[Rule]) -> KernelRule {
    let mut expressions = Expressions::default();
    let mut elements = BTreeMap::new();
    let mut loaded = None;
    for (key, outcome) in rules.iter().filter_map(Key::of) {
        let (field, key_type, bytes) = match key {
            Key::Address(side, network) => {
                let bytes = address_bytes(network.addr());
                (address_field(family, side), KeyType::Address(family), bytes)
            }
            Key::Interface(side, name) => {
                (interface_field(side), KeyType::Interface, interface_bytes(name))
            }
        };
        loaded = Some((field, key_type));
        elements.insert(bytes, outcome);
    }
    let mut own_sets = Vec::new();
    if let Some((field, key_type)) = loaded {
        expressions.load(field);
        expressions.verdict_of(&SetReference::Own(0));
        own_sets.push(OwnSet::map(key_type, elements));
    }
    KernelRule::new(expressions, own_sets)
}

fn single(family: Family, name: ChainName, rule: &Rule) -> Vec<KernelRule> {
    let encode = |without_connection| {
        let mut encoder =
            Encoder { family, expressions: Expressions::default(), own_sets: Vec::new() };
        for part in &rule.matches {
            match part {
                Match::NotTranslated if without_connection => encoder.has_no_connection(),
                part => encoder.matching(part),
            }
        }
        encoder.verdict(&rule.verdict, name);
        KernelRule::new(encoder.expressions, encoder.own_sets)
    };
    match &rule.verdict {
        // A rule that is not ours is only removed.
        Verdict::Unknown(_) => Vec::new(),
        // A packet without a connection has no status that could be compared.
        _ if rule.matches.contains(&Match::NotTranslated) => vec![encode(false), encode(true)],
        _ => vec![encode(false)],
    }
}

impl KernelRule {
    /// The rule that sends frames of an Ethernet type to `chain`, from which they return.
    pub(super) fn jump_of_type(ether_type: u16, chain: &str) -> Self {
        let mut expressions = Expressions::default();
        expressions.load(Field::PROTOCOL);
        expressions.compare(Holds::Equal, &ether_type.to_be_bytes());
        expressions.verdict(&Outcome::Jump(chain.to_owned()));
        Self::new(expressions, Vec::new())
    }

    /// The rule that drops frames which come in by `port`.
    pub(super) fn drop_from(port: InterfaceName) -> Self {
        let mut expressions = Expressions::default();
        expressions.load(Field::INPUT_INTERFACE);
        expressions.compare(Holds::Equal, &interface_bytes(port));
        expressions.verdict(&Outcome::Drop);
        Self::new(expressions, Vec::new())
    }

    fn new(expressions: Expressions, own_sets: Vec<OwnSet>) -> Self {
        let mut hasher = ContentHasher::new("nftables rule");
        hasher.bytes(&expressions.list.0);
        for set in &own_sets {
            set.hash(&mut hasher);
        }
        let comment = hasher.finish().to_string();
        Self { expressions, own_sets, comment }
    }
}

struct Encoder {
    family: Family,
    expressions: Expressions,
    own_sets: Vec<OwnSet>,
}

impl Encoder {
    fn matching(&mut self, part: &Match) {
        let (family, to) = (self.family, &mut self.expressions);
        match part {
            Match::Address(side, is) => self.address(*side, *is),
            // In the chains for ports of a bridge, they are the interfaces.
            Match::Interface(side, is) | Match::BridgePort(side, is) => self.interface(*side, *is),
            Match::Ports(protocol, ranges) => self.ports(*protocol, ranges),
            Match::TcpSyn => {
                self.transport(Holds::Equal, protocol_number(Protocol::Tcp));
                self.expressions.load(Field::TCP_FLAGS);
                self.expressions.mask(&[TCP_FLAGS]);
                self.expressions.compare(Holds::Equal, &[TCP_SYN]);
            }
            Match::TcpOfUnknown => {
                self.transport(Holds::Equal, protocol_number(Protocol::Tcp));
                self.state(NEW);
            }
            Match::TcpFromClient => {
                self.transport(Holds::Equal, protocol_number(Protocol::Tcp));
                let [first, last] = [FIRST_CLIENT_PORT, u16::MAX].map(u16::to_be_bytes);
                self.expressions.load(Field::SOURCE_PORT);
                self.expressions.within(&first, &last);
                let [first, last] = [0, FIRST_CLIENT_PORT - 1].map(u16::to_be_bytes);
                self.expressions.load(Field::PORT);
                self.expressions.within(&first, &last);
            }
            Match::SctpInit => {
                self.transport(Holds::Equal, protocol_number(Protocol::Sctp));
                self.expressions.load(Field::SctpChunk(SCTP_INIT));
                self.expressions.compare(Holds::Equal, &[1]);
            }
            Match::Icmpv6(kind) => {
                self.transport(Holds::Equal, ICMPV6);
                self.expressions.load(Field::ICMP_TYPE);
                self.expressions.compare(Holds::Equal, &[*kind]);
            }
            Match::NotSctp => self.transport(Holds::Unequal, protocol_number(Protocol::Sctp)),
            Match::NotIcmpv6 => self.transport(Holds::Unequal, ICMPV6),
            Match::HopLimit(limit) => {
                to.load(Field::HOP_LIMIT);
                to.compare(Holds::Equal, &[*limit]);
            }
            // Packets from one port of a bridge to another are judged in the bridge's own chains.
            Match::NotBridged | Match::Comment(_) => {}
            Match::RelatedOrEstablished => self.state(ESTABLISHED | RELATED),
            Match::NotRelated => {
                to.load(Field::STATE);
                to.compare(Holds::Unequal, &RELATED.to_ne_bytes());
            }
            Match::NotTranslated => {
                to.load(Field::STATUS);
                to.mask(&TRANSLATED.to_ne_bytes());
                to.compare(Holds::Equal, &0_u32.to_ne_bytes());
            }
            Match::Set(set, side) => {
                to.load(address_field(family, *side));
                to.look_up(&SetReference::Named(set.to_string()), Holds::Equal, 1);
            }
            Match::NotInSet(set, side) => {
                to.load(address_field(family, *side));
                to.look_up(&SetReference::Named(set.to_string()), Holds::Unequal, 1);
            }
            // The port is always the packet's destination port.
            Match::SetWithPort(set, side) => {
                let address = address_field(family, *side);
                to.load_all(&[address, Field::TRANSPORT_PROTOCOL, Field::PORT]);
                to.look_up(&SetReference::Named(set.to_string()), Holds::Equal, 3);
            }
            Match::RatePerAddress { rate, by, number, addresses_max: _ } => {
                to.load(address_field(family, *by));
                to.limit_each(&rate_set(*number), rate.per_second, rate.burst);
            }
            Match::Rate(rate) => to.limit(rate.per_second, rate.burst),
        }
    }

    /// Continues for packets without a tracked connection.
    fn has_no_connection(&mut self) {
        self.state(NO_CONNECTION);
    }

    fn state(&mut self, states: u32) {
        self.expressions.load(Field::STATE);
        self.expressions.mask(&states.to_ne_bytes());
        self.expressions.compare(Holds::Unequal, &0_u32.to_ne_bytes());
    }

    fn address(&mut self, side: Side, is: Is) {
        let (network, holds) = match is {
            Is::Within(network) => (network, Holds::Equal),
            Is::Outside(network) => (network, Holds::Unequal),
        };
        self.expressions.load(address_field(self.family, side));
        if !is_host(network) {
            self.expressions.mask(&address_bytes(network.netmask()));
        }
        self.expressions.compare(holds, &address_bytes(network.network()));
    }

    fn interface(&mut self, side: Side, is: IsInterface) {
        self.expressions.load(interface_field(side));
        match is {
            IsInterface::Named(name) => {
                self.expressions.compare(Holds::Equal, &interface_bytes(name));
            }
            IsInterface::NotNamed(name) => {
                self.expressions.compare(Holds::Unequal, &interface_bytes(name));
            }
            IsInterface::Begins(beginning) => {
                self.expressions.compare(Holds::Equal, beginning.as_str().as_bytes());
            }
        }
    }

    fn transport(&mut self, holds: Holds, protocol: u8) {
        self.expressions.load(Field::TRANSPORT_PROTOCOL);
        self.expressions.compare(holds, &[protocol]);
    }

    fn ports(&mut self, protocol: Protocol, ranges: &[PortRange]) {
        self.transport(Holds::Equal, protocol_number(protocol));
        let [first, rest @ ..] = ranges else { return };
        self.expressions.load(Field::PORT);
        let bytes = |port: u16| port.to_be_bytes();
        if !rest.is_empty() {
            self.expressions.look_up(&SetReference::Own(self.own_sets.len()), Holds::Equal, 1);
            self.own_sets.push(OwnSet::ports(ranges));
        } else if first.count() == 1 {
            self.expressions.compare(Holds::Equal, &bytes(first.first()));
        } else {
            self.expressions.within(&bytes(first.first()), &bytes(first.last()));
        }
    }

    fn verdict(&mut self, verdict: &Verdict, chain: ChainName) {
        match verdict {
            // The counter of a kind of denial is kept when the rules of its chain change.
            Verdict::Continue => self.expressions.count(&chain.to_string()),
            Verdict::RejectTcp => self.expressions.reject_tcp(),
            Verdict::Reject(family) => self.expressions.reject(*family),
            Verdict::Log { prefix, group, bytes } => {
                self.expressions.log(prefix, group.number(), *bytes);
            }
            verdict => {
                if let Some(outcome) = outcome(verdict) {
                    self.expressions.verdict(&outcome);
                }
            }
        }
    }
}

/// The verdict as a value of a map; `None` for what is not a verdict of nftables.
fn outcome(verdict: &Verdict) -> Option<Outcome> {
    Some(match verdict {
        Verdict::Return => Outcome::Return,
        Verdict::Accept => Outcome::Accept,
        Verdict::Drop => Outcome::Drop,
        Verdict::Jump(chain) => Outcome::Jump(chain.to_string()),
        Verdict::Goto(chain) => Outcome::Goto(chain.to_string()),
        Verdict::Continue
        | Verdict::RejectTcp
        | Verdict::Reject(_)
        | Verdict::Log { .. }
        | Verdict::Unknown(_) => return None,
    })
}

fn address_field(family: Family, side: Side) -> Field {
    match side {
        Side::Source => Field::source(family),
        Side::Destination => Field::destination(family),
    }
}

fn interface_field(side: Side) -> Field {
    match side {
        Side::Source => Field::INPUT_INTERFACE,
        Side::Destination => Field::OUTPUT_INTERFACE,
    }
}

/// A name as the kernel compares it: filled up with zeros.
fn interface_bytes(name: InterfaceName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.resize(INTERFACE_BYTES, 0);
    bytes
}

/// `ETH_P_IP` and `ETH_P_IPV6`.
pub(super) fn ether_type(family: Family) -> u16 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    }
}

/// The number that IANA has assigned to `protocol`.
pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

#[cfg(test)]
mod tests;
