//! Messages that create, change and remove objects of our tables. Pure.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use policy_engine::cidr::Family;
use policy_engine::direction::Direction;

use super::encode::KernelRule;
use super::sets::{self, ANONYMOUS, EVAL, KeyType, TIMEOUT};
use crate::dataplane::name::{self, ChainName};
use crate::dataplane::netlink::attributes::Attributes;
use crate::dataplane::netlink::nftables::Message;
use crate::dataplane::rule::Hook;

/// The name of our table in each family.
pub const TABLE: &str = "portcullis";

/// Our tables for packets of one family, as `nft` names them.
pub fn tables(family: Family) -> impl Iterator<Item = [&'static str; 2]> {
    [bridge_table(family), table(family)].into_iter()
}

/// Our table of one family that compares frames with ports of bridges, as `nft` names it.
#[must_use]
pub fn bridge_table(family: Family) -> [&'static str; 2] {
    ["bridge", Writer::of(family).of_bridge().table()]
}

/// Our table of one family that has the sets, as `nft` names it.
#[must_use]
pub fn table(family: Family) -> [&'static str; 2] {
    [if family == Family::V4 { "ip" } else { "ip6" }, TABLE]
}

/// The priority of our chains: behind `mangle`, and before `filter` of other programs. A drop is
/// final in any chain, so no accept of other programs lets a packet bypass our rules.
const PRIORITY: i32 = -150;

/// How long the kernel keeps the rate of an address that sends nothing, in milliseconds.
const RATE_TIMEOUT_MILLISECONDS: u64 = 60_000;

/// The name by which the kernel finds a name for a set of one rule.
const OWN_SET: &str = "__set%d";

/// `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;

/// Types of messages: `NFT_MSG_…`.
pub(super) mod kind {
    pub(in super::super) const NEW_TABLE: u8 = 0;
    pub(in super::super) const LIST_TABLES: u8 = 1;
    pub(in super::super) const DELETE_TABLE: u8 = 2;
    pub(in super::super) const NEW_CHAIN: u8 = 3;
    pub(in super::super) const LIST_CHAINS: u8 = 4;
    pub(in super::super) const DELETE_CHAIN: u8 = 5;
    pub(in super::super) const NEW_RULE: u8 = 6;
    pub(in super::super) const LIST_RULES: u8 = 7;
    pub(in super::super) const DELETE_RULES: u8 = 8;
    pub(in super::super) const NEW_SET: u8 = 9;
    pub(in super::super) const LIST_SETS: u8 = 10;
    pub(in super::super) const DELETE_SET: u8 = 11;
    pub(in super::super) const NEW_ELEMENTS: u8 = 12;
    pub(in super::super) const LIST_ELEMENTS: u8 = 13;
    pub(in super::super) const DELETE_ELEMENTS: u8 = 14;
    pub(in super::super) const NEW_OBJECT: u8 = 18;
    pub(in super::super) const LIST_OBJECTS: u8 = 19;
}

/// The name of a table that does not exist after a transaction.
const PROBE_TABLE: &str = "portcullis-probe";

/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;

/// `NF_BR_PRE_ROUTING` and `NF_BR_FORWARD`.
const BRIDGE_PRE_ROUTING: u32 = 0;
const BRIDGE_FORWARD: u32 = 2;

/// A priority before the kernel hands frames to the IP families.
const BRIDGE_PRIORITY: i32 = -300;

/// `NFPROTO_…`.
pub(super) fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// A chain that the kernel sends packets or frames to: its name, and its hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Base {
    pub name: &'static str,
    pub hook: u32,
    pub priority: i32,
}

impl Base {
    /// The base chain for packets.
    pub(super) fn of(hook: Hook) -> Self {
        match hook {
            // `NF_INET_FORWARD` and `NF_INET_LOCAL_IN`.
            Hook::Forward => Self { name: "forward", hook: 2, priority: PRIORITY },
            Hook::Input => Self { name: "input", hook: 1, priority: PRIORITY },
        }
    }

    /// The base chain for frames, which sends them to the chain of a direction.
    pub(super) fn of_bridge(direction: Direction) -> Self {
        let priority = BRIDGE_PRIORITY;
        match direction {
            Direction::Egress => Self { name: "prerouting", hook: BRIDGE_PRE_ROUTING, priority },
            Direction::Ingress => Self { name: "forward", hook: BRIDGE_FORWARD, priority },
        }
    }
}

