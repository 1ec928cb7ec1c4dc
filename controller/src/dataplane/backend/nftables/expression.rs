//! The expressions that nftables runs for a rule: each loads, compares or acts. Pure.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`, and the order of expressions is the one in which
//! `nft` writes them, so that `nft list` prints rules as a person would write them.

use std::net::IpAddr;

use policy_engine::cidr::Family;

use crate::dataplane::netlink::attributes::Attributes;

/// The first register, which all keys and values are loaded into.
const REGISTER: u32 = 1;
/// The first register, by its number among registers with four bytes each.
const REGISTER_WORDS: u32 = 8;
/// The register whose content is a verdict.
const REGISTER_VERDICT: u32 = 0;

/// Whether a comparison or a look-up matches equal values, or all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    Equal,
    Unequal,
}

impl Holds {
    /// `NFT_CMP_EQ` and `NFT_CMP_NEQ`, which `NFT_RANGE_…` and `NFT_LOOKUP_F_INV` equal.
    fn number(self) -> u32 {
        match self {
            Self::Equal => 0,
            Self::Unequal => 1,
        }
    }
}

/// A field of a packet that can be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    /// Bytes of the network header.
    Network { offset: u32, length: u32 },
    /// Bytes of the transport header.
    Transport { offset: u32, length: u32 },
    /// `NFT_META_…`.
    Meta(u32),
    /// `NFT_CT_…`.
    Conntrack(u32),
    /// Whether there is an SCTP chunk of this type.
    SctpChunk(u8),
}

impl Field {
    /// `NFT_META_PROTOCOL`: the type of an Ethernet frame.
    pub(super) const PROTOCOL: Self = Self::Meta(1);
    /// `NFT_META_IIFNAME`.
    pub(super) const INPUT_INTERFACE: Self = Self::Meta(6);
    /// `NFT_META_OIFNAME`.
    pub(super) const OUTPUT_INTERFACE: Self = Self::Meta(7);
    /// `NFT_META_L4PROTO`.
    pub(super) const TRANSPORT_PROTOCOL: Self = Self::Meta(16);
    /// `NFT_CT_STATE`.
    pub(super) const STATE: Self = Self::Conntrack(0);
    /// `NFT_CT_STATUS`.
    pub(super) const STATUS: Self = Self::Conntrack(2);
    /// The destination port of TCP, UDP and SCTP.
    pub(super) const PORT: Self = Self::Transport { offset: 2, length: 2 };
    /// The source port of TCP, UDP and SCTP.
    pub(super) const SOURCE_PORT: Self = Self::Transport { offset: 0, length: 2 };
    /// The flags of TCP.
    pub(super) const TCP_FLAGS: Self = Self::Transport { offset: 13, length: 1 };
    /// The type of an ICMP message.
    pub(super) const ICMP_TYPE: Self = Self::Transport { offset: 0, length: 1 };
    /// The hop limit of IPv6.
    pub(super) const HOP_LIMIT: Self = Self::Network { offset: 7, length: 1 };

    /// The source address.
    pub(super) fn source(family: Family) -> Self {
        match family {
            Family::V4 => Self::Network { offset: 12, length: 4 },
            Family::V6 => Self::Network { offset: 8, length: 16 },
        }
    }

    /// The destination address.
    pub(super) fn destination(family: Family) -> Self {
        match family {
            Family::V4 => Self::Network { offset: 16, length: 4 },
            Family::V6 => Self::Network { offset: 24, length: 16 },
        }
    }

    /// How many registers of four bytes the field takes.
    fn words(self) -> u32 {
        match self {
            Self::Network { length, .. } | Self::Transport { length, .. } => length.div_ceil(4),
            Self::INPUT_INTERFACE | Self::OUTPUT_INTERFACE => 4,
            Self::Meta(_) | Self::Conntrack(_) | Self::SctpChunk(_) => 1,
        }
    }
}

/// The content of a packet's address.
pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A set that a rule looks up a key in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SetReference {
    /// A set with a name.
    Named(String),
    /// The rule's own set with this index.
    Own(usize),
}

/// A verdict that a rule or a map gives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Outcome {
    Drop,
    Accept,
    Return,
    Jump(String),
    Goto(String),
}

impl Outcome {
    /// `NFTA_DATA_VERDICT` with code and chain.
    pub(super) fn data(&self) -> Attributes {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5_i32, None),
        };
        let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
        let verdict = match chain {
            Some(chain) => verdict.text(2, chain),
            None => verdict,
        };
        Attributes::default().nest(2, verdict)
    }
}

/// `NFTA_DATA_VALUE`.
pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// The expressions of one rule.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Expressions {
    /// All expressions, as attributes.
    pub list: Attributes,
    /// The offsets where the number of one of the rule's own sets has to be written, and which set.
    pub own_sets: Vec<(usize, usize)>,
}

impl Expressions {
    fn add(&mut self, name: &str, data: Attributes) {
        let expression = Attributes::default().text(1, name).nest(2, data);
        self.list = std::mem::take(&mut self.list).nest(1, expression);
    }

    /// Loads `field` into the first register.
    pub(super) fn load(&mut self, field: Field) {
        self.load_into(field, REGISTER);
    }

