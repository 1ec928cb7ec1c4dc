//! What does not leave a link: link-local addresses, broadcasts and multicasts, VLAN tags, and the
//! messages of neighbour discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use anyhow::Result;

use crate::attack::{ANY_TCP, ANY_UDP, Answer, Attack, BRIDGE, ROUTED, Shot, V4, V6, Who};
use crate::packet::{HOP_BY_HOP, ICMPV6, Packet, icmpv6};

/// Every host of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Routers that listen for version 2 of MLD.
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

pub(super) fn attacks() -> Vec<Attack> {
    let groups = [link_local_sockets(), half_link_local(), to_many(), tagged(), discovery()];
    groups.into_iter().flatten().collect()
}

fn scoped(shot: &Shot<'_>, address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, shot.from.link).into()
}

/// By the sockets of any process.
pub(super) fn link_local_sockets() -> Vec<Attack> {
    let udp = |between: (Who, Who)| {
        Attack::plain("link-local: a datagram", |shot| {
            shot.send_by_socket(None, scoped(shot, shot.to.link_local, ANY_UDP))
        })
        .between(between.0, between.1)
    };
    let tcp = |between: (Who, Who)| {
        Attack::plain("link-local: a connection", |shot| {
            Ok(Shot::connect(scoped(shot, shot.to.link_local, ANY_TCP)))
        })
        .between(between.0, between.1)
    };
    let (to_pod, from_pod) = ((Who::Mallory, Who::Victim), (Who::Caged, Who::Bystander));
    let to_node = (Who::Caged, Who::Node);
    let all = vec![
        udp(to_pod).on(BRIDGE),
        tcp(to_pod).on(BRIDGE),
        udp(from_pod).on(BRIDGE),
        tcp(from_pod).on(BRIDGE),
        udp(to_node),
        tcp(to_node),
        udp((Who::Mallory, Who::Bystander)).on(BRIDGE).passes_with_iptables(),
        tcp((Who::Mallory, Who::Bystander)).on(BRIDGE).passes_with_iptables(),
    ];
    all.into_iter().map(|attack| attack.families(V6)).collect()
}

/// Link-local addresses in one place of a packet only.
fn half_link_local() -> Vec<Attack> {
    let source = Attack::raw("link-local: as the source only", |shot| {
        shot.send(&[shot.datagram(shot.from.link_local.into(), shot.target())?.bytes()?])
    });
    let target = Attack::raw("link-local: as the target only", |shot| {
        shot.send(&[shot.datagram(shot.source(), shot.to.link_local.into())?.bytes()?])
    });
    [source, target].map(|attack| attack.families(V6).on(BRIDGE)).into()
}

/// Addresses that more than one host of a link receives.
fn to_many() -> Vec<Attack> {
    let groups: [(&str, IpAddr); 4] = [
        ("255.255.255.255", Ipv4Addr::BROADCAST.into()),
        ("the broadcast address of the bridge", Ipv4Addr::new(10, 244, 1, 255).into()),
        ("224.0.0.1", Ipv4Addr::new(224, 0, 0, 1).into()),
        ("ff02::1", ALL_NODES.into()),
    ];
    let mut all = Vec::new();
    for (name, group) in groups {
        let attack = |between: (Who, Who)| {
            Attack::plain(format!("to many: {name}"), move |shot| match group {
                IpAddr::V4(_) => shot.send_by_socket(None, SocketAddr::new(group, ANY_UDP)),
                IpAddr::V6(group) => shot.send_by_socket(None, scoped(shot, group, ANY_UDP)),
            })
            .between(between.0, between.1)
            .families(if group.is_ipv4() { V4 } else { V6 })
        };
        all.push(attack((Who::Mallory, Who::Victim)));
        all.push(attack((Who::Caged, Who::Bystander)));
        all.push(attack((Who::Mallory, Who::Bystander)).passes_with_iptables());
    }
    let to_one = Attack::raw("to many: the broadcast address, in a frame to one", |shot| {
        let group = Ipv4Addr::new(10, 244, 1, 255).into();
        shot.send(&[shot.datagram(shot.source(), group)?.bytes()?])
    });
    all.push(to_one.families(V4));
    all.push(Attack::raw("to many: the pod's address, in a frame to all", |shot| {
        shot.send_to([0xff; 6], &[], &[shot.datagram(shot.source(), shot.target())?.bytes()?])
    }));
    all.into_iter().map(|attack| attack.on(BRIDGE)).collect()
}

