//! Segments of TCP that open no connection, or do so in an unusual way. With
//! `nf_conntrack_tcp_loose`, which is on by default, conntrack takes some for the middle of a
//! connection that it does not know.

use crate::attack::{Attack, Shot, WEB};
use crate::packet::{Numbers, Packet, TCP, tcp};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

const GREETING: &[u8] = b"220 ready\r\n";
/// Of a client's segment, which acknowledges the greeting, and of a server's with the greeting.
const CLIENT: Numbers = (1_000_000, 2_000_011);
const SERVER: Numbers = (2_000_000, 1_000_000);

const SEGMENTS: [(&str, u8); 17] = [
    ("SYN with data", SYN),
    ("ECN SYN", SYN | ECE | CWR),
    ("SYN and PSH", SYN | PSH),
    ("SYN and FIN", SYN | FIN),
    ("SYN and RST", SYN | RST),
    ("SYN and ACK first", SYN | ACK),
    ("bare ACK", ACK),
    ("PSH and ACK with data", PSH | ACK),
    ("URG and ACK", URG | ACK),
    ("FIN", FIN),
    ("FIN and ACK", FIN | ACK),
    ("RST", RST),
    ("RST and ACK", RST | ACK),
    ("URG", URG),
    ("no flag", 0),
    ("FIN, PSH and URG", FIN | PSH | URG),
    ("all flags", u8::MAX),
];

pub(super) fn attacks() -> Vec<Attack> {
    let segments = SEGMENTS.map(|(name, flags)| {
        Attack::raw(format!("TCP: {name}"), move |shot| {
            shot.send(&[segment(shot, flags)?.bytes()?])
        })
    });
    let first_word = Attack::raw("TCP: an answer where the server speaks first", |shot| {
        shot.send(&[segment(shot, PSH | ACK)?.bytes()?])
    })
    .after(|shot| {
        // What a server sends on a connection that conntrack has forgotten.
        let (server, client) = ((shot.target(), WEB), (shot.source(), shot.port));
        let body = tcp(server, client, PSH | ACK, SERVER, GREETING)?;
        shot.reply(&Packet::new(server.0, client.0, TCP, body).bytes()?)
    });
    segments.into_iter().chain([first_word]).collect()
}

fn segment(shot: &Shot<'_>, flags: u8) -> anyhow::Result<Packet> {
    let (source, target) = (shot.source(), shot.target());
    let body = tcp((source, shot.port), (target, WEB), flags, CLIENT, &shot.data(4))?;
    Ok(Packet::new(source, target, TCP, body))
}