    /// Loads fields one after another, as the key of a set has them.
    pub(super) fn load_all(&mut self, fields: &[Field]) {
        let mut register = REGISTER_WORDS;
        for field in fields {
            self.load_into(*field, if fields.len() == 1 { REGISTER } else { register });
            register += field.words();
        }
    }

    fn load_into(&mut self, field: Field, register: u32) {
        let none = Attributes::default();
        let payload = |base, offset, length| {
            let to = Attributes::default().number(1, register).number(2, base);
            to.number(3, offset).number(4, length)
        };
        match field {
            Field::Network { offset, length } => self.add("payload", payload(1, offset, length)),
            Field::Transport { offset, length } => self.add("payload", payload(2, offset, length)),
            Field::Meta(key) => self.add("meta", none.number(2, key).number(1, register)),
            Field::Conntrack(key) => self.add("ct", none.number(1, register).number(2, key)),
            Field::SctpChunk(kind) => {
                // Offset 0, a length of 1, only whether it is there, of SCTP.
                let data = none.number(1, register).bytes(2, &[kind]).number(3, 0).number(4, 1);
                self.add("exthdr", data.number(5, 1).number(6, 3));
            }
        }
    }

    /// Continues if the register equals `bytes`, or if it differs.
    pub(super) fn compare(&mut self, holds: Holds, bytes: &[u8]) {
        let data = Attributes::default().number(1, REGISTER).number(2, holds.number());
        self.add("cmp", data.nest(3, value(bytes)));
    }

    /// Continues if the register is between both values, these included.
    pub(super) fn within(&mut self, first: &[u8], last: &[u8]) {
        let data = Attributes::default().number(1, REGISTER).number(2, Holds::Equal.number());
        self.add("range", data.nest(3, value(first)).nest(4, value(last)));
    }

    /// Keeps only these bits of the register.
    pub(super) fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        let data = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, length);
        let zeros = vec![0; mask.len()];
        self.add("bitwise", data.nest(4, value(mask)).nest(5, value(&zeros)));
    }

    /// Continues if the loaded key is in a set, or if it is not.
    pub(super) fn look_up(&mut self, set: &SetReference, holds: Holds, fields: usize) {
        self.lookup(set, fields, |data| match holds {
            Holds::Equal => data,
            Holds::Unequal => data.number(5, 1),
        });
    }

    /// Applies the verdict that a map has for the loaded key; continues if the map has no such key.
    pub(super) fn verdict_of(&mut self, map: &SetReference) {
        self.lookup(map, 1, |data| data.number(3, REGISTER_VERDICT));
    }

    fn lookup(
        &mut self,
        set: &SetReference,
        fields: usize,
        more: impl FnOnce(Attributes) -> Attributes,
    ) {
        let register = if fields == 1 { REGISTER } else { REGISTER_WORDS };
        let data = Attributes::default();
        match set {
            SetReference::Named(name) => {
                self.add("lookup", more(data.text(1, name).number(2, register)));
            }
            SetReference::Own(index) => {
                let data = more(data.text(1, "__set%d").number(2, register)).number(4, 0);
                self.add("lookup", data);
                // The number is at the end of the expression.
                self.own_sets.push((self.list.0.len() - 4, *index));
            }
        }
    }

    /// Counts the packet in a counter with a name.
    pub(super) fn count(&mut self, counter: &str) {
        self.add("objref", Attributes::default().number(1, 1).text(2, counter));
    }

    /// Continues while the rate of packets is not above this limit, which allows a burst.
    pub(super) fn limit(&mut self, per_second: u32, burst: u32) {
        self.add("limit", limit(per_second, burst));
    }

    /// As [`Self::limit`], for each key on its own: the set has the rate of each.
    pub(super) fn limit_each(&mut self, set: &str, per_second: u32, burst: u32) {
        // NFT_DYNSET_OP_UPDATE, the key in the first register.
        let data = Attributes::default().text(1, set).number(3, 1).number(4, REGISTER);
        let each = Attributes::default().text(1, "limit").nest(2, limit(per_second, burst));
        self.add("dynset", data.nest(7, each));
    }

    /// Hands the packet to a group of the log.
    pub(super) fn log(&mut self, prefix: &str, group: u16, bytes: u32) {
        let data = Attributes::default().bytes(1, &group.to_be_bytes()).text(2, prefix);
        // Threshold 1: each packet is handed over at once, not when a buffer is full.
        self.add("log", data.number(3, bytes).bytes(4, &1_u16.to_be_bytes()));
    }

    /// Drops the packet and answers with a reset.
    pub(super) fn reject_tcp(&mut self) {
        self.add("reject", Attributes::default().number(1, 1).bytes(2, &[0]));
    }

    /// Drops the packet and answers "port unreachable".
    pub(super) fn reject(&mut self, family: Family) {
        let code = match family {
            Family::V4 => 3,
            Family::V6 => 4,
        };
        self.add("reject", Attributes::default().number(1, 0).bytes(2, &[code]));
    }

    /// Ends the rule with a verdict.
    pub(super) fn verdict(&mut self, outcome: &Outcome) {
        let data = Attributes::default().number(1, REGISTER_VERDICT);
        self.add("immediate", data.nest(2, outcome.data()));
    }
}

fn limit(per_second: u32, burst: u32) -> Attributes {
    // Packets, not bytes, and what is below the limit.
    let data = Attributes::default().long(1, per_second.into()).long(2, 1);
    data.number(3, burst).number(4, 0).number(5, 0)
}
