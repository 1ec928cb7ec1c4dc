//! The few SCTP packets that a probe needs (RFC 9260 §3), built and read by hand.
//!
//! The kernel here has no SCTP sockets, so the client and the server of a probe are raw sockets:
//!
//! ```text
//! client  INIT (tag T) ───────────────▶ server
//!         ◀──── INIT ACK (tag T, state cookie = who answers)     a listener on that port
//!         ◀──── ABORT (tag T)                                    none
//! ```
//!
//! Both replies are what a real stack sends, so connection tracking and NAT follow them.

const COMMON_HEADER: usize = 12;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const STATE_COOKIE: u16 = 7;

/// A packet that a lab sends or understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// The first packet of an association, with the tag that replies must carry.
    Init { source: u16, destination: u16, tag: u32 },
    /// The answer of a listener; the cookie says who it is.
    InitAck { source: u16, destination: u16, tag: u32, cookie: Vec<u8> },
    /// The answer where nothing listens.
    Abort { source: u16, destination: u16, tag: u32 },
}

impl Packet {
    /// The packet as bytes from the common header on, checksum included.
    pub(super) fn encode(&self) -> Vec<u8> {
        // The verification tag of an INIT is zero; a reply carries the tag of its INIT.
        let (source, destination, verification, chunk) = match self {
            Self::Init { source, destination, tag } => {
                (*source, *destination, 0, init_chunk(INIT, *tag, &[]))
            }
            Self::InitAck { source, destination, tag, cookie } => {
                (*source, *destination, *tag, init_chunk(INIT_ACK, !*tag | 1, cookie))
            }
            Self::Abort { source, destination, tag } => {
                (*source, *destination, *tag, vec![ABORT, 0, 0, 4])
            }
        };
        let mut bytes = Vec::with_capacity(COMMON_HEADER + chunk.len());
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(verification.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(chunk);
        let checksum = crc32c(&bytes).to_le_bytes();
        if let Some(field) = bytes.get_mut(8..COMMON_HEADER) {
            field.copy_from_slice(&checksum);
        }
        bytes
    }

    /// Reads a packet; none when it is short, damaged or of another kind.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (source, destination) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        let verification = u32_at(bytes, 4)?;
        let mut unsummed = bytes.to_vec();
        unsummed.get_mut(8..COMMON_HEADER)?.fill(0);
        if bytes.get(8..COMMON_HEADER)? != crc32c(&unsummed).to_le_bytes() {
            return None;
        }
        let chunk = bytes.get(COMMON_HEADER..)?;
        match *chunk.first()? {
            INIT => Some(Self::Init { source, destination, tag: u32_at(chunk, 4)? }),
            INIT_ACK => {
                let length = usize::from(u16_at(chunk, 22)?);
                let is_cookie = u16_at(chunk, 20)? == STATE_COOKIE;
                let cookie = chunk.get(24..20 + length).filter(|_| is_cookie)?.to_vec();
                Some(Self::InitAck { source, destination, tag: verification, cookie })
            }
            ABORT => Some(Self::Abort { source, destination, tag: verification }),
            _ => None,
        }
    }
}

/// An INIT or INIT ACK chunk (RFC 9260 §3.3.2, §3.3.3) padded to four bytes.
fn init_chunk(kind: u8, initiate_tag: u32, cookie: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 0];
    chunk.extend(initiate_tag.to_be_bytes());
    chunk.extend(65_536_u32.to_be_bytes()); // receiver window, bytes
    chunk.extend(1_u16.to_be_bytes()); // outbound streams
    chunk.extend(1_u16.to_be_bytes()); // inbound streams
    chunk.extend(initiate_tag.to_be_bytes()); // initial TSN: any number
    if kind == INIT_ACK {
        let length = u16::try_from(4 + cookie.len()).unwrap_or(u16::MAX);
        chunk.extend(STATE_COOKIE.to_be_bytes());
        chunk.extend(length.to_be_bytes());
        chunk.extend(cookie);
    }
    // The chunk's length leaves out the padding of its last parameter.
    let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
    if let Some(field) = chunk.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// CRC-32C (Castagnoli), reflected, as RFC 9260 appendix A has it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn packets_survive_encoding_and_damage_is_seen() {
        let packets = [
            Packet::Init { source: 4000, destination: 3868, tag: 7 },
            Packet::InitAck { source: 3868, destination: 4000, tag: 7, cookie: b"a/bcd".to_vec() },
            Packet::Abort { source: 3868, destination: 4000, tag: 7 },
        ];
        for packet in packets {
            let mut bytes = packet.encode();
            assert_eq!(Packet::decode(&bytes), Some(packet));
            bytes[0] ^= 1;
            assert_eq!(Packet::decode(&bytes), None);
        }
    }
}
