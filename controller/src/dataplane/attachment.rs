//! How the pods of this node are attached to it, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// How many bytes the kernel allows for the name of an interface (`IFNAMSIZ` - 1).
const INTERFACE_NAME_BYTES: usize = 15;

/// The name of a network interface. Unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName([u8; INTERFACE_NAME_BYTES]);

impl InterfaceName {
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

    /// The name as text.
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

/// What is known of the interfaces of this node's pods.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Attachments {
    /// The attachment of each address of a pod. An address is missing if it is not known for certain
    /// which interface leads to it.
    pub addresses: BTreeMap<IpAddr, Attachment>,
    /// The interfaces by which packets of pods come in, and no others: the node's ends of routed
    /// pods, and bridges of which each port leads to a pod.
    pub pod_interfaces: BTreeSet<InterfaceName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_the_kernel_and_iptables_take_as_it_is() {
        for name in ["cni0", "veth1a2b3c4d", "cali0123456789a", "eth0.5", "a:b"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
        for name in ["", ".", "..", "a/b", "a b", "veth+", "sixteen-is-above", "a\"b", "\u{e4}"] {
            assert_eq!(InterfaceName::new(name), None, "{name:?}");
        }
    }
}