/// Makes messages for our table of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    /// The family of the packets.
    pub family: Family,
    /// For frames of bridges: which table. `None` for packets.
    frames: Option<Frames>,
    /// Whether the table is one that a probe creates and removes.
    is_probe: bool,
}

/// A table for frames of bridges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frames {
    /// Compares frames of the family of the writer with ports.
    Compared,
    /// Drops frames with two VLAN tags.
    Tagged,
}

impl Writer {
    /// A writer for the table of our rules.
    pub(super) fn of(family: Family) -> Self {
        Self { family, frames: None, is_probe: false }
    }

    /// A writer for a table that a probe creates and removes.
    pub(super) fn of_probe(family: Family) -> Self {
        Self::of(family).probing()
    }

    /// A writer for the table of frames of bridges beside this one.
    pub(super) fn of_bridge(self) -> Self {
        Self { frames: Some(Frames::Compared), ..self }
    }

    /// A writer for the table that drops frames with two VLAN tags.
    pub(super) fn of_two_tags() -> Self {
        Self { frames: Some(Frames::Tagged), ..Self::of(Family::V4) }
    }

    /// The same writer, for a table that a probe creates and removes.
    pub(super) fn probing(self) -> Self {
        Self { is_probe: true, ..self }
    }

    /// A writer for the table of a chain.
    pub(super) fn of_chain(self, chain: ChainName) -> Self {
        if name::is_of_bridge(chain) { self.of_bridge() } else { self }
    }

    pub(super) fn is_bridge(self) -> bool {
        self.frames.is_some()
    }

