//! Where pods are attached, and packets whose address does not tell whose they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_engine::direction::Direction;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;
use policy_engine::world::World;
use portcullis_controller::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use portcullis_controller::dataplane::denial::Denial;
use portcullis_controller::dataplane::{LogGroup, UnknownPods};
use portcullis_interpreter::Packet;
use portcullis_tests::worlds;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::{Case, Expected, Tool, packet, ranges};

/// The bridge of those pods that are on one.
const BRIDGE: &str = "cni0";
/// Where everybody else is.
const UPLINK: &str = "eth0";

fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).expect("a name of an interface")
}

/// How the pods of the own node are attached: a third each on a bridge, routed, and not known.
pub(super) struct Places {
    pub(super) attachments: Attachments,
    pub(super) pods: BTreeMap<PodKey, (Attachment, Vec<IpAddr>)>,
}

impl Places {
    pub(super) fn new(world: &World) -> Self {
        let (mut attachments, mut pods) = (Attachments::default(), BTreeMap::new());
        let is_own = |node: &str| node == worlds::OWN_NODE;
        let own = world.pods().values().filter(|pod| pod.node.as_deref().is_some_and(is_own));
        for (number, pod) in own.filter(|pod| pod.takes_part()).enumerate() {
            let (name, bridge) = match number % 3 {
                0 => (format!("veth{number}"), Some(interface(BRIDGE))),
                1 => (format!("cali{number}"), None),
                _ => continue,
            };
            let attachment = Attachment { interface: interface(&name), bridge };
            let addresses: Vec<IpAddr> = world.owned_addresses(pod).collect();
            let usable = addresses.iter().filter(|address| !address.is_unspecified());
            attachments.addresses.extend(usable.map(|address| (*address, attachment)));
            if !addresses.is_empty() {
                attachments.pod_interfaces.insert(bridge.unwrap_or(attachment.interface));
                let extra = ranges::of_pod(number).into();
                attachments.extra_ranges.insert(attachment, extra);
                pods.insert(pod.key.clone(), (attachment, addresses));
            }
        }
        let unattached = world.pods().values().flat_map(|pod| world.owned_addresses(pod));
        attachments.unattached.extend(unattached.filter(|address| {
            !address.is_unspecified() && !attachments.addresses.contains_key(address)
        }));
        Self { attachments, pods }
    }

    /// All pods on one bridge.
    pub(super) fn on_a_bridge(world: &World) -> Self {
        let bridge = interface(BRIDGE);
        let mut attachments = Attachments::default();
        for (number, pod) in world.pods().values().enumerate() {
            let interface = interface(&format!("veth{number}"));
            let attachment = Attachment { interface, bridge: Some(bridge) };
            let addresses = world.owned_addresses(pod).map(|address| (address, attachment));
            attachments.addresses.extend(addresses);
        }
        attachments.pod_interfaces.insert(bridge);
        Self { attachments, pods: BTreeMap::new() }
    }

    /// The packet at the interfaces that its addresses belong to.
    pub(super) fn at_home(&self, packet: Packet) -> Packet {
        let place = |address| self.attachments.addresses.get(&address);
        let (source, destination) = (packet.source, packet.destination);
        let packet = leaving(packet, place(destination));
        coming(packet, place(source))
    }
}

pub(super) fn coming(mut packet: Packet, from: Option<&Attachment>) -> Packet {
    let by =
        from.map_or(UPLINK.to_owned(), |place| place.bridge.unwrap_or(place.interface).to_string());
    packet.in_port = from.filter(|place| place.bridge.is_some()).map(|p| p.interface.to_string());
    // What does not come from a port of the bridge is routed.
    packet.out_port = packet.out_port.filter(|_| packet.in_port.is_some());
    packet.in_interface = Some(by);
    packet
}

pub(super) fn leaving(mut packet: Packet, to: Option<&Attachment>) -> Packet {
    let by =
        to.map_or(UPLINK.to_owned(), |place| place.bridge.unwrap_or(place.interface).to_string());
    packet.out_port = to.filter(|place| place.bridge.is_some()).map(|p| p.interface.to_string());
    packet.out_interface = Some(by);
    packet
}

