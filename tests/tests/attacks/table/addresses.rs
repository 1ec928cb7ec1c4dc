//! Source addresses that are not the sender's, and pods whose address is not known or disputed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use policy_engine::cidr::Family;

use crate::attack::{ANY_UDP, Answer, Attack, BRIDGE, ROUTED, Shot, V4, V6, WEB, Who};

pub(super) fn attacks() -> Vec<Attack> {
    held().into_iter().chain(forged()).chain(pods()).collect()
}

/// Sends a raw datagram from another address.
fn from(shot: &Shot<'_>, source: IpAddr) -> Result<Answer> {
    shot.send(&[shot.datagram(source, shot.target())?.bytes()?])
}

/// The node's own addresses and those that belong to nobody: no policy allows them.
fn held() -> Vec<Attack> {
    let gateway = |family| match family {
        Family::V4 => IpAddr::from(Ipv4Addr::new(10, 244, 1, 1)),
        Family::V6 => Ipv6Addr::new(0xfd44, 0, 0, 1, 0, 0, 0, 1).into(),
    };
    vec![
        // The kernel refuses its own IPv4 addresses as sources of what it routes.
        Attack::raw("source: the node", |shot| from(shot, shot.node.v4.into()))
            .families(V4)
            .kernel_drops(ROUTED),
        Attack::raw("source: the node", |shot| from(shot, shot.node.v6.into())).families(V6),
        Attack::raw("source: the gateway", move |shot| from(shot, gateway(shot.family))).on(BRIDGE),
        Attack::raw("source: loopback", |shot| from(shot, Ipv4Addr::LOCALHOST.into()))
            .families(V4)
            .kernel_drops(ROUTED),
        Attack::raw("source: unspecified", |shot| from(shot, Ipv4Addr::UNSPECIFIED.into()))
            .families(V4)
            .kernel_drops(ROUTED),
        Attack::raw("source: broadcast", |shot| from(shot, Ipv4Addr::BROADCAST.into()))
            .families(V4)
            .kernel_drops(ROUTED),
    ]
}

/// A source for a forger: given the shot, whose address?
type Source = fn(&Shot<'_>) -> IpAddr;

/// The same in both families: raw packets with IPv4, and a socket of any process with IPv6.
fn pair(name: &str, between: (Who, Who), port: u16, source: Source) -> [Attack; 2] {
    let name = format!("source: {name}");
    let raw = Attack::raw(name.clone(), move |shot| {
        shot.send(&[shot.datagram_to(source(shot), shot.target(), port, 4)?.bytes()?])
    });
    let plain = Attack::plain(name, move |shot| {
        shot.send_by_socket(Some(source(shot)), SocketAddr::new(shot.target(), port))
    });
    [raw.families(V4), plain.families(V6)].map(|attack| attack.between(between.0, between.1))
}

/// An address of the node's pods that no pod has.
fn nobody(shot: &Shot<'_>) -> IpAddr {
    match shot.family {
        Family::V4 => Ipv4Addr::new(10, 244, 1, 99).into(),
        Family::V6 => Ipv6Addr::new(0xfd44, 0, 0, 1, 0, 0, 0, 0x99).into(),
    }
}

/// An address that is of no network here.
fn elsewhere(shot: &Shot<'_>) -> IpAddr {
    match shot.family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 7).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7).into(),
    }
}

fn friend(shot: &Shot<'_>) -> IpAddr {
    shot.friend.address(shot.family)
}

fn itself(shot: &Shot<'_>) -> IpAddr {
    shot.target()
}

fn forged() -> Vec<Attack> {
    let all = [
        pair("an allowed peer", (Who::Mallory, Who::Victim), WEB, friend),
        pair("an allowed peer, from another node", (Who::Stranger, Who::Victim), WEB, friend),
        pair("the target itself", (Who::Mallory, Who::Victim), WEB, itself),
        pair("the target itself", (Who::Stranger, Who::Victim), WEB, itself),
        pair("the target itself, from outside", (Who::Internet, Who::Victim), WEB, itself),
        pair("nobody", (Who::Caged, Who::Bystander), WEB, nobody),
        pair("another pod", (Who::Caged, Who::Bystander), WEB, friend),
        pair("of another network", (Who::Caged, Who::Bystander), WEB, elsewhere),
        pair("nobody, to another node", (Who::Caged, Who::Stranger), WEB, nobody),
        pair("nobody, to the internet", (Who::Caged, Who::Internet), WEB, nobody),
        pair("nobody, to the node", (Who::Caged, Who::Node), ANY_UDP, nobody),
        pair("another pod without a policy", (Who::Mallory, Who::Bystander), WEB, friend),
    ];
    all.into_iter().flatten().collect()
}

fn pods() -> Vec<Attack> {
    let plain = |name: &str| {
        Attack::plain(format!("pods: {name}"), |shot| {
            shot.send_by_socket(None, SocketAddr::new(shot.target(), WEB))
        })
    };
    vec![
        plain("one whose addresses a younger pod of another node claims")
            .between(Who::Mallory, Who::Claimed),
        plain("one whose addresses an older pod and one with hostNetwork claim")
            .between(Who::Mallory, Who::Shared),
        plain("to one that is not known yet").between(Who::Mallory, Who::Unborn),
        plain("from one that is not known yet").between(Who::Unborn, Who::Bystander),
    ]
}
