//! Links, addresses and routes of a lab, as lines for `ip -batch` and `bridge -batch`. Pure text.
//!
//! ```text
//!   internet ── eth0:wan ── fabric (br0) ── n1:eth0 ── node n1 ── vethK:eth0 ── pod
//! ```
//!
//! A veth is made with both ends already inside their namespaces: the root namespace never sees a
//! link, so names cannot collide.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::address;
use super::options::{Family, Options, Topology, Underlay};

/// The vxlan device on each node.
pub(super) const TUNNEL: &str = "flannel.1";
/// The host end's MAC address in the routed topology, as Calico sets it on every veth.
const ROUTED_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// One line of a batch; `write!` to a `String` cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {
        let _ = writeln!($out, $($arg)*);
    };
}

/// A pod as its links and routes see it.
#[derive(Debug, Clone)]
pub(super) struct PodWire {
    /// The pod's namespace by full name.
    pub(super) namespace: String,
    /// The number of the node it is on.
    pub(super) node: u8,
    /// Numbers the veth on the node; unique in the lab, also over time.
    pub(super) serial: u16,
    /// The pod's addresses.
    pub(super) addresses: Vec<IpAddr>,
}

impl PodWire {
    /// The name of the link on the node.
    pub(super) fn host_link(&self) -> String {
        format!("veth{}", self.serial)
    }

    fn mac(&self) -> String {
        let [high, low] = self.serial.to_be_bytes();
        format!("02:70:6f:64:{high:02x}:{low:02x}")
    }
}

/// The veths of fabric, internet and nodes, for the root namespace.
pub(super) fn backbone(
    fabric: &str,
    internet: &str,
    nodes: impl Iterator<Item = (String, String)>,
) -> String {
    let mut out = String::new();
    line!(out, "link add eth0 netns {internet} type veth peer name wan netns {fabric}");
    for (name, namespace) in nodes {
        line!(out, "link add eth0 netns {namespace} type veth peer name {name} netns {fabric}");
    }
    out
}

/// The inside of the fabric, for a lab with nodes of these link names.
pub(super) fn fabric(options: &Options, links: &[String]) -> String {
    let mut out = String::new();
    line!(out, "link set lo up");
    // Without snooping a neighbour solicitation reaches every port at once.
    line!(out, "link add br0 type bridge forward_delay 0 mcast_snooping 0");
    line!(out, "link set br0 up");
    line!(out, "link set wan up");
    for link in links {
        line!(out, "link set {link} master br0");
        line!(out, "link set {link} up");
    }
    for &family in options.families.each() {
        address(&mut out, address::fabric(family), node_bits(family), "br0");
        address(&mut out, address::internet_gateway(family), node_bits(family), "wan");
        if options.direct_internet {
            for index in 1..=options.nodes {
                let (cidr, node) = (address::pod_cidr(index, family), address::node(index, family));
                line!(out, "route add {cidr} via {node}");
            }
        }
    }
    out
}

/// The inside of the internet host.
pub(super) fn internet(options: &Options) -> String {
    let mut out = String::new();
    line!(out, "link set lo up");
    line!(out, "link set eth0 up");
    for &family in options.families.each() {
        address(&mut out, address::internet(family), node_bits(family), "eth0");
        line!(out, "route add default via {}", address::internet_gateway(family));
    }
    out
}

/// The inside of node `index`, pods apart.
pub(super) fn node(options: &Options, index: u8) -> String {
    let mut out = String::new();
    line!(out, "link set lo up");
    line!(out, "link set eth0 up");
    for &family in options.families.each() {
        address(&mut out, address::node(index, family), node_bits(family), "eth0");
        line!(out, "route add default via {}", address::fabric(family));
    }
    if options.topology == Topology::Bridge {
        let mtu = options.pod_mtu();
        // A bridge without an address of its own takes one of its ports', and another one when
        // that port goes: pods would go on to send to the old one. CNI plugins pin it too.
        let mac = format!("02:62:72:69:64:{index:02x}");
        line!(
            out,
            "link add cni0 address {mac} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0"
        );
        line!(out, "link set cni0 up");
        for &family in options.families.each() {
            let bits = address::pod_cidr(index, family).prefix_len();
            address(&mut out, address::gateway(index, family), bits, "cni0");
        }
    }
    if options.underlay == Underlay::Vxlan {
        tunnel(&mut out, options, index);
    }
    for peer in (1..=options.nodes).filter(|&peer| peer != index) {
        peer_routes(&mut out, options, peer);
    }
    out
}