    /// The name of the table.
    pub(super) fn table(self) -> &'static str {
        match (self.is_probe, self.frames, self.family) {
            (true, _, _) => PROBE_TABLE,
            (false, None, _) => TABLE,
            // Tables of the bridge family have names of their own for each IP family.
            (false, Some(Frames::Compared), Family::V4) => "portcullis-ip",
            (false, Some(Frames::Compared), Family::V6) => "portcullis-ip6",
            (false, Some(Frames::Tagged), _) => "portcullis-tags",
        }
    }

    /// The tables of both families, with those that compare frames with ports.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Family::BOTH.into_iter().flat_map(|family| [Self::of(family), Self::of(family).of_bridge()])
    }

    fn protocol(self) -> u8 {
        if self.is_bridge() { BRIDGE } else { protocol(self.family) }
    }

    fn message(self, kind: u8, flags: u16, attributes: Attributes) -> Message {
        Message { kind, flags, family: self.protocol(), attributes: attributes.0 }
    }

    /// The beginning of most messages: the name of the table.
    fn of_table(self) -> Attributes {
        Attributes::default().text(1, self.table())
    }

    pub(super) fn new_table(self) -> Message {
        self.message(kind::NEW_TABLE, NLM_F_CREATE, self.of_table().number(2, 0))
    }

    /// Requests the table, if it exists.
    pub(super) fn list_table(self) -> Message {
        self.message(kind::LIST_TABLES, 0, self.of_table())
    }

    pub(super) fn delete_table(self) -> Message {
        self.message(kind::DELETE_TABLE, 0, self.of_table())
    }

    pub(super) fn new_chain(self, name: &str) -> Message {
        self.message(kind::NEW_CHAIN, NLM_F_CREATE, self.of_table().text(3, name))
    }

    pub(super) fn new_base_chain(self, base: Base) -> Message {
        let place = Attributes::default().number(1, base.hook);
        let place = place.bytes(2, &base.priority.to_be_bytes());
        let chain = self.of_table().text(3, base.name).nest(4, place);
        // The policy of the chain: packets that pass it are accepted.
        self.message(kind::NEW_CHAIN, NLM_F_CREATE, chain.number(5, 1).text(7, "filter"))
    }

    pub(super) fn delete_chain(self, name: &str) -> Message {
        self.message(kind::DELETE_CHAIN, 0, self.of_table().text(3, name))
    }

    /// Removes all rules of a chain.
    pub(super) fn flush_chain(self, name: &str) -> Message {
        self.message(kind::DELETE_RULES, 0, self.of_table().text(2, name))
    }

    /// Appends or prepends a rule to a chain, and creates its own sets. Their numbers come from
    /// `next`, and are unique in a transaction.
    pub(super) fn new_rule(
        self,
        chain: &str,
        rule: &KernelRule,
        in_front: bool,
        next: &mut u32,
    ) -> Vec<Message> {
        let first = *next;
        let mut messages = Vec::new();
        for set in &rule.own_sets {
            let header = sets::header(self.of_table().text(2, OWN_SET), set.key, set.flags);
            messages.push(self.message(kind::NEW_SET, NLM_F_CREATE, header.number(10, *next)));
            messages.extend(set.parts().into_iter().map(|part| {
                let elements = self.of_table().text(2, OWN_SET).nest(3, part).number(4, *next);
                self.message(kind::NEW_ELEMENTS, NLM_F_CREATE, elements)
            }));
            *next += 1;
        }
        let mut expressions = rule.expressions.list.clone();
        for (place, set) in &rule.expressions.own_sets {
            let number = first.saturating_add(u32::try_from(*set).unwrap_or(u32::MAX));
            if let Some(bytes) = expressions.0.get_mut(*place..place + 4) {
                bytes.copy_from_slice(&number.to_be_bytes());
            }
        }
        let text = [rule.comment.as_bytes(), &[0]].concat();
        let length = u8::try_from(text.len()).expect("a hash is short");
        let comment = [[COMMENT, length].as_slice(), &text].concat();
        let attributes = self.of_table().text(2, chain).nest(4, expressions).bytes(7, &comment);
        let flags = if in_front { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_APPEND };
        messages.push(self.message(kind::NEW_RULE, flags, attributes));
        messages
    }

    pub(super) fn new_set(self, name: &str, key: KeyType, flags: u32, id: u32) -> Message {
        let header = sets::header(self.of_table().text(2, name), key, flags);
        self.message(kind::NEW_SET, NLM_F_CREATE, header.number(10, id))
    }

    /// Creates a set with the rates of addresses.
    pub(super) fn new_rate_set(self, name: &str, addresses_max: u32, id: u32) -> Message {
        let key = KeyType::Address(self.family);
        let header = sets::header(self.of_table().text(2, name), key, EVAL | TIMEOUT);
        let size = Attributes::default().number(1, addresses_max);
        let header = header.nest(9, size).number(10, id).long(11, RATE_TIMEOUT_MILLISECONDS);
        self.message(kind::NEW_SET, NLM_F_CREATE, header)
    }

    pub(super) fn delete_set(self, name: &str) -> Message {
        self.message(kind::DELETE_SET, 0, self.of_table().text(2, name))
    }

    /// Removes all elements of a set.
    pub(super) fn flush_set(self, name: &str) -> Message {
        self.message(kind::DELETE_ELEMENTS, 0, self.of_table().text(2, name))
    }

    pub(super) fn new_elements(self, set: &str, part: Attributes) -> Message {
        self.message(kind::NEW_ELEMENTS, NLM_F_CREATE, self.of_table().text(2, set).nest(3, part))
    }

    pub(super) fn delete_elements(self, set: &str, part: Attributes) -> Message {
        self.message(kind::DELETE_ELEMENTS, 0, self.of_table().text(2, set).nest(3, part))
    }

    pub(super) fn new_counter(self, name: &str) -> Message {
        let nothing = Attributes::default().long(1, 0).long(2, 0);
        let counter = self.of_table().text(2, name).number(3, 1).nest(4, nothing);
        self.message(kind::NEW_OBJECT, NLM_F_CREATE, counter)
    }

    pub(super) fn list_chains(self) -> Message {
        self.message(kind::LIST_CHAINS, 0, Attributes::default())
    }

    /// The rules of all chains, or of one.
    pub(super) fn list_rules(self, chain: Option<&str>) -> Message {
        let of = self.of_table();
        let of = match chain {
            Some(chain) => of.text(2, chain),
            None => of,
        };
        self.message(kind::LIST_RULES, 0, of)
    }

    pub(super) fn list_sets(self) -> Message {
        self.message(kind::LIST_SETS, 0, self.of_table())
    }

    pub(super) fn list_elements(self, set: &str) -> Message {
        self.message(kind::LIST_ELEMENTS, 0, self.of_table().text(2, set))
    }

    pub(super) fn list_counters(self) -> Message {
        self.message(kind::LIST_OBJECTS, 0, self.of_table().number(3, 1))
    }
}

/// The comment in the user data of a rule.
pub(super) fn comment(user_data: &[u8]) -> Option<&str> {
    let [COMMENT, length, rest @ ..] = user_data else { return None };
    let text = rest.get(..usize::from(*length))?;
    str::from_utf8(text).ok().map(|text| text.trim_end_matches('\0'))
}

/// Whether a set with these flags belongs to one rule.
pub(super) fn is_own_set(flags: u32) -> bool {
    flags & ANONYMOUS != 0
}
