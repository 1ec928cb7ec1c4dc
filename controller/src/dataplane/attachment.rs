//! How the pods of this node are attached to it, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// How many bytes the kernel allows for the name of an interface (`IFNAMSIZ` - 1).
const INTERFACE_NAME_BYTES: usize = 15;

/// The name of a network interface. Unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; INTERFACE_NAME_BYTES]);

impl InterfaceName {
    /// `lo`.
    pub const LOOPBACK: Self = {
        let mut bytes = [0; INTERFACE_NAME_BYTES];
        bytes[0] = b'l';
        bytes[1] = b'o';
        Self(bytes)
    };

    /// The name `text`; `None` if no interface can have it, or iptables would read it as a pattern or
    /// as several words.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'"' | b'\\');
        let is_valid = !matches!(text, "" | "." | "..")
            && text.len() <= INTERFACE_NAME_BYTES
            && text.bytes().all(is_plain)
            && !text.ends_with('+');
        let mut bytes = [0; INTERFACE_NAME_BYTES];
        if is_valid {
            bytes[..text.len()].copy_from_slice(text.as_bytes());
        }
        is_valid.then_some(Self(bytes))
    }

    /// The letters that all of `names` begin with, as a name; `None` if there are none.
    #[must_use]
    pub fn common_beginning(names: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut names = names.into_iter();
        let mut common = names.next()?;
        for name in names {
            let same = common.0.iter().zip(&name.0).take_while(|(a, b)| a == b).count();
            common.0.iter_mut().skip(same).for_each(|byte| *byte = 0);
        }
        (common.0[0] != 0).then_some(common)
    }

    /// The name as text.
    ///
    /// # Panics
    /// It never panics: names are ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        str::from_utf8(text).expect("`new` takes ASCII only")
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// How one pod is attached to its node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Attachment {
    /// The node's end of the pod's interface.
    pub interface: InterfaceName,
    /// The bridge of which the interface is a port; `None` if packets of the pod are routed.
    pub bridge: Option<InterfaceName>,
}

/// The known interfaces and addresses of this node's pods.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Attachments {
    /// The attachment of each address of a pod. An address is missing if it is not known for certain
    /// which interface leads to it.
    pub addresses: BTreeMap<IpAddr, Attachment>,
    /// The interfaces by which packets of pods come in, and no others: the node's ends of routed
    /// pods, and bridges of which each port leads to a pod.
    pub pod_interfaces: BTreeSet<InterfaceName>,
    /// The ports of bridges that lead to pods, also to pods that are not known.
    pub bridge_ports: BTreeSet<InterfaceName>,
    /// The networks whose addresses the pod behind an interface may use beside its own. No network
    /// contains an address of another pod.
    pub extra_ranges: BTreeMap<Attachment, BTreeSet<IpNet>>,
    /// Addresses of pods that are accepted at each interface, unless `addresses` has them too: it is
    /// not known which interface leads to them, or was not until now.
    pub unattached: BTreeSet<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_the_kernel_and_iptables_take_as_it_is() {
        for name in ["cni0", "veth1a2b3c4d", "cali0123456789a", "eth0.5", "a:b"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
        let common = |names: &[&str]| {
            let names = names.iter().map(|name| InterfaceName::new(name).unwrap());
            InterfaceName::common_beginning(names).map(|name| name.to_string())
        };
        assert_eq!(common(&["veth12", "veth1", "veth34"]).as_deref(), Some("veth"));
        assert_eq!((common(&["a", "b"]), common(&[])), (None, None));
        for name in ["", ".", "..", "a/b", "a b", "veth+", "sixteen-is-above", "a\"b", "\u{e4}"] {
            assert_eq!(InterfaceName::new(name), None, "{name:?}");
        }
    }
}
