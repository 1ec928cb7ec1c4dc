//! Changes of nftables that concern our chains, as the kernel announces them for all programs.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use policy_engine::cidr::Family;

use super::{Received, Socket};
use crate::dataplane::backend::nftables::TABLE as OWN_TABLE;
use crate::dataplane::name::ChainName;
use crate::dataplane::rule::Hook;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// The receive buffer in bytes, as the kernel counts them; at most `net.core.rmem_max`.
const BUFFER_BYTES: i32 = 1 << 20;
/// How many datagrams are read before their changes are returned.
const DATAGRAMS_MAX: usize = 4096;

/// The headers of netlink and of nfnetlink.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;

/// The changes that concern our chains.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Touched {
    /// The changes of each process, by its netlink port: in most cases its process id.
    pub by: BTreeMap<u32, Touch>,
    /// Whether events were lost, since the receive buffer was full.
    pub overrun: bool,
}

impl Touched {
    /// Adds the changes of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.overrun |= other.overrun;
        for (port, touch) in other.by {
            self.add(port, touch);
        }
        self
    }

    fn add(&mut self, port: u32, touch: Touch) {
        let known = self.by.entry(port).or_insert(touch);
        *known = touch.max(*known);
    }
}

/// The most important object that one process changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Touch {
    /// A built-in chain with a jump to ours.
    Hook,
    /// A chain of ours, or the whole table.
    Chain,
}

/// A subscription to the kernel's events of nftables.
pub struct Events {
    socket: Socket,
    /// The name of the table that our chains are in.
    table: &'static str,
    families: Vec<Family>,
}

impl Events {
    /// Subscribes to changes in this network namespace.
    ///
    /// # Errors
    /// When the kernel has no nftables, or the process lacks the permission.
    pub fn open(table: &'static str, families: &[Family]) -> io::Result<Self> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        socket.netlink.set_rx_buf_sz(BUFFER_BYTES)?;
        socket.netlink.add_membership(GROUP)?;
        Ok(Self { socket, table, families: families.to_vec() })
    }

    /// Waits at most `limit` for changes. Returns those that concern our chains.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn next(&mut self, limit: Duration) -> io::Result<Touched> {
        let mut touched = Touched::default();
        if !self.socket.wait(limit)? {
            return Ok(touched);
        }
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.receive()? {
                Received::Nothing => break,
                Received::Overrun => touched.overrun = true,
                Received::Datagram(datagram) => {
                    collect(datagram, self.table, &self.families, &mut touched);
                }
            }
        }
        Ok(touched)
    }
}

