//! Datagrams with options or extension headers, or in fragments.

use anyhow::{Context as _, Result};

use crate::attack::{Attack, BOTH, Shot, V4, V6, WEB};
use crate::packet::{DESTINATION_OPTIONS, Extension, FRAGMENT, HOP_BY_HOP, Packet, Part, ROUTING};

pub(super) fn attacks() -> Vec<Attack> {
    options().into_iter().chain(extensions()).chain(fragments()).collect()
}

fn datagram(shot: &Shot<'_>, times: usize) -> Result<Packet> {
    shot.datagram_to(shot.source(), shot.target(), WEB, times)
}

fn options() -> Vec<Attack> {
    let kinds: [(&str, &[u8]); 4] = [
        ("a record route", &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a router alert", &[148, 4, 0, 0]),
        ("eight NOPs", &[1; 8]),
        ("a timestamp", &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let kinds = kinds.map(|(name, options)| {
        Attack::raw(format!("options: {name}"), move |shot| {
            let packet = Packet { options: options.to_vec(), ..datagram(shot, 4)? };
            shot.send(&[packet.bytes()?])
        })
    });
    let done = Attack::raw("options: a loose source route at its end", |shot| {
        let options = [&[131, 7, 8][..], &shot.node.v4.octets(), &[0]].concat();
        shot.send(&[Packet { options, ..datagram(shot, 4)? }.bytes()?])
    });
    // In FORWARD, its destination is still the node.
    let by_node = Attack::raw("options: a loose source route by way of the node", |shot| {
        let options = [&[131, 7, 4][..], &shot.to.v4.octets(), &[0]].concat();
        let packet = shot.datagram(shot.source(), shot.node.v4.into())?;
        shot.send_to(shot.from.gateway, &[], &[Packet { options, ..packet }.bytes()?])
    });
    kinds.into_iter().chain([done, by_node]).map(|attack| attack.families(V4)).collect()
}

/// An extension header that holds padding only.
fn padding(kind: u8) -> Extension {
    (kind, vec![0, 1, 4, 0, 0, 0, 0])
}

/// The header of a fragment that is the whole packet: RFC 6946.
fn atomic() -> Extension {
    (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 7])
}

fn extensions() -> Vec<Attack> {
    let some = |times| vec![padding(DESTINATION_OPTIONS); times];
    let mut route = vec![2, 0, 0, 0, 0, 0, 0];
    route.extend([0xfd; 16]);
    let route = (ROUTING, route);
    let mix = vec![padding(HOP_BY_HOP), padding(DESTINATION_OPTIONS), route.clone(), atomic()];
    let all: [(&str, Vec<Extension>); 7] = [
        ("hop-by-hop options", vec![padding(HOP_BY_HOP)]),
        ("destination options", some(1)),
        ("destination options three times", some(3)),
        ("destination options twelve times", some(12)),
        ("a fragment that is the whole packet", vec![atomic()]),
        ("a routing header at its end", vec![route]),
        ("hop-by-hop and destination options, a route and a fragment", mix),
    ];
    let all = all.into_iter().map(|(name, extensions)| {
        Attack::raw(format!("extension headers: {name}"), move |shot| {
            let extensions = extensions.clone();
            shot.send(&[Packet { extensions, ..datagram(shot, 4)? }.bytes()?])
        })
    });
    all.map(|attack| attack.families(V6)).collect()
}

fn fragments() -> Vec<Attack> {
    // Of a datagram of so many times eight bytes, fragments of so many bytes.
    let whole: [(&str, usize, usize); 3] = [
        ("eight bytes each", 8, 8),
        ("a datagram of 4 KB", 500, 1400),
        ("a datagram of 60 KB", 7500, 1400),
    ];
    let whole = whole.map(|(name, times, size)| {
        Attack::raw(format!("fragments: {name}"), move |shot| {
            shot.send(&datagram(shot, times)?.fragments(size)?)
        })
    });
    let last_first = Attack::raw("fragments: the last one first", |shot| {
        let mut parts = datagram(shot, 200)?.fragments(400)?;
        parts.reverse();
        shot.send(&parts)
    });
    let twice = Attack::raw("fragments: the first one twice", |shot| {
        let parts = datagram(shot, 200)?.fragments(400)?;
        let first = parts.first().context("a datagram has fragments")?.clone();
        shot.send(&[&[first], parts.as_slice()].concat())
    });
    let overlapping = Attack::raw("fragments: two that overlap", |shot| {
        let packet = datagram(shot, 200)?;
        let first = packet.fragment(Part { from: 0, length: 800, more: true })?;
        let second = packet.fragment(Part { from: 400, length: 4000, more: false })?;
        shot.send(&[first, second])
    })
    .kernel_drops(BOTH);
    whole.into_iter().chain([last_first, twice, overlapping]).collect()
}
