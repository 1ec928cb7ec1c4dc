//! The table that drops frames with two VLAN tags of pods on bridges. All backends use it.
//!
//! ```text
//! table bridge portcullis-tags
//!   prerouting:  meta protocol 8021q jump two-tags       and likewise 8021ad
//!   two-tags:    iifname "veth1" drop                    for each port of a bridge that leads to a pod
//! ```
//!
//! Before these hooks, the kernel takes the outer tag off a frame. A type that is that of a tag
//! then belongs to a second one. The kernel hands no such frame to the chains of IP families, and a
//! host accepts what is behind any number of tags of VLAN 0. Frames with one tag do not match.

use std::collections::BTreeSet;

use super::encode::KernelRule;
use super::kernel::{Kernel, has_table, list};
use super::message::{Base, Writer, comment};
use super::read::{is_of, named};
use crate::dataplane::attachment::InterfaceName;
use crate::dataplane::backend::Error;
use crate::dataplane::netlink::attributes::{find, text};
use crate::dataplane::netlink::nftables::Message;
use policy_engine::direction::Direction;

/// The types of tags: `ETH_P_8021Q` and `ETH_P_8021AD`.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// The chain for frames with two tags.
const CHAIN: &str = "two-tags";

/// The chain that the kernel sends frames to.
fn base() -> Base {
    Base::of_bridge(Direction::Egress)
}

/// The rules of the chain that the kernel sends frames to.
fn jumps() -> [KernelRule; 2] {
    TAGS.map(|tag| KernelRule::jump_of_type(tag, CHAIN))
}

/// The messages that replace whatever the table has.
fn replace(writer: Writer, ports: &BTreeSet<InterfaceName>) -> Vec<Message> {
    let mut messages = vec![writer.new_table(), writer.delete_table()];
    if ports.is_empty() {
        return messages;
    }
    let made = [writer.new_table(), writer.new_base_chain(base()), writer.new_chain(CHAIN)];
    messages.extend(made);
    for rule in jumps() {
        messages.extend(append(writer, base().name, &rule));
    }
    messages.extend(ports.iter().flat_map(|port| drop_from(writer, *port)));
    messages
}

fn append(writer: Writer, chain: &str, rule: &KernelRule) -> Vec<Message> {
    // The rules have no sets of their own, which would need numbers.
    writer.new_rule(chain, rule, false, &mut 1)
}

fn drop_from(writer: Writer, port: InterfaceName) -> Vec<Message> {
    append(writer, CHAIN, &KernelRule::drop_from(port))
}

/// Makes the table drop such frames of these ports, and of no others. Without ports, there is no
/// table.
pub(in crate::dataplane) fn write(ports: &BTreeSet<InterfaceName>) -> Result<(), Error> {
    commit(replace(Writer::of_two_tags(), ports))
}

/// Makes the table, which exists, drop such frames of these ports, too.
pub(in crate::dataplane) fn add(ports: &BTreeSet<InterfaceName>) -> Result<(), Error> {
    let writer = Writer::of_two_tags();
    commit(ports.iter().flat_map(|port| drop_from(writer, *port)).collect())
}

/// Whether the table has the rules for these ports, in any order, and no others.
pub(in crate::dataplane) fn is_written(ports: &BTreeSet<InterfaceName>) -> Result<bool, Error> {
    let writer = Writer::of_two_tags();
    if ports.is_empty() {
        return exists(writer).map(|exists| !exists);
    }
    let (chains, found) = (list(&writer.list_chains())?, list(&writer.list_rules(None))?);
    let own = chains.iter().filter(|chain| is_of(writer, chain));
    let places: Vec<(u32, i32)> = own.filter_map(|chain| named(base(), chain)).collect();
    let comments = |name: &str| -> Vec<&str> {
        let own = found.iter().filter(|rule| is_of(writer, rule));
        let own = own.filter(|rule| find(rule, 2).and_then(text) == Some(name));
        own.map(|rule| find(rule, 7).and_then(comment).unwrap_or_default()).collect()
    };
    let drops: Vec<KernelRule> = ports.iter().map(|port| KernelRule::drop_from(*port)).collect();
    let mut expected: Vec<&str> = drops.iter().map(|rule| rule.comment.as_str()).collect();
    let mut found = comments(CHAIN);
    expected.sort_unstable();
    found.sort_unstable();
    let jumps = jumps();
    Ok(places == [(base().hook, base().priority)]
        && jumps.iter().map(|rule| rule.comment.as_str()).eq(comments(base().name))
        && found == expected)
}

/// Removes the table. Returns whether it existed.
pub(in crate::dataplane) fn remove() -> Result<bool, Error> {
    let writer = Writer::of_two_tags();
    let exists = exists(writer)?;
    if exists {
        commit(vec![writer.delete_table()])?;
    }
    Ok(exists)
}

/// Whether the kernel accepts the table, or why not. An agent that restarts finds it.
pub(in crate::dataplane) fn probe() -> Result<(), String> {
    let writer = Writer::of_two_tags();
    if exists(writer).is_ok_and(|exists| exists) {
        return Ok(());
    }
    let writer = writer.probing();
    let mut messages = replace(writer, &BTreeSet::from([InterfaceName::LOOPBACK]));
    messages.push(writer.delete_table());
    commit(messages).map_err(|error| error.to_string())
}

fn exists(writer: Writer) -> Result<bool, Error> {
    has_table(&writer.list_table(), writer.table())
}

fn commit(messages: Vec<Message>) -> Result<(), Error> {
    Kernel::default().change(messages)
}
