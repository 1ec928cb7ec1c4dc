//! Other ways to the same hosts: the node's own addresses, its ports that lead to a pod, errors
//! about other packets, and packets that are not tracked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use policy_engine::cidr::Family;
use socket2::{Domain, Protocol, Socket, Type};

use crate::attack::{
    ANY_TCP, ANY_UDP, Answer, Attack, BRIDGE, HOST_PORT, Shot, UNTRACKED, WEB, Who,
};
use crate::packet::{ICMP, ICMPV6, Packet, icmp, icmpv6};

pub(super) fn attacks() -> Vec<Attack> {
    let gateway = |family| match family {
        Family::V4 => IpAddr::from(Ipv4Addr::new(10, 244, 1, 1)),
        Family::V6 => Ipv6Addr::new(0xfd44, 0, 0, 1, 0, 0, 0, 1).into(),
    };
    let to = |shot: &Shot<'_>, port| SocketAddr::new(shot.target(), port);
    vec![
        Attack::plain("paths: a datagram", move |shot| shot.send_by_socket(None, to(shot, WEB))),
        Attack::plain("paths: a connection", move |shot| Ok(Shot::connect(to(shot, WEB)))),
        Attack::plain("paths: a datagram from another node", move |shot| {
            shot.send_by_socket(None, to(shot, WEB))
        })
        .between(Who::Stranger, Who::Victim),
        Attack::plain("paths: a datagram to another node", move |shot| {
            shot.send_by_socket(None, to(shot, WEB))
        })
        .between(Who::Caged, Who::Stranger),
        Attack::plain("paths: a datagram that is not tracked", move |shot| {
            shot.send_by_socket(None, to(shot, UNTRACKED))
        }),
        Attack::plain("paths: a port of the node", |shot| {
            let node = shot.node.address(shot.family);
            shot.send_by_socket(None, SocketAddr::new(node, HOST_PORT))
        }),
        Attack::plain("paths: a datagram to the node", move |shot| {
            shot.send_by_socket(None, to(shot, ANY_UDP))
        })
        .between(Who::Caged, Who::Node),
        Attack::plain("paths: a datagram to the other node", move |shot| {
            shot.send_by_socket(None, to(shot, ANY_UDP))
        })
        .between(Who::Caged, Who::FarNode),
        Attack::plain("paths: a connection to the node", move |shot| {
            Ok(Shot::connect(to(shot, ANY_TCP)))
        })
        .between(Who::Caged, Who::Node),
        Attack::plain("paths: a datagram to the gateway", move |shot| {
            shot.send_by_socket(None, SocketAddr::new(gateway(shot.family), ANY_UDP))
        })
        .between(Who::Caged, Who::Node)
        .on(BRIDGE),
        Attack::raw("paths: an error about no packet", |shot| {
            let about = shot.datagram(shot.target(), shot.source())?.bytes()?;
            let (source, target) = (shot.source(), shot.target());
            let (protocol, body) = match shot.family {
                Family::V4 => (ICMP, icmp(3, 4, [0, 0, 5, 0], &about)),
                Family::V6 => (ICMPV6, icmpv6(source, target, 2, [0, 0, 5, 0], &about)?),
            };
            shot.send(&[Packet::new(source, target, protocol, body).bytes()?])
        }),
        Attack::raw("paths: a router's error about a packet of the pod", too_big)
            .between(Who::FarNode, Who::Victim)
            .after(|shot| {
                let packet = shot.datagram(shot.target(), shot.source())?;
                let packet = Packet { body: without_token(&packet), ..packet };
                shot.reply(&packet.bytes()?)
            })
            .passes(),
    ]
}

/// The datagram with other data, so that it is not taken for the attack.
fn without_token(packet: &Packet) -> Vec<u8> {
    let header: Vec<u8> = packet.body.iter().copied().take(6).collect();
    // A checksum of zero is none; IPv6 has such datagrams only in tunnels, but conntrack takes them.
    [header, vec![0; packet.body.len() - 6]].concat()
}

/// Says that a datagram which the target sent was too big, by the kernel's own ICMP.
fn too_big(shot: &Shot<'_>) -> Result<Answer> {
    let about = shot.datagram(shot.target(), shot.source())?.bytes()?;
    let (domain, protocol, kind) = match shot.family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4, [3, 4]),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6, [2, 0]),
    };
    let body = icmp(kind[0], kind[1], [0, 0, 5, 0], &about);
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.send_to(&body, &SocketAddr::new(shot.target(), 0).into())?;
    Ok(Answer::None)
}
