//! Addresses and networks in the forms that Kubernetes accepts in existing objects.
//!
//! Go read `010.001.000.005` as 10.1.0.5 (decimal) and an IPv4-mapped `::ffff:10.0.0.1` as
//! 10.0.0.1; old objects still carry such forms (`ParseIPSloppy`, `ParseCIDRSloppy`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A parsed value, and whether it was written in the one form that new objects must use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sloppy<T> {
    /// The value: of a network, with its host bits cleared.
    pub value: T,
    /// Whether the text is the canonical form of the value.
    pub canonical: bool,
}

/// Reads an address: leading zeros are decimal, an IPv4-mapped IPv6 address is IPv4.
///
/// `None` if it is not an address.
#[must_use]
pub fn address(text: &str) -> Option<Sloppy<IpAddr>> {
    let value = ip(text)?.to_canonical();
    Some(Sloppy { value, canonical: value.to_string() == text })
}

/// Reads a network: host bits are cleared, an IPv4-mapped network of 96 bits or more is IPv4.
///
/// `None` if it is not a network, or an IPv4-mapped network of fewer than 96 bits.
#[must_use]
pub fn network(text: &str) -> Option<Sloppy<IpNet>> {
    let (address, length) = text.split_once('/')?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let value = match ip(address)? {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpNet::new(IpAddr::V4(v4), length.checked_sub(96)?),
            None => IpNet::new(IpAddr::V6(v6), length),
        },
        v4 @ IpAddr::V4(_) => IpNet::new(v4, length),
    };
    let value = value.ok()?.trunc();
    Some(Sloppy { value, canonical: value.to_string() == text })
}

fn ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(address) = ipv4(text) {
        return Some(IpAddr::V4(address));
    }
    // `::ffff:010.0.0.1`: the part after the last colon may have leading zeros too.
    let (head, tail) = text.rsplit_once(':')?;
    format!("{head}:{}", ipv4(tail)?).parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_network(text: &str, expected: Option<(&str, bool)>) {
        let read = network(text).map(|net| (net.value.to_string(), net.canonical));
        assert_eq!(read, expected.map(|(net, canonical)| (net.to_owned(), canonical)), "{text:?}");
    }

    #[test]
    fn networks_are_read_as_go_read_them() {
        check_network("10.0.0.0/8", Some(("10.0.0.0/8", true)));
        check_network("010.001.000.005/16", Some(("10.1.0.0/16", false)));
        check_network("10.0.0.5/08", Some(("10.0.0.0/8", false)));
        check_network("::ffff:10.0.0.0/104", Some(("10.0.0.0/8", false)));
        check_network("::ffff:010.0.0.0/104", Some(("10.0.0.0/8", false)));
        check_network("::ffff:a00:0/120", Some(("10.0.0.0/24", false)));
        check_network("FD00::/8", Some(("fd00::/8", false)));
        check_network("fd00::1/64", Some(("fd00::/64", false)));
        check_network("0.0.0.0/0", Some(("0.0.0.0/0", true)));
        check_network("::/0", Some(("::/0", true)));
        for bad in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "256.0.0.0/8",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0.0/8 ",
            "::ffff:10.0.0.0/95",
            "fd00::/129",
            "fe80::1%eth0/64",
            "0x0a.0.0.0/8",
            "10.0.0.0/999",
            "a/8",
        ] {
            check_network(bad, None);
        }
    }

    #[test]
    fn addresses_are_read_as_go_read_them() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.000.001", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("FD00::1", Some("fd00::1")),
            ("fe80::1%eth0", None),
            ("10.0.0.256", None),
            ("10.0.0.1/32", None),
            (" 10.0.0.1", None),
        ] {
            let read = address(text).map(|address| address.value.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
