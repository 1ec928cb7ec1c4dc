//! Values that rules compare with, and elements of sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use serde_json::Value;

use super::unknown;
use crate::error::Problem;
use crate::packet::Family;
use crate::words::{parse, protocol};

/// An element of a set: a network, with a protocol and a port.
pub(super) type Element = (IpNet, Option<(u8, u16)>);

pub(super) fn bad(what: &'static str, value: &Value) -> Problem {
    Problem::Bad { what, word: value.to_string() }
}

pub(super) fn text<'a>(what: &'static str, value: &'a Value) -> Result<&'a str, Problem> {
    value.as_str().ok_or_else(|| bad(what, value))
}

/// A number; those above 64 bits are texts.
pub(super) fn number(value: &Value) -> Result<u128, Problem> {
    let read = match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => {
            text.strip_prefix("0x").and_then(|digits| u128::from_str_radix(digits, 16).ok())
        }
        _ => None,
    };
    read.ok_or_else(|| bad("a number", value))
}

pub(super) fn small<T: TryFrom<u128>>(value: &Value) -> Result<T, Problem> {
    T::try_from(number(value)?).map_err(|_| bad("a number of this size", value))
}

/// The number of a protocol, which is printed by its name if it has one.
pub(super) fn protocol_number(value: &Value) -> Result<u8, Problem> {
    match value {
        Value::String(name) => protocol(name),
        number => small(number),
    }
}

/// An address, or a network.
pub(super) fn network(value: &Value) -> Result<IpNet, Problem> {
    let what = "an address or network";
    if let Value::String(address) = value {
        return Ok(IpNet::from(parse::<IpAddr>(address, what)?));
    }
    let prefix = value.get("prefix").ok_or_else(|| bad(what, value))?;
    let part = |name| prefix.get(name).ok_or_else(|| bad(what, value));
    let address: IpAddr = parse(text(what, part("addr")?)?, what)?;
    IpNet::new(address, small(part("len")?)?).map_err(|_| bad(what, value))
}

/// One number or more: alone, as range, or in a set; ascending.
pub(super) fn ranges(value: &Value) -> Result<Vec<(u16, u16)>, Problem> {
    if let Some(set) = value.get("set").and_then(Value::as_array) {
        let mut all = Vec::new();
        for element in set {
            all.extend(ranges(element)?);
        }
        all.sort_unstable();
        return Ok(all);
    }
    match value.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, last]) => Ok(vec![(small(first)?, small(last)?)]),
        Some(_) => Err(bad("a range", value)),
        None => small(value).map(|number| vec![(number, number)]),
    }
}

/// Whether the elements of a set of this type have protocols and ports beside their addresses.
pub(super) fn has_ports(kind: &Value, family: Family) -> Result<bool, Problem> {
    let address = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let is = |value: &Value, name| value.as_str() == Some(name);
    match (kind, kind.as_array().map(Vec::as_slice)) {
        (kind, None) if is(kind, address) => Ok(false),
        (_, Some([first, second, third]))
            if is(first, address) && is(second, "inet_proto") && is(third, "inet_service") =>
        {
            Ok(true)
        }
        _ => Err(unknown("type of set", &kind.to_string())),
    }
}

/// The networks of an element of a set: a range of addresses is several networks.
pub(super) fn element(value: &Value, has_ports: bool) -> Result<Vec<Element>, Problem> {
    if has_ports {
        let parts = value.get("concat").and_then(Value::as_array).map(Vec::as_slice);
        let Some([address, protocol, port]) = parts else {
            return Err(bad("an address with a protocol and a port", value));
        };
        let protocol = protocol_number(protocol)?;
        if ![6, 17, 132].contains(&protocol) {
            return Err(bad("an element with a protocol that has ports", value));
        }
        return Ok(vec![(network(address)?, Some((protocol, small(port)?)))]);
    }
    let ends = value.get("range").and_then(Value::as_array).map(Vec::as_slice);
    let networks = match ends {
        Some([first, last]) => match (network(first)?.addr(), network(last)?.addr()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                IpSubnets::V4(Ipv4Subnets::new(first, last, 0)).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                IpSubnets::V6(Ipv6Subnets::new(first, last, 0)).collect()
            }
            _ => return Err(bad("a range of addresses", value)),
        },
        _ => vec![network(value)?],
    };
    Ok(networks.into_iter().map(|network| (network, None)).collect())
}

/// Bits of a header as an address, filled up with zeros.
pub(super) fn address_of_bits(family: Family, bits: u128, len: u32) -> Option<IpAddr> {
    match family {
        Family::V4 => {
            let bits = u32::try_from(bits).ok()?;
            Some(Ipv4Addr::from(bits.checked_shl(32_u32.checked_sub(len)?).unwrap_or(0)).into())
        }
        Family::V6 => {
            Some(Ipv6Addr::from(bits.checked_shl(128_u32.checked_sub(len)?).unwrap_or(0)).into())
        }
    }
}