/// Adds the changes in the messages of one datagram.
fn collect(datagram: &[u8], table: &str, families: &[Family], touched: &mut Touched) {
    let mut rest = datagram;
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let Ok(length) = usize::try_from(header.length()) else { return };
        let (kind, port) = (header.message_type(), header.port_number());
        let Some(body) = rest.get(HEADER_BYTES..length) else { return };
        if let Some(touch) = touch(kind, body, table, families) {
            touched.add(port, touch);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The object that a message reports as changed; `None` if it is not one of our chains or hooks.
fn touch(kind: u16, body: &[u8], table: &str, families: &[Family]) -> Option<Touch> {
    if kind >> 8 != SUBSYSTEM {
        return None;
    }
    let family = match body.first()? {
        2 => Some(Family::V4),
        10 => Some(Family::V6),
        // The bridge family, of which only our own tables matter.
        7 => None,
        _ => return None,
    };
    if table == OWN_TABLE {
        return touch_of_own_table(kind, body);
    }
    let family = family?;
    // The attributes that name the table, and the chain: linux/netfilter/nf_tables.h.
    let (table_name, chain_name) = match kind & 0xff {
        // NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE
        0 | 2 => (1, None),
        // NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN
        3 | 5 => (1, Some(3)),
        // NFT_MSG_NEWRULE, NFT_MSG_DELRULE
        6 | 8 => (1, Some(2)),
        _ => return None,
    };
    let attributes = body.get(FAMILY_BYTES..)?;
    let is_ours = families.contains(&family) && text(attributes, table_name)? == table;
    let chain = chain_name.map(|name| text(attributes, name).unwrap_or_default());
    match chain {
        _ if !is_ours => None,
        None => Some(Touch::Chain),
        Some(chain) if Hook::ALL.iter().any(|hook| hook.chain() == chain) => Some(Touch::Hook),
        Some(chain) => ChainName::parse(chain).map(|_| Touch::Chain),
    }
}

/// As [`touch`], for tables that are ours alone: every object in them matters, also members of
/// sets.
fn touch_of_own_table(kind: u16, body: &[u8]) -> Option<Touch> {
    // Messages on tables, chains, rules, sets, their elements and objects all begin with the table.
    if !matches!(kind & 0xff, 0..=14 | 18..=20) {
        return None;
    }
    let table = text(body.get(FAMILY_BYTES..)?, 1)?;
    let is_ours =
        table.strip_prefix(OWN_TABLE).is_some_and(|rest| matches!(rest, "" | "-ip" | "-ip6"));
    is_ours.then_some(Touch::Chain)
}

/// The text of the first attribute of this kind.
fn text(attributes: &[u8], wanted: u16) -> Option<&str> {
    let mut rest = attributes;
    while let [a, b, c, d, ..] = rest {
        let (length, kind) = (u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d]));
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        let length = u16::try_from(4 + text.len() + 1).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(text.as_bytes());
        bytes.resize(usize::from(length).next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, port: u32, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [vec![family, 0, 0, 0], attributes.concat()].concat();
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend([0, 0, 0, 0, 0, 0]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn check(messages: &[Vec<u8>], expected: &[(u32, Touch)]) {
        let mut touched = Touched::default();
        collect(&messages.concat(), "mangle", &Family::BOTH, &mut touched);
        assert_eq!(touched.by, expected.iter().copied().collect(), "{messages:?}");
    }

    fn rule(kind: u16, port: u32, table: &str, chain: &str) -> Vec<u8> {
        message(kind, port, 2, &[attribute(1, table), attribute(2, chain)])
    }

    #[test]
    fn changes_of_our_table_are_distinguished_from_all_others() {
        check(&[rule(8, 7, "mangle", "FORWARD")], &[(7, Touch::Hook)]);
        check(&[rule(6, 7, "mangle", "INPUT")], &[(7, Touch::Hook)]);
        check(&[rule(6, 7, "mangle", "PORTCULLIS-JUDGE")], &[(7, Touch::Chain)]);
        let chain = message(5, 8, 10, &[attribute(1, "mangle"), attribute(3, "FORWARD")]);
        check(&[chain], &[(8, Touch::Hook)]);
        check(&[message(2, 9, 2, &[attribute(1, "mangle")])], &[(9, Touch::Chain)]);
        for other in [
            rule(6, 7, "nat", "FORWARD"),
            rule(6, 7, "mangle", "KUBE-SERVICES"),
            rule(6, 7, "mangle", "POSTROUTING"),
            message(6, 7, 1, &[attribute(1, "mangle"), attribute(2, "FORWARD")]),
            message(9, 7, 2, &[attribute(1, "mangle"), attribute(2, "FORWARD")]),
            message(6, 7, 2, &[]),
            vec![1, 2, 3],
        ] {
            check(&[other], &[]);
        }
        check(
            &[
                rule(6, 7, "mangle", "PORTCULLIS-JUDGE"),
                rule(6, 7, "mangle", "INPUT"),
                rule(6, 8, "nat", "INPUT"),
                rule(6, 9, "mangle", "INPUT"),
            ],
            &[(7, Touch::Chain), (9, Touch::Hook)],
        );
    }

    #[test]
    fn everything_in_a_table_of_our_own_matters() {
        let check = |messages: Vec<u8>, is_ours: bool| {
            let mut touched = Touched::default();
            collect(&messages, OWN_TABLE, &Family::BOTH, &mut touched);
            assert_eq!(touched.by.contains_key(&7), is_ours);
        };
        check(rule(6, 7, "portcullis", "forward"), true);
        check(rule(8, 7, "portcullis", "PORTCULLIS-JUDGE"), true);
        let elements = |family, table| message(12, 7, family, &[attribute(1, table)]);
        check(elements(2, "portcullis"), true);
        check(elements(7, "portcullis-ip6"), true);
        check(elements(2, "portcullis-of-others"), false);
        check(rule(6, 7, "mangle", "PORTCULLIS-JUDGE"), false);
    }

    #[test]
    fn a_datagram_that_is_cut_anywhere_is_no_panic() {
        let whole = rule(6, 7, "mangle", "FORWARD");
        for length in 0..whole.len() {
            let mut touched = Touched::default();
            collect(&whole[..length], "mangle", &Family::BOTH, &mut touched);
            assert_eq!(touched, Touched::default());
        }
    }
}
