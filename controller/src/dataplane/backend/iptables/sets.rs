//! Sets and their elements, as ipset writes and reads them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::port::Protocol;

use crate::dataplane::applied::{AppliedSet, Elements};
use crate::dataplane::backend::error::{ParseError, unknown};
use crate::dataplane::name::SetName;
use crate::dataplane::set::{Element, Kind};

/// The name that ipset has for a type of set.
#[must_use]
pub fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Address => "hash:ip",
        Kind::AddressPort => "hash:ip,port",
        Kind::Network => "hash:net",
    }
}

/// `inet` or `inet6`.
#[must_use]
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

/// An element behind `add SET`.
#[must_use]
pub fn element(element: &Element) -> String {
    match element {
        Element::Address(address) => address.to_string(),
        // ipset looks names up in /etc/protocols, which minimal images lack.
        Element::AddressPort(address, protocol, port) => {
            format!("{address},{}:{port}", protocol.number())
        }
        Element::Network(network) => network.to_string(),
        Element::Unknown(text) => text.clone(),
    }
}

/// Reads what `ipset save` prints for an element of a set of `kind`.
#[must_use]
pub fn parse_element(kind: Kind, text: &str) -> Element {
    let known = match kind {
        Kind::Address => text.parse().ok().map(Element::Address),
        Kind::AddressPort => parse_address_port(text),
        Kind::Network => parse_network(text).map(Element::Network),
    };
    known.unwrap_or_else(|| Element::Unknown(text.to_owned()))
}

fn parse_network(text: &str) -> Option<IpNet> {
    // A host in a hash:net is printed without its prefix length.
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn parse_address_port(text: &str) -> Option<Element> {
    let (address, service) = text.split_once(',')?;
    let (protocol, port) = service.split_once(':')?;
    let protocol = parse_protocol(protocol)?;
    Some(Element::AddressPort(address.parse().ok()?, protocol, port.parse().ok()?))
}

/// The protocol that ipset or iptables printed: by name if /etc/protocols lists it, else by number.
pub(super) fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "sctp" | "132" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The names of our sets in the output of `ipset list -name`.
pub(super) fn own_names(listed: &str) -> BTreeSet<SetName> {
    listed.lines().filter_map(SetName::parse).collect()
}

/// Reads the sets with these names from the outputs of `ipset save` for each.
///
/// # Errors
/// When a set is missing, or a line is neither `create` nor `add`.
pub(super) fn parse_sets(
    save: &str,
    names: &BTreeSet<SetName>,
) -> Result<BTreeMap<SetName, AppliedSet>, ParseError> {
    let mut sets: BTreeMap<SetName, AppliedSet> = BTreeMap::new();
    for line in save.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (Some(command), Some(set), Some(rest)) = (words.next(), words.next(), words.next())
        else {
            return Err(unknown("ipset save", line));
        };
        let set = SetName::parse(set).filter(|set| names.contains(set));
        let set = set.ok_or_else(|| unknown("ipset save", line))?;
        match command {
            "create" => {
                sets.insert(set, parse_header(rest));
            }
            "add" => {
                let set = sets.get_mut(&set).ok_or_else(|| unknown("ipset save", line))?;
                let kind = set.shape.map(|(kind, _)| kind);
                if let Elements::Read(elements) = &mut set.elements {
                    elements.insert(kind.map_or_else(
                        || Element::Unknown(rest.to_owned()),
                        |kind| parse_element(kind, rest),
                    ));
                }
            }
            _ => return Err(unknown("ipset save", line)),
        }
    }
    let listed = names.len();
    if sets.len() != listed || !(save.is_empty() || save.ends_with('\n')) {
        return Err(ParseError::SetsCutOff { saved: sets.len(), listed });
    }
    Ok(sets)
}

