//! What the policies allow passes, however unusual it is: nothing is dropped for its form alone.

use std::net::SocketAddr;

use crate::attack::{ANY_UDP, Attack, Shot, V4, V6, WEB, Who};
use crate::packet::{DESTINATION_OPTIONS, Packet};
use crate::table::protocols::{echo, init};

pub(super) fn attacks() -> Vec<Attack> {
    let to_web = |shot: &Shot<'_>| SocketAddr::new(shot.target(), WEB);
    let datagram = move || {
        Attack::plain("allowed: a datagram", move |shot| shot.send_by_socket(None, to_web(shot)))
    };
    let friend = (Who::Friend, Who::Victim);
    let of_friend = [
        datagram(),
        Attack::plain("allowed: a connection", move |shot| Ok(Shot::connect(to_web(shot)))),
        Attack::raw("allowed: a datagram of 60 KB in fragments", |shot| {
            let packet = shot.datagram_to(shot.source(), shot.target(), WEB, 7500)?;
            shot.send(&packet.fragments(1400)?)
        }),
        Attack::raw("allowed: destination options three times", |shot| {
            let padding = (DESTINATION_OPTIONS, vec![0, 1, 4, 0, 0, 0, 0]);
            let packet = shot.datagram(shot.source(), shot.target())?;
            shot.send(&[Packet { extensions: vec![padding; 3], ..packet }.bytes()?])
        })
        .families(V6),
        Attack::raw("allowed: a router alert", |shot| {
            let packet = shot.datagram(shot.source(), shot.target())?;
            shot.send(&[Packet { options: vec![148, 4, 0, 0], ..packet }.bytes()?])
        })
        .families(V4),
        Attack::raw("allowed: GRE", |shot| {
            let packet = Packet::new(shot.source(), shot.target(), 47, shot.data(4));
            shot.send(&[packet.bytes()?])
        }),
        Attack::raw("allowed: an echo request", echo),
        Attack::raw("allowed: an INIT of SCTP", init),
    ];
    let others = [
        datagram().between(Who::Caged, Who::Friend),
        datagram().between(Who::Mallory, Who::Bystander),
        datagram().between(Who::Stranger, Who::Bystander),
        datagram().between(Who::Mallory, Who::Internet),
        datagram().between(Who::Node, Who::Victim),
        Attack::plain("allowed: a datagram from a pod that may not receive", |shot| {
            shot.send_by_socket(None, SocketAddr::new(shot.target(), ANY_UDP))
        })
        .between(Who::Victim, Who::Bystander),
    ];
    let of_friend = of_friend.map(|attack| attack.between(friend.0, friend.1));
    of_friend.into_iter().chain(others).map(Attack::passes).collect()
}