/// Frames with the tag of no VLAN, which hosts treat as frames without a tag.
fn tagged() -> Vec<Attack> {
    let tags: [(&str, &[u16]); 6] = [
        ("802.1Q", &[Q]),
        ("802.1ad", &[AD]),
        // The kernel hands none of these to the chains of IP families.
        ("802.1ad and 802.1Q", &[AD, Q]),
        ("802.1Q and 802.1ad", &[Q, AD]),
        ("802.1Q twice", &[Q, Q]),
        ("802.1Q three times", &[Q, Q, Q]),
    ];
    let attack = |(name, tags): (&str, &'static [u16]), (from, to): (Who, Who)| {
        let attack = Attack::raw(format!("tagged as VLAN 0: {name}"), move |shot| {
            shot.send_tagged(tags, &[shot.datagram(shot.source(), shot.target())?.bytes()?])
        });
        attack.between(from, to).on(BRIDGE)
    };
    let sides = [(Who::Mallory, Who::Victim), (Who::Caged, Who::Bystander)];
    let all = tags.into_iter().flat_map(|tags| sides.map(|sides| attack(tags, sides)));
    all.collect()
}

/// Sends a message of `ICMPv6` whose body is the token.
fn message(shot: &Shot<'_>, kind: u8, hops: u8) -> Result<Answer> {
    let (source, target) = (shot.source(), shot.target());
    let body = icmpv6(source, target, kind, [0; 4], &shot.data(4))?;
    shot.send(&[Packet { hops, ..Packet::new(source, target, ICMPV6, body) }.bytes()?])
}

/// A solicitation or advertisement with an option that nobody knows, which has the token.
fn neighbour(shot: &Shot<'_>, kind: u8) -> Result<Answer> {
    let (source, target) = (shot.source(), shot.target());
    let body = [&shot.to.v6.octets()[..], &[253, 2, 0, 0, 0, 0, 0, 0], &shot.token].concat();
    let body = icmpv6(source, target, kind, [0; 4], &body)?;
    shot.send(&[Packet { hops: 255, ..Packet::new(source, target, ICMPV6, body) }.bytes()?])
}

/// A report of version 2 of MLD that joins no group, with the token behind it.
fn report(shot: &Shot<'_>) -> Result<Answer> {
    let (source, target) = (shot.from.link_local.into(), MLD_ROUTERS.into());
    let body = icmpv6(source, target, 143, [0; 4], &shot.data(1))?;
    let alert = (HOP_BY_HOP, vec![0, 5, 2, 0, 0, 1, 0]);
    let packet = Packet::new(source, target, ICMPV6, body);
    let packet = Packet { hops: 1, extensions: vec![alert], ..packet };
    shot.send_to([0x33, 0x33, 0, 0, 0, 0x16], &[], &[packet.bytes()?])
}

fn discovery() -> Vec<Attack> {
    let leak = (Who::Caged, Who::Bystander);
    let kinds = [
        ("a multicast listener query", 130),
        ("a multicast listener report", 131),
        ("a multicast listener done", 132),
        ("a router solicitation", 133),
        ("a router advertisement", 134),
        ("a neighbour solicitation", 135),
        ("a neighbour advertisement", 136),
        ("a redirect", 137),
        ("a report of MLD version 2", 143),
    ];
    let mut all = Vec::new();
    for (name, kind) in kinds {
        let attack = Attack::raw(format!("discovery: {name} with 64 hops"), move |shot| {
            message(shot, kind, 64)
        });
        all.push(attack.between(leak.0, leak.1));
    }
    // Behind the node they have fewer hops, and every receiver ignores them.
    for (name, kind) in [("a router advertisement", 134), ("a redirect", 137)] {
        let attack =
            Attack::raw(format!("discovery: {name}"), move |shot| message(shot, kind, 255));
        all.push(attack.between(Who::Mallory, Who::Bystander).on(BRIDGE));
    }
    for (name, kind) in [("a neighbour solicitation", 135), ("a neighbour advertisement", 136)] {
        let attack = Attack::raw(format!("discovery: {name}"), move |shot| neighbour(shot, kind));
        all.push(attack.between(leak.0, leak.1).on(BRIDGE).passes());
    }
    // No router forwards them (RFC 4861, section 7.1), so a pod that sends them through one leaks.
    for (name, kind) in kinds.into_iter().filter(|(_, kind)| (133..=137).contains(kind)) {
        let attack = || {
            let name = format!("discovery: {name} through the node");
            Attack::raw(name, move |shot| message(shot, kind, 255))
        };
        all.push(attack().between(Who::Caged, Who::Stranger));
        all.push(attack().between(leak.0, leak.1).on(ROUTED));
    }
    let report = Attack::raw("discovery: a report of MLD version 2 to routers", report);
    all.push(report.between(leak.0, leak.1).on(BRIDGE).passes());
    all.into_iter().map(|attack| attack.families(V6)).collect()
}