fn parse_header(rest: &str) -> AppliedSet {
    let mut words = rest.split(' ');
    let name = words.next();
    let kind = Kind::ALL.into_iter().find(|kind| Some(type_name(*kind)) == name);
    let (mut family, mut maxelem, mut plain) = (None, 0, true);
    while let Some(option) = words.next() {
        match option {
            "family" if words.next() == Some("inet") => family = Some(Family::V4),
            "family" => family = Some(Family::V6),
            "maxelem" => maxelem = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            "hashsize" | "bucketsize" | "initval" => {
                words.next();
            }
            // Timeouts, counters, netmasks and the like: we do not create such sets.
            _ => plain = false,
        }
    }
    let shape = kind.zip(family).filter(|_| plain);
    AppliedSet { shape, maxelem, elements: Elements::Read(BTreeSet::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_read_back_as_they_were_written() {
        for (kind, text) in [
            (Kind::Address, "10.0.0.1"),
            (Kind::Address, "fd00::1"),
            (Kind::AddressPort, "10.0.0.1,132:80"),
            (Kind::AddressPort, "fd00::1,17:53"),
            (Kind::Network, "10.0.0.0/8"),
            (Kind::Network, "fd00::/64"),
        ] {
            let parsed = parse_element(kind, text);
            assert!(!matches!(parsed, Element::Unknown(_)), "{text}");
            assert_eq!(element(&parsed), text);
        }
    }

    #[test]
    fn a_protocol_is_written_as_a_number_and_read_by_name_too() {
        for (name, number) in [("tcp", "6"), ("udp", "17"), ("sctp", "132")] {
            let [named, numbered] = [name, number]
                .map(|text| parse_element(Kind::AddressPort, &format!("fd00::1,{text}:80")));
            assert_eq!(named, numbered);
            assert_eq!(element(&named), format!("fd00::1,{number}:80"));
        }
        for unknown in ["10.0.0.1,udplite:80", "10.0.0.1,136:80", "10.0.0.1,06:80"] {
            let parsed = parse_element(Kind::AddressPort, unknown);
            assert_eq!(parsed, Element::Unknown(unknown.into()));
        }
    }

    #[test]
    fn a_host_in_a_network_set_is_a_network() {
        let host = Element::Network("11.0.0.1/32".parse().unwrap());
        assert_eq!(parse_element(Kind::Network, "11.0.0.1"), host);
    }

    #[test]
    fn what_we_would_not_write_stays_text() {
        for (kind, text) in [(Kind::Network, "10.0.0.0/8 nomatch"), (Kind::Address, "10.0.0.0/8")] {
            assert_eq!(parse_element(kind, text), Element::Unknown(text.into()));
        }
    }

    #[test]
    fn sets_that_are_missing_from_the_dump_are_an_error() {
        let save = "create PORTCULLIS-4aq hash:ip family inet hashsize 64 maxelem 8 bucketsize 12 \
            initval 0x1\nadd PORTCULLIS-4aq 10.0.0.1\n";
        let sets = parse_sets(save, &own_names("x\nPORTCULLIS-4aq\n")).unwrap();
        let set = &sets[&SetName::short("4aq")];
        assert_eq!((set.shape, set.maxelem), (Some((Kind::Address, Family::V4)), 8));
        let element = Element::Address("10.0.0.1".parse().unwrap());
        assert_eq!(set.elements, Elements::Read(BTreeSet::from([element])));
        let cut = parse_sets(save, &own_names("x\nPORTCULLIS-4aq\nPORTCULLIS-6aq\n"));
        assert_eq!(cut, Err(ParseError::SetsCutOff { saved: 1, listed: 2 }));
        let foreign = format!("{save}create x hash:ip family inet hashsize 64 maxelem 4\n");
        assert!(parse_sets(&foreign, &own_names("PORTCULLIS-4aq\n")).is_err());
    }

    #[test]
    fn a_set_with_timeouts_is_not_of_our_making() {
        let save = "create PORTCULLIS-4aq hash:ip family inet hashsize 64 maxelem 8 timeout 9\n";
        let sets = parse_sets(save, &own_names("PORTCULLIS-4aq\n")).unwrap();
        assert_eq!(sets[&SetName::short("4aq")].shape, None);
    }
}
