//! Protocols other than TCP and UDP. A policy that allows a peer only allows no protocol of others.

use anyhow::Result;
use policy_engine::cidr::Family;
use portcullis_lab::crc32c;

use crate::attack::{Answer, Attack, Shot, WEB};
use crate::packet::{AH, ICMP, ICMPV6, Packet, SCTP, icmp, icmpv6};

/// By their numbers.
const OTHERS: [(&str, u8); 13] = [
    ("IGMP", 2),
    ("IPv4 in IP", 4),
    ("DCCP", 33),
    ("IPv6 in IP", 41),
    ("GRE", 47),
    ("ESP", 50),
    ("EIGRP", 88),
    ("OSPF", 89),
    ("VRRP", 112),
    ("L2TP", 115),
    ("UDP-Lite", 136),
    ("MPLS in IP", 137),
    ("one for experiments", 253),
];

pub(super) fn attacks() -> Vec<Attack> {
    let others = OTHERS.map(|(name, protocol)| {
        Attack::raw(format!("protocols: {name}"), move |shot| {
            let packet = Packet::new(shot.source(), shot.target(), protocol, shot.data(4));
            shot.send(&[packet.bytes()?])
        })
    });
    let more = [
        Attack::raw("protocols: AH around a datagram", authenticated),
        Attack::raw("protocols: an echo request", echo),
        Attack::raw("protocols: an INIT of SCTP", init),
    ];
    others.into_iter().chain(more).collect()
}

fn authenticated(shot: &Shot<'_>) -> Result<Answer> {
    let datagram = shot.datagram(shot.source(), shot.target())?;
    // Six words; in IPv4 and IPv6 the length leaves out two of them.
    let mut header = vec![4, 0, 0];
    header.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    header.extend([0; 12]);
    let packet = match shot.family {
        Family::V4 => {
            let body = [&[datagram.protocol][..], &header, &datagram.body].concat();
            Packet { protocol: AH, body, ..datagram }
        }
        Family::V6 => Packet { extensions: vec![(AH, header)], ..datagram },
    };
    shot.send(&[packet.bytes()?])
}

pub(super) fn echo(shot: &Shot<'_>) -> Result<Answer> {
    let (source, target) = (shot.source(), shot.target());
    let [high, low] = shot.port.to_be_bytes();
    let more = [high, low, 0, 1];
    let (protocol, body) = match shot.family {
        Family::V4 => (ICMP, icmp(8, 0, more, &shot.data(4))),
        Family::V6 => (ICMPV6, icmpv6(source, target, 128, more, &shot.data(4))?),
    };
    shot.send(&[Packet::new(source, target, protocol, body).bytes()?])
}

/// An INIT chunk with a parameter that nobody knows: RFC 9260, sections 3.3.2 and 3.2.1.
pub(super) fn init(shot: &Shot<'_>) -> Result<Answer> {
    let mut bytes = [shot.port.to_be_bytes(), WEB.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 32]);
    bytes.extend([0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    bytes.extend([0xc0, 1, 0, 12]);
    bytes.extend(shot.token);
    let checksum = crc32c(&bytes).to_le_bytes();
    bytes.splice(8..12, checksum);
    shot.send(&[Packet::new(shot.source(), shot.target(), SCTP, bytes).bytes()?])
}