fn tunnel(out: &mut String, options: &Options, index: u8) {
    let local = address::node(index, options.underlay_family());
    let (mac, mtu) = (tunnel_mac(index), options.pod_mtu());
    line!(
        out,
        "link add {TUNNEL} address {mac} mtu {mtu} type vxlan id 1 dev eth0 local {local} \
         dstport 8472 nolearning"
    );
    line!(out, "link set {TUNNEL} up");
    for &family in options.families.each() {
        address(out, address::tunnel(index, family), address::host_bits(family), TUNNEL);
    }
}

fn peer_routes(out: &mut String, options: &Options, peer: u8) {
    for &family in options.families.each() {
        let cidr = address::pod_cidr(peer, family);
        match options.underlay {
            Underlay::HostGw => {
                line!(out, "route add {cidr} via {}", address::node(peer, family));
            }
            Underlay::Vxlan => {
                let (gateway, mac) = (address::tunnel(peer, family), tunnel_mac(peer));
                line!(out, "neigh add {gateway} lladdr {mac} dev {TUNNEL} nud permanent");
                line!(out, "route add {cidr} via {gateway} dev {TUNNEL} onlink");
            }
        }
    }
}

/// Forwarding entries of node `index`'s vxlan device, for `bridge -batch`.
pub(super) fn tunnel_forwarding(options: &Options, index: u8) -> String {
    let mut out = String::new();
    if options.underlay == Underlay::Vxlan {
        for peer in (1..=options.nodes).filter(|&peer| peer != index) {
            let node = address::node(peer, options.underlay_family());
            line!(out, "fdb append {} dev {TUNNEL} dst {node}", tunnel_mac(peer));
        }
    }
    out
}

/// The veth of a pod, for the root namespace.
pub(super) fn pod_link(options: &Options, pod: &PodWire, node_namespace: &str) -> String {
    let (link, mac, mtu) = (pod.host_link(), pod.mac(), options.pod_mtu());
    let host_mac = match options.topology {
        Topology::Bridge => String::new(),
        Topology::Routed => format!(" address {ROUTED_GATEWAY_MAC}"),
    };
    format!(
        "link add eth0 address {mac} mtu {mtu} netns {} type veth \
         peer name {link}{host_mac} mtu {mtu} netns {node_namespace}\n",
        pod.namespace
    )
}

/// The inside of a pod.
pub(super) fn pod(options: &Options, pod: &PodWire) -> String {
    let mut out = String::new();
    line!(out, "link set lo up");
    line!(out, "link set eth0 up");
    for &ip in &pod.addresses {
        let family = Family::of(ip);
        match options.topology {
            Topology::Bridge => {
                let bits = address::pod_cidr(pod.node, family).prefix_len();
                address(&mut out, ip, bits, "eth0");
                line!(out, "route add default via {}", address::gateway(pod.node, family));
            }
            Topology::Routed => {
                address(&mut out, ip, address::host_bits(family), "eth0");
                let gateway = match family {
                    Family::V4 => "169.254.1.1",
                    Family::V6 => "fe80::1",
                };
                let mac = ROUTED_GATEWAY_MAC;
                line!(out, "neigh add {gateway} lladdr {mac} dev eth0 nud permanent");
                line!(out, "route add default via {gateway} dev eth0 onlink");
            }
        }
    }
    out
}

/// What the node of a pod needs for it.
pub(super) fn pod_on_node(options: &Options, pod: &PodWire) -> String {
    let (link, mac) = (pod.host_link(), pod.mac());
    let mut out = String::new();
    match options.topology {
        Topology::Bridge => {
            line!(out, "link set {link} master cni0");
            line!(out, "link set {link} type bridge_slave hairpin on");
            line!(out, "link set {link} up");
        }
        Topology::Routed => {
            line!(out, "link set {link} up");
            for ip in &pod.addresses {
                line!(out, "neigh add {ip} lladdr {mac} dev {link} nud permanent");
                line!(out, "route add {ip} dev {link}");
            }
        }
    }
    out
}

fn address(out: &mut String, ip: IpAddr, bits: u8, link: &str) {
    // Without `nodad` an IPv6 address is unusable for its first second.
    let nodad = if ip.is_ipv6() { " nodad" } else { "" };
    line!(out, "addr add {ip}/{bits} dev {link}{nodad}");
}

fn node_bits(family: Family) -> u8 {
    address::node_network(family).prefix_len()
}

fn tunnel_mac(node: u8) -> String {
    format!("02:76:78:6c:61:{node:02x}")
}
