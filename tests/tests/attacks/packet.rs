//! Packets as bytes: what no socket of the kernel would send. Nothing is sent here.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use etherparse::checksum::Sum16BitWords;
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AH: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
pub(crate) const SCTP: u8 = 132;

/// A link-layer address.
pub(crate) type Mac = [u8; 6];

/// An extension header of IPv6: its number, and its bytes without the number of the next one.
pub(crate) type Extension = (u8, Vec<u8>);

/// An IP packet of either family.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    /// What follows the IP header and its options or extension headers.
    pub(crate) body: Vec<u8>,
    /// Options of IPv4, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    /// The identification that all fragments of a packet share.
    pub(crate) identification: u16,
}

/// A part of a packet's body: from where, how long, and whether more is said to follow.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) from: usize,
    pub(crate) length: usize,
    pub(crate) more: bool,
}

impl Packet {
    pub(crate) fn new(source: IpAddr, target: IpAddr, protocol: u8, body: Vec<u8>) -> Self {
        let (options, extensions) = (Vec::new(), Vec::new());
        Self { source, target, hops: 64, protocol, body, options, extensions, identification: 1 }
    }

    /// The packet as a whole.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        self.assemble(&self.extensions, None)
    }

    /// One fragment of the packet. Parts begin at a multiple of eight bytes.
    pub(crate) fn fragment(&self, part: Part) -> Result<Vec<u8>> {
        let end = (part.from + part.length).min(self.body.len());
        let body = self.body.get(part.from..end).context("a part is within the body")?;
        let fragment = Self { body: body.to_vec(), ..self.clone() };
        if self.source.is_ipv4() {
            return fragment.assemble(&[], Some(part));
        }
        let offset = u16::try_from(part.from)? | u16::from(part.more);
        let header = [&[0][..], &offset.to_be_bytes(), &[0, 0], &self.identification.to_be_bytes()];
        fragment.assemble(&[&self.extensions[..], &[(FRAGMENT, header.concat())]].concat(), None)
    }

    /// Fragments of this size, the first byte first.
    pub(crate) fn fragments(&self, size: usize) -> Result<Vec<Vec<u8>>> {
        let all = self.body.len();
        let part = |from| Part { from, length: size, more: from + size < all };
        (0..all).step_by(size).map(|from| self.fragment(part(from))).collect()
    }

    fn assemble(&self, extensions: &[Extension], part: Option<Part>) -> Result<Vec<u8>> {
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let length = u16::try_from(self.body.len())?;
                let (protocol, hops) = (IpNumber(self.protocol), self.hops);
                let mut header =
                    Ipv4Header::new(length, hops, protocol, source.octets(), target.octets())?;
                header.options = self.options.as_slice().try_into()?;
                header.total_len += u16::try_from(self.options.len())?;
                header.identification = self.identification;
                header.dont_fragment = false;
                if let Some(part) = part {
                    header.fragment_offset = IpFragOffset::try_new(u16::try_from(part.from / 8)?)?;
                    header.more_fragments = part.more;
                }
                header.header_checksum = header.calc_header_checksum();
                Ok([header.to_bytes().as_slice(), &self.body].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let kinds: Vec<u8> =
                    extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]).collect();
                let mut after = Vec::new();
                for ((_, rest), next) in extensions.iter().zip(kinds.iter().skip(1)) {
                    after.push(*next);
                    after.extend(rest);
                }
                after.extend(&self.body);
                let header = Ipv6Header {
                    payload_length: u16::try_from(after.len())?,
                    next_header: IpNumber(*kinds.first().context("a packet has a protocol")?),
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: target.octets(),
                    ..Ipv6Header::default()
                };
                Ok([header.to_bytes().as_slice(), &after].concat())
            }
            _ => bail!("a packet has one family"),
        }
    }
}

/// A UDP datagram.
pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16), data: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(UdpHeader::LEN + data.len())?;
    let header = UdpHeader { source_port: from.1, destination_port: to.1, length, checksum: 0 };
    let bytes = [&header.to_bytes()[..], data].concat();
    with_checksum(from.0, to.0, UDP, bytes, 6)
}

/// What a segment has as its sequence and acknowledgement numbers.
pub(crate) type Numbers = (u32, u32);

/// A TCP segment with flags as they are in the header, CWR the highest.
pub(crate) fn tcp(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    flags: u8,
    (sequence, acknowledgement): Numbers,
    data: &[u8],
) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(from.1, to.1, sequence, 64_240);
    header.acknowledgment_number = acknowledgement;
    let mut bytes = [header.to_bytes().as_slice(), data].concat();
    *bytes.get_mut(13).context("a TCP header has flags")? = flags;
    with_checksum(from.0, to.0, TCP, bytes, 16)
}

/// A message of `ICMPv6` with four more bytes of header.
pub(crate) fn icmpv6(
    source: IpAddr,
    target: IpAddr,
    kind: u8,
    more: [u8; 4],
    body: &[u8],
) -> Result<Vec<u8>> {
    let bytes = [&[kind, 0, 0, 0][..], &more, body].concat();
    with_checksum(source, target, ICMPV6, bytes, 2)
}

/// A message of ICMP with four more bytes of header.
pub(crate) fn icmp(kind: u8, code: u8, more: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0][..], &more, body].concat();
    let sum = Sum16BitWords::new().add_slice(&bytes).ones_complement().to_ne_bytes();
    put(&mut bytes, 2, sum);
    bytes
}

/// An Ethernet frame.
pub(crate) fn frame(to: Mac, from: Mac, tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let kind: u16 = if is_v4 { 0x0800 } else { 0x86dd };
    let mut bytes = [to, from].concat();
    for tag in tags {
        // Priority 0 and VLAN 0, which is none.
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// Puts the checksum over the pseudo header and these bytes at an offset, where zero is now.
pub(crate) fn with_checksum(
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    mut bytes: Vec<u8>,
    at: usize,
) -> Result<Vec<u8>> {
    let length = u32::try_from(bytes.len())?.to_be_bytes();
    let mut sum =
        Sum16BitWords::new().add_2bytes([0, protocol]).add_4bytes(length).add_slice(&bytes);
    let sum = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            sum.add_4bytes(source.octets()).add_4bytes(target.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            sum.add_16bytes(source.octets()).add_16bytes(target.octets())
        }
        _ => bail!("a packet has one family"),
    };
    let sum = sum.to_ones_complement_with_no_zero();
    put(&mut bytes, at, sum.to_ne_bytes());
    Ok(bytes)
}

fn put(bytes: &mut [u8], at: usize, value: [u8; 2]) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value);
    }
}
