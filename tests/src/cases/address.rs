//! Which address is whose, and the names that stand for addresses in case files.
//!
//! ```text
//! external 203.0.113.10, 2001:db8:113::10
//! node i   172.20.0.(10+i), fd20::(10+i)
//! pod h    10.244.i.h, fd44:0:0:i::h        h from 10 up, in the order of the world
//! service  10.96.0.h, fd96::h               h from 100 up: clusters keep the low ones
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use policy_engine::cidr::Family;
use serde_json::Value;

use super::Families;

const FIRST_POD: u8 = 10;
const FIRST_SERVICE: u8 = 100;

/// The address of the host outside the cluster.
pub(super) fn external(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10).into(),
    }
}

/// The address of the node with this number, from 1.
pub(super) fn node(number: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 20, 0, 10 + number).into(),
        Family::V6 => Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number)).into(),
    }
}

/// Host `host` of the pod CIDR of the node with this number.
pub(super) fn pod(number: u8, host: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, number, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd44, 0, 0, number.into(), 0, 0, 0, host.into()).into(),
    }
}

/// The virtual address of the service with this number.
pub(super) fn service(host: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// Gives out addresses and remembers every name that had one, also after it is gone.
#[derive(Clone, Default, Debug)]
pub(super) struct Book {
    names: BTreeMap<String, Vec<IpAddr>>,
    pods: BTreeMap<(String, String), u8>,
    next: BTreeMap<String, u8>,
}

impl Book {
    /// A book that knows what is outside of the cluster.
    pub(super) fn new(families: Families) -> Self {
        let mut book = Self::default();
        book.learn("external", families.each().iter().map(|family| external(*family)).collect());
        book
    }

    /// Lets `name` stand for these addresses from now on.
    pub(super) fn learn(&mut self, name: &str, addresses: Vec<IpAddr>) {
        self.names.insert(name.to_owned(), addresses);
    }

    /// The addresses of a pod on a node: new ones, unless it has some there already.
    pub(super) fn pod(&mut self, pod: &str, node: &str, families: Families) -> Result<Vec<IpAddr>> {
        let number = node_number(node)?;
        let key = (pod.to_owned(), node.to_owned());
        let host =
            if let Some(host) = self.pods.get(&key) { *host } else { self.take(node, FIRST_POD) };
        self.pods.insert(key, host);
        Ok(families.each().iter().map(|family| self::pod(number, host, *family)).collect())
    }

    /// The addresses of a service: new ones, unless it has some already.
    pub(super) fn service(&mut self, name: &str, families: Families) -> Vec<IpAddr> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let host = self.take("services", FIRST_SERVICE);
        let addresses: Vec<_> = families.each().iter().map(|f| service(host, *f)).collect();
        self.learn(name, addresses.clone());
        addresses
    }

    /// A pod of this name that comes later gets new addresses.
    pub(super) fn forget(&mut self, pod: &str) {
        self.pods.retain(|(name, _), _| name != pod);
    }

    fn take(&mut self, pool: &str, first: u8) -> u8 {
        let next = self.next.entry(pool.to_owned()).or_insert(first);
        *next += 1;
        *next - 1
    }

    /// `value` with every `${…}` replaced.
    ///
    /// In a dual-stack world, an item of a list that is a text with a placeholder, or an object
    /// whose `ipBlock` or `ip` has one, stands for one item per family.
    pub(super) fn expand(&self, value: &Value, families: &[Family]) -> Result<Value> {
        Ok(match value {
            Value::String(text) => {
                let family = families.first().context("a world needs a family")?;
                Value::String(self.resolve(text, *family)?)
            }
            Value::Array(items) => {
                let mut expanded = Vec::new();
                for item in items {
                    if is_per_family(item) {
                        for family in families {
                            expanded.push(self.expand(item, &[*family])?);
                        }
                    } else {
                        expanded.push(self.expand(item, families)?);
                    }
                }
                Value::Array(expanded)
            }
            Value::Object(fields) => {
                let expand = |(key, value): (&String, &Value)| -> Result<(String, Value)> {
                    Ok((key.clone(), self.expand(value, families)?))
                };
                Value::Object(fields.iter().map(expand).collect::<Result<_>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    fn resolve(&self, text: &str, family: Family) -> Result<String> {
        let Some((before, rest)) = text.split_once("${") else { return Ok(text.to_owned()) };
        let (name, after) =
            rest.split_once('}').with_context(|| format!("{text:?} lacks a closing brace"))?;
        Ok(format!("{before}{}{}", self.value(name, family)?, self.resolve(after, family)?))
    }

    fn value(&self, name: &str, family: Family) -> Result<String> {
        match (name, family) {
            ("everything", Family::V4) => return Ok("0.0.0.0/0".to_owned()),
            ("everything", Family::V6) => return Ok("::/0".to_owned()),
            ("pods", Family::V4) => return Ok("10.244.0.0/16".to_owned()),
            ("pods", Family::V6) => return Ok("fd44::/48".to_owned()),
            _ => {}
        }
        if let Some(node) = name.strip_suffix(".podCIDR") {
            let network = pod(node_number(node)?, 0, family);
            let prefix = if network.is_ipv4() { 24 } else { 64 };
            return Ok(format!("{network}/{prefix}"));
        }
        let (owner, bits) = match name.split_once('~') {
            Some((owner, bits)) => (owner, Some(bits.parse::<u8>().context("host bits")?)),
            None => (name, None),
        };
        let addresses = self.names.get(owner);
        let address = addresses
            .and_then(|all| all.iter().find(|address| Family::of(**address) == family))
            .with_context(|| format!("${{{name}}}: {owner:?} has no {family:?} address"))?;
        let Some(bits) = bits else { return Ok(address.to_string()) };
        let length = if address.is_ipv4() { 32_u8 } else { 128 };
        ensure!(bits <= length, "${{{name}}}: an address has {length} bits");
        Ok(IpNet::new(*address, length - bits)?.trunc().to_string())
    }
}

fn is_per_family(item: &Value) -> bool {
    let holds = |value: &Value| value.to_string().contains("${");
    match item {
        Value::String(_) => holds(item),
        Value::Object(fields) => {
            ["ipBlock", "ip"].iter().filter_map(|key| fields.get(*key)).any(holds)
        }
        _ => false,
    }
}

/// The number in a node's name: 2 for `n2`.
pub(super) fn node_number(name: &str) -> Result<u8> {
    match name.strip_prefix('n').and_then(|number| number.parse().ok()) {
        Some(number @ 1..=9) => Ok(number),
        _ => bail!("{name:?} is no node: they are n1, n2, …"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn book() -> Book {
        let mut book = Book::new(Families::Dual);
        for name in ["x/a", "x/b"] {
            let addresses = book.pod(name, "n1", Families::Dual).unwrap();
            book.learn(name, addresses);
        }
        book
    }

    #[test]
    fn placeholders_follow_the_family() {
        let check = |text: &str, v4: &str, v6: &str| {
            assert_eq!(book().resolve(text, Family::V4).unwrap(), v4);
            assert_eq!(book().resolve(text, Family::V6).unwrap(), v6);
        };
        check("${x/a}", "10.244.1.10", "fd44:0:0:1::a");
        check("${x/b~0}", "10.244.1.11/32", "fd44:0:0:1::b/128");
        check("${x/b~4}", "10.244.1.0/28", "fd44:0:0:1::/124");
        check("${n3.podCIDR}", "10.244.3.0/24", "fd44:0:0:3::/64");
        check("${external}", "203.0.113.10", "2001:db8:113::10");
    }

    #[test]
    fn a_list_item_with_a_placeholder_stands_for_one_per_family() {
        let value = json!({"from": [{"ipBlock": {"cidr": "${x/a~0}"}}, {"podSelector": {}}]});
        let expanded = book().expand(&value, &Family::BOTH).unwrap();
        let wanted = json!({"from": [
            {"ipBlock": {"cidr": "10.244.1.10/32"}},
            {"ipBlock": {"cidr": "fd44:0:0:1::a/128"}},
            {"podSelector": {}},
        ]});
        assert_eq!(expanded, wanted);
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(book().resolve("${x/nobody}", Family::V4).is_err());
        assert!(book().resolve("${x/a", Family::V4).is_err());
    }
}