/// Checks packets with forged, unknown, link-local and multicast addresses.
pub(super) fn check(case: Case<'_>) -> Result<(), TestCaseError> {
    let Case { world, flows, places, options, .. } = case;
    let log = options.denial_log;
    let says = |packet: &Packet| case.says("FORWARD", packet);
    for (number, (source, destination, traffic)) in flows.iter().enumerate() {
        let Some((key, (place, own))) = places.pods.iter().nth(number % places.pods.len().max(1))
        else {
            return Ok(());
        };
        let pod = |address| Endpoint::Pod(key.clone(), address);
        // The chains for frames of bridges know no policies. Where one would have to decide, they deny.
        let denies_more = case.tool == Tool::Nftables && place.bridge.is_some();
        let compare = |packet: &Packet, expected: Expected| {
            let said = says(packet)?;
            if denies_more {
                prop_assert!(
                    !said.allowed || expected.allowed,
                    "{:?} of {}: {:?}",
                    packet,
                    key,
                    said
                );
            } else {
                prop_assert_eq!(said, expected, "{:?} of {}", packet, key);
            }
            Ok(())
        };
        let address = own.first().copied();

        // The address of somebody else, from the interface of this pod.
        let forged = coming(places.at_home(packet(*source, *destination, *traffic)), Some(place));
        let is_unattached = places.attachments.unattached.contains(source);
        if !own.contains(source) && !is_unattached && !source.is_unspecified() {
            let denied = Expected::denied_by_address(Direction::Egress, log);
            prop_assert_eq!(says(&forged)?, denied, "{:?} at {:?}", forged, place);
        }

        // The address of another pod, to the interface of this one.
        if places.attachments.addresses.contains_key(destination) && !own.contains(destination) {
            let stray = packet(*source, *destination, *traffic);
            let stray = leaving(places.at_home(stray), Some(place));
            prop_assert!(!says(&stray)?.allowed, "{:?} at {:?}", stray, place);
        }

        // A link-local address is judged as this pod; in IPv4 it is no address of a pod.
        let link_local: IpAddr = if source.is_ipv6() {
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7).into()
        } else {
            Ipv4Addr::new(169, 254, 0, 7).into()
        };
        let outside: IpAddr = if source.is_ipv6() {
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 8).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 8).into()
        };
        let sent = coming(leaving(packet(link_local, outside, *traffic), None), Some(place));
        let expected = if source.is_ipv6() {
            let flow = Flow {
                source: pod(address),
                destination: Endpoint::External(outside),
                traffic: *traffic,
            };
            Expected::by_policies(world, &[(Direction::Egress, flow)], log)
        } else {
            Expected::denied_by_address(Direction::Egress, log)
        };
        compare(&sent, expected)?;

        // Multicast to the interface of this pod is judged as what is sent to this pod.
        let group: IpAddr = if source.is_ipv6() {
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 9).into()
        } else {
            Ipv4Addr::BROADCAST.into()
        };
        let from = places.attachments.addresses.get(source);
        let neighbour = from.filter(|from| from.bridge.is_some() == place.bridge.is_some());
        if let Some(from) = neighbour
            && !own.contains(source)
        {
            let sent = coming(leaving(packet(*source, group, *traffic), Some(place)), Some(from));
            let source = world.endpoint(*source);
            let egress = Flow {
                source: source.clone(),
                destination: Endpoint::External(group),
                traffic: *traffic,
            };
            let ingress = Flow { source, destination: pod(address), traffic: *traffic };
            let flows = [(Direction::Egress, egress), (Direction::Ingress, ingress)];
            let expected = Expected::by_policies(world, &flows, log);
            compare(&sent, expected)?;
        }

        // An address that nobody has, at an interface that leads to pods.
        let nobody: IpAddr = if source.is_ipv6() {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 1).into()
        } else {
            Ipv4Addr::new(10, 0, 1, 1).into()
        };
        let unknown = Attachment { interface: interface("veth-new"), bridge: place.bridge };
        if place.bridge.is_some() && !is_unattached {
            let destination = Ipv4Addr::new(192, 0, 2, 8).into();
            let destination = if source.is_ipv6() { outside } else { destination };
            let sent = coming(leaving(packet(nobody, destination, *traffic), None), Some(&unknown));
            let expected = match options.unknown_pods {
                UnknownPods::Deny => Expected::denied_by_address(Direction::Egress, log),
                UnknownPods::Allow => Expected { allowed: true, logged: Vec::new() },
            };
            prop_assert_eq!(says(&sent)?, expected, "{:?}", sent);
        }
    }
    Ok(())
}

impl Expected {
    pub(super) fn denied_by_address(direction: Direction, log: Option<LogGroup>) -> Self {
        let logged = log.map(|_| Denial::by_address(direction)).into_iter().collect();
        Self { allowed: false, logged }
    }
}

/// ICMP of other kinds than those without which there is no IPv6 is judged like everything else.
#[test]
fn the_packets_of_these_tests_are_judged_at_all() {
    let any = packet("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), Traffic::Other);
    assert_eq!(any.protocol(), 58);
    let tcp = Traffic::Port(Protocol::Tcp, 80);
    let syn = packet("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), tcp);
    assert_eq!(syn.protocol(), 6);
}
