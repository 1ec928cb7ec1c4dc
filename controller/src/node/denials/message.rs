//! Parses one datagram of the kernel's log. Malformed messages are returned as unreadable.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{PacketNla, ULogMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::packet::Packet;
use crate::dataplane::denial::Denial;

/// What one message of the kernel contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logged {
    /// The kind of denial and the packet; `None` when they cannot be read.
    pub what: Option<(Denial, Packet)>,
    /// The message's number: the kernel also counts the messages that it could not deliver.
    pub sequence: Option<u32>,
}

/// The logged packets in a datagram, in order.
#[must_use]
pub fn read(datagram: &[u8]) -> Vec<Logged> {
    let mut found = Vec::new();
    let mut rest = datagram;
    // The kernel rounds the length of each message up to a multiple of four.
    while let [a, b, c, d, ..] = rest {
        let length = usize::try_from(u32::from_ne_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER) else {
            found.push(Logged { what: None, sequence: None });
            break;
        };
        if is_log(message) {
            match NetlinkMessage::<NetfilterMessage>::deserialize(message) {
                Ok(message) => found.extend(logged(&message.payload)),
                Err(_) => found.push(Logged { what: None, sequence: None }),
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The length of a netlink header.
const HEADER: usize = 16;

/// `NFNL_SUBSYS_ULOG`.
const LOG_SUBSYSTEM: u16 = 4;

/// Whether a message is of the log. The parser of messages of nftables panics on lengths that are
/// wrong.
fn is_log(message: &[u8]) -> bool {
    let [_, _, _, _, a, b, ..] = message else { return false };
    u16::from_ne_bytes([*a, *b]) >> 8 == LOG_SUBSYSTEM
}

/// Reads the attributes of a packet; `None` for control messages of netlink.
fn logged(payload: &NetlinkPayload<NetfilterMessage>) -> Option<Logged> {
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = &message.inner else {
        return None;
    };
    let (mut denial, mut packet, mut sequence) = (None, None, None);
    for attribute in attributes {
        match attribute {
            PacketNla::Prefix(prefix) => {
                denial = prefix.to_str().ok().and_then(Denial::of_prefix);
            }
            PacketNla::Payload(bytes) => packet = Packet::parse(bytes),
            PacketNla::Seq(number) => sequence = Some(*number),
            _ => {}
        }
    }
    Some(Logged { what: denial.zip(packet), sequence })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily};
    use proptest::prelude::*;

    use super::*;

    fn message(attributes: Vec<PacketNla>) -> Vec<u8> {
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 1);
        let message = NetfilterMessage::new(header, ULogMessage::Packet(attributes));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn denial() -> Denial {
        Denial::all().nth(5).expect("there are sixteen")
    }

    fn syn() -> Vec<u8> {
        let mut bytes = vec![0x45; 20];
        bytes[6..10].copy_from_slice(&[0, 0, 64, 6]);
        bytes.extend([0, 1, 0, 80]);
        bytes
    }

    fn prefix(text: String) -> PacketNla {
        PacketNla::Prefix(std::ffi::CString::new(text).expect("it has no NUL"))
    }

    #[test]
    fn a_datagram_holds_several_messages_and_each_is_returned() {
        let packet = Packet::parse(&syn()).expect("it is one");
        let ours = vec![prefix(denial().prefix()), PacketNla::Payload(syn()), PacketNla::Seq(7)];
        let foreign =
            vec![prefix("calico 3".to_owned()), PacketNla::Payload(syn()), PacketNla::Seq(8)];
        let cut =
            vec![prefix(denial().prefix()), PacketNla::Payload(vec![0x45]), PacketNla::Seq(9)];
        let datagram = [message(ours), message(foreign), message(cut)].concat();
        let what = Some((denial(), packet));
        assert_eq!(
            read(&datagram),
            [
                Logged { what, sequence: Some(7) },
                Logged { what: None, sequence: Some(8) },
                Logged { what: None, sequence: Some(9) }
            ]
        );
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_datagram() {
        let unreadable = Logged { what: None, sequence: None };
        assert_eq!(read(&[0; 16]), [unreadable]);
        assert_eq!(read(&[0xff; 16]), [unreadable]);
        assert_eq!(read(&[]), []);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_change_of_a_good_message_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = message(vec![
                prefix(denial().prefix()),
                PacketNla::Payload(syn()),
                PacketNla::Seq(7),
            ]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = read(&bytes[..end.index(bytes.len() + 1)]);
        }
    }
}
