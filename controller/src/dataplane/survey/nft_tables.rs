//! The tables of nftables of all programs in the kernel. Their rules are not read.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use policy_engine::cidr::Family;

use crate::dataplane::conflict::facts::NftTable;
use crate::dataplane::netlink::Socket;
use crate::dataplane::netlink::request::Scope;

/// All tables of this network namespace, with their chains.
///
/// # Errors
/// When the kernel does not list them.
pub(super) fn nft_tables() -> io::Result<Vec<NftTable>> {
    let mut netlink = Socket::open(NETLINK_NETFILTER)?;
    let header = || NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let mut tables: BTreeMap<(u8, String), NftTable> = BTreeMap::new();
    let request = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    for answer in netlink.request(Scope::All, NetfilterMessage::new(header(), request))? {
        let protocol = answer.header.family;
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(message)) = answer.inner
        else {
            continue;
        };
        let name = message.attributes.into_iter().find_map(|attribute| match attribute {
            TableAttribute::Name(name) => Some(name),
            _ => None,
        });
        let Some(name) = name else { continue };
        let family = match protocol {
            NetfilterProtoFamily::IPv4 => Some(Family::V4),
            NetfilterProtoFamily::IPv6 => Some(Family::V6),
            _ => None,
        };
        let table = NftTable { family, name: name.clone(), ..NftTable::default() };
        tables.insert((protocol.into(), name), table);
    }
    let request = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    for answer in netlink.request(Scope::All, NetfilterMessage::new(header(), request))? {
        let protocol = answer.header.family;
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(message)) = answer.inner
        else {
            continue;
        };
        let (mut table, mut chain, mut is_hooked) = (None, None, false);
        for attribute in message.attributes {
            match attribute {
                ChainAttribute::Table(name) => table = Some(name),
                ChainAttribute::Name(name) => chain = Some(name),
                ChainAttribute::Hook(_) => is_hooked = true,
                _ => {}
            }
        }
        let table = table.and_then(|table| tables.get_mut(&(protocol.into(), table)));
        if let Some(table) = table {
            table.hooked |= is_hooked;
            table.chains.extend(chain);
        }
    }
    Ok(tables.into_values().collect())
}
