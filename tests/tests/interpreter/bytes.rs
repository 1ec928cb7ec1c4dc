//! Packets as bytes, without checksums; the tests turn the kernel's checks off.

use std::net::IpAddr;

use portcullis_interpreter::{Packet, Transport};

/// What follows the IP header where nothing reads it.
const OPAQUE: [u8; 16] = [0; 16];

/// The whole packet; an ICMP error carries the beginning of the packet it is about.
pub(crate) fn of(packet: &Packet, about: Option<&Packet>) -> Vec<u8> {
    let mut payload = transport(packet);
    payload.extend(about.map(|about| of(about, None)).unwrap_or_default());
    let mut bytes = header(packet, payload.len());
    bytes.extend(payload);
    bytes
}

fn header(packet: &Packet, payload: usize) -> Vec<u8> {
    let protocol = packet.protocol();
    let length = |bytes: usize| u16::try_from(bytes).expect("packets are short").to_be_bytes();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = length(20 + payload);
            // Version and header length, length, id, fragment, time to live, checksum.
            let fixed = [0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
            [&fixed[..], &source.octets(), &destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = length(payload);
            let fixed = [0x60, 0, 0, 0, high, low, protocol, 64];
            [&fixed[..], &source.octets(), &destination.octets()].concat()
        }
        _ => unreachable!("packets here are of one family"),
    }
}

fn transport(packet: &Packet) -> Vec<u8> {
    let ports =
        |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();
    match packet.transport {
        Transport::Tcp { source_port, destination_port, flags } => {
            // Sequence, acknowledgement, header length, flags, window, checksum, urgent.
            let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags.bits(), 1, 0, 0, 0, 0, 0];
            [ports(source_port, destination_port), rest.to_vec()].concat()
        }
        Transport::Udp { source_port, destination_port } => {
            [ports(source_port, destination_port), vec![0, 8, 0, 0]].concat()
        }
        Transport::Sctp { source_port, destination_port, init } => {
            // Tag 0 and checksum, then an INIT chunk of 20 bytes, which opens an association, or a
            // HEARTBEAT of none that is known.
            let tag_and_checksum = vec![0; 8];
            let mut chunk = [1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0x10, 0, 0, 1, 0, 1, 0, 0, 0, 1];
            if !init {
                chunk[0] = 4;
            }
            [ports(source_port, destination_port), tag_and_checksum, chunk.to_vec()].concat()
        }
        Transport::Icmp { kind, code } => vec![kind, code, 0, 0, 0, 1, 0, 1],
        Transport::Other(_) => OPAQUE.to_vec(),
    }
}
