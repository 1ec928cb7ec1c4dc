//! The sets of `ipset save` and of nftables, and whether a packet is in one.
//!
//! Reads `hash:ip`, `hash:net`, `hash:ip,port`, `hash:net,port` and `hash:net,iface` in both
//! families. A member is a prefix, with a protocol and port, or an interface, where the type has
//! them; `hash:ip` holds whole addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::error::{ParseError, Problem, Unanswerable};
use crate::packet::{Family, Packet, Side, Transport};
use crate::words::{Words, parse, port_range, protocol};

/// The kernel's `IPSET_MAXNAMELEN` without its terminator.
const NAME_LENGTH_MAX: usize = 31;
/// The most elements of a set whose `create` line has no `maxelem`.
const ELEMENTS_MAX_DEFAULT: usize = 65_536;

/// All sets of one `ipset save`, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets(BTreeMap<String, Set>);

/// The number of sets and elements, for reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetSizes {
    /// How many sets.
    pub sets: usize,
    /// How many elements they hold together.
    pub elements: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    kind: Kind,
    family: Family,
    elements_max: usize,
    elements: BTreeMap<Element, Sense>,
    /// How many elements have this prefix length.
    lengths: BTreeMap<u8, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    prefixes: bool,
    second: Second,
}

/// The dimensions of an element beside its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    Nothing,
    Port,
    Interface,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    prefix: IpNet,
    port: Option<ProtocolPort>,
    interface: Option<String>,
}

/// A protocol and its port; of ICMP, type and code as one number; of others 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ProtocolPort {
    protocol: u8,
    port: u16,
}

/// The effect of an element if it is the most specific one that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    Match,
    NoMatch,
}

impl Sets {
    /// Reads the text of `ipset save`.
    ///
    /// # Errors
    ///
    /// Anything but the `create` and `add` lines of the types above, with the options `hashsize`,
    /// `maxelem`, `bucketsize`, `initval`, `counters`, `comment`, `timeout`, `nomatch`; a set or
    /// element that comes twice; what the kernel would refuse.
    pub fn parse(ipset_save: &str) -> Result<Self, ParseError> {
        let mut sets = Self::default();
        sets.add(ipset_save)?;
        Ok(sets)
    }

    /// Adds the sets in another text of `ipset save`.
    ///
    /// # Errors
    ///
    /// As [`Sets::parse`].
    pub fn add(&mut self, ipset_save: &str) -> Result<(), ParseError> {
        for (index, text) in ipset_save.lines().enumerate() {
            self.read(text).map_err(|problem| ParseError {
                line: index + 1,
                text: text.to_owned(),
                problem,
            })?;
        }
        Ok(())
    }

    /// The sizes of the sets whose names begin with `prefix`.
    #[must_use]
    pub fn sizes(&self, prefix: &str) -> SetSizes {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        named.fold(SetSizes::default(), |sum, (_, set)| SetSizes {
            sets: sum.sets + 1,
            elements: sum.elements + set.elements.len(),
        })
    }

    /// Whether the packet is in the set, each dimension taken from the side named for it.
    pub(crate) fn contains(
        &self,
        name: &str,
        sides: &[Side],
        packet: &Packet,
    ) -> Result<bool, Unanswerable> {
        let set = self.0.get(name).ok_or_else(|| Unanswerable::NoSet(name.to_owned()))?;
        if set.family != packet.family() {
            return Err(Unanswerable::SetFamily { set: name.to_owned(), packet: packet.family() });
        }
        match (set.kind.second, sides) {
            (Second::Nothing, [address, ..]) => Ok(set.contains(packet, *address, None, None)),
            (Second::Port, [address, port, ..]) => {
                Ok(set.contains(packet, *address, Some(protocol_port(packet, *port)), None))
            }
            (Second::Interface, [address, interface, ..]) => {
                let interface = match interface {
                    Side::Source => &packet.in_interface,
                    Side::Destination => &packet.out_interface,
                };
                let interface = interface.as_deref().unwrap_or_default();
                Ok(set.contains(packet, *address, None, Some(interface)))
            }
            _ => Err(Unanswerable::Dimensions {
                set: name.to_owned(),
                dimensions: 1 + usize::from(set.kind.second != Second::Nothing),
                given: sides.len(),
            }),
        }
    }

    /// Adds a set of networks, with protocols and ports if `has_ports`.
    pub(crate) fn insert(
        &mut self,
        name: String,
        family: Family,
        has_ports: bool,
        elements: Vec<(IpNet, Option<(u8, u16)>)>,
    ) -> Result<(), Problem> {
        let kind =
            Kind { prefixes: true, second: if has_ports { Second::Port } else { Second::Nothing } };
        let mut set = Set::empty(kind, family, usize::MAX);
        for (prefix, port) in elements {
            let port = port.map(|(protocol, port)| ProtocolPort { protocol, port });
            set.insert(Element { prefix, port, interface: None }, Sense::Match)?;
        }
        match self.0.insert(name.clone(), set) {
            None => Ok(()),
            Some(_) => Err(Problem::Duplicate { what: "set", name }),
        }
    }

    fn read(&mut self, text: &str) -> Result<(), Problem> {
        let mut words = Words::of_ipset(text)?;
        let Some(command) = words.next() else { return Ok(()) };
        match command.as_str() {
            "create" => {
                let name = words.take("the set's name")?;
                if name.len() > NAME_LENGTH_MAX {
                    return Err(Problem::Exceeds {
                        what: format!("the length of `{name}`"),
                        limit: NAME_LENGTH_MAX,
                    });
                }
                let set = Set::read(&mut words)?;
                match self.0.insert(name.clone(), set) {
                    None => Ok(()),
                    Some(_) => Err(Problem::Duplicate { what: "set", name }),
                }
            }
            "add" => {
                let name = words.take("the set's name")?;
                match self.0.get_mut(&name) {
                    Some(set) => set.add(&mut words),
                    None => Err(Problem::Absent { what: "set", name }),
                }
            }
            _ => Err(Problem::Unknown { what: "command", word: command }),
        }
    }
}

impl Set {
    fn empty(kind: Kind, family: Family, elements_max: usize) -> Self {
        let (elements, lengths) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, family, elements_max, elements, lengths }
    }

    /// What follows `create NAME`.
    fn read(words: &mut Words) -> Result<Self, Problem> {
        let kind = words.take("the set's type")?;
        let kind = match kind.as_str() {
            "hash:ip" => Kind { prefixes: false, second: Second::Nothing },
            "hash:net" => Kind { prefixes: true, second: Second::Nothing },
            "hash:ip,port" => Kind { prefixes: false, second: Second::Port },
            "hash:net,port" => Kind { prefixes: true, second: Second::Port },
            "hash:net,iface" => Kind { prefixes: true, second: Second::Interface },
            _ => return Err(Problem::Unknown { what: "type of set", word: kind }),
        };
        let mut set = Self::empty(kind, Family::V4, ELEMENTS_MAX_DEFAULT);
        while let Some(option) = words.next() {
            match option.as_str() {
                "family" => set.family = family(&words.take("the family")?)?,
                "maxelem" => set.elements_max = words.parse("a number of elements")?,
                "hashsize" | "bucketsize" | "timeout" => _ = words.parse::<u32>("a number")?,
                "initval" => _ = words.take("the hash's seed")?,
                "counters" | "comment" => {}
                _ => return Err(Problem::Unknown { what: "option", word: option }),
            }
        }
        Ok(set)
    }

    /// What follows `add NAME`.
    fn add(&mut self, words: &mut Words) -> Result<(), Problem> {
        let element = words.take("the element")?;
        let mut sense = Sense::Match;
        while let Some(option) = words.next() {
            match option.as_str() {
                "nomatch" if self.kind.prefixes => sense = Sense::NoMatch,
                // The element is a member until its timeout; the text is a snapshot.
                "timeout" => _ = words.parse::<u32>("a number of seconds")?,
                "packets" | "bytes" => _ = words.parse::<u64>("a counter")?,
                "comment" => _ = words.take("the comment")?,
                _ => return Err(Problem::Unknown { what: "option", word: option }),
            }
        }
        let (prefix, second) = match (element.split_once(','), self.kind.second) {
            (Some((address, second)), Second::Port | Second::Interface) => (address, Some(second)),
            (None, Second::Nothing) => (element.as_str(), None),
            _ => return Err(Problem::Bad { what: "an element of this type", word: element }),
        };
        let prefix = self.prefix(prefix)?;
        let interface = None;
        match second {
            None => self.insert(Element { prefix, port: None, interface }, sense),
            Some(name) if self.kind.second == Second::Interface => {
                let interface = Some(name.to_owned());
                self.insert(Element { prefix, port: None, interface }, sense)
            }
            Some(ports) => {
                let (protocol, low, high) = element_ports(ports)?;
                (low..=high).try_for_each(|port| {
                    let port = Some(ProtocolPort { protocol, port });
                    self.insert(Element { prefix, port, interface: None }, sense)
                })
            }
        }
    }

    fn prefix(&self, word: &str) -> Result<IpNet, Problem> {
        let what = if self.kind.prefixes {
            "a prefix longer than /0 without host bits"
        } else {
            "an address"
        };
        let prefix: IpNet = if word.contains('/') {
            parse(word, what)?
        } else {
            IpNet::from(parse::<std::net::IpAddr>(word, what)?)
        };
        if Family::of(prefix.addr()) != self.family {
            return Err(Problem::OtherFamily(word.to_owned()));
        }
        let whole = prefix.prefix_len() == prefix.max_prefix_len();
        let fits = if self.kind.prefixes {
            prefix.prefix_len() > 0 && prefix.trunc() == prefix
        } else {
            whole && !prefix.addr().is_unspecified()
        };
        if fits { Ok(prefix) } else { Err(Problem::Bad { what, word: word.to_owned() }) }
    }

    fn insert(&mut self, element: Element, sense: Sense) -> Result<(), Problem> {
        let length = element.prefix.prefix_len();
        if self.elements.contains_key(&element) {
            let name = format!("{element:?}");
            return Err(Problem::Duplicate { what: "element", name });
        }
        self.elements.insert(element, sense);
        if self.elements.len() > self.elements_max {
            let what = "the number of elements".to_owned();
            return Err(Problem::Exceeds { what, limit: self.elements_max });
        }
        *self.lengths.entry(length).or_default() += 1;
        Ok(())
    }

    /// The most specific element that matches decides, as in the kernel's `mtype_test_cidrs`.
    fn contains(
        &self,
        packet: &Packet,
        side: Side,
        port: Option<ProtocolPort>,
        interface: Option<&str>,
    ) -> bool {
        let address = match side {
            Side::Source => packet.source,
            Side::Destination => packet.destination,
        };
        let found = self.lengths.keys().rev().find_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.elements.get(&Element { prefix, port, interface: interface.map(str::to_owned) })
        });
        found == Some(&Sense::Match)
    }
}

fn family(word: &str) -> Result<Family, Problem> {
    match word {
        "inet" => Ok(Family::V4),
        "inet6" => Ok(Family::V6),
        _ => Err(Problem::Unknown { what: "family", word: word.to_owned() }),
    }
}

/// The protocol and port of a packet, as the kernel's `ip_set_get_ip_port` reads them.
fn protocol_port(packet: &Packet, side: Side) -> ProtocolPort {
    let port = match (packet.transport, packet.ports(), side) {
        (_, Some((source, _)), Side::Source) => source,
        (_, Some((_, destination)), Side::Destination) => destination,
        (Transport::Icmp { kind, code }, None, _) => u16::from_be_bytes([kind, code]),
        (_, None, _) => 0,
    };
    ProtocolPort { protocol: packet.protocol(), port }
}

/// `tcp:80`, `udp:80-90`, `icmp:echo-request`, `icmp:3/4`, `gre:0`, and `80`, which means TCP.
fn element_ports(word: &str) -> Result<(u8, u16, u16), Problem> {
    let (name, ports) = word.split_once(':').unwrap_or(("tcp", word));
    let number = protocol(name)?;
    let (low, high) = match (number, ports, ports.split_once('/')) {
        (1, "echo-request", _) => (8 << 8, 8 << 8),
        (1, "echo-reply" | "pong", _) => (0, 0),
        (58, "echo-request" | "ping", _) => (128 << 8, 128 << 8),
        (58, "echo-reply" | "pong", _) => (129 << 8, 129 << 8),
        (1 | 58, _, Some((kind, code))) => {
            let (kind, code) = (parse(kind, "an ICMP type")?, parse(code, "an ICMP code")?);
            let both = u16::from_be_bytes([kind, code]);
            (both, both)
        }
        (6 | 17 | 132 | 136, _, None) => port_range(ports, '-')?,
        (_, "0", _) if number != 1 && number != 58 => (0, 0),
        _ => return Err(Problem::Bad { what: "a port", word: word.to_owned() }),
    };
    Ok((number, low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(line: &str, want: &str) {
        let text = "create I hash:ip family inet maxelem 2\ncreate N hash:net family inet counters\n\
            create P hash:ip,port family inet6 timeout 0\nadd I 10.0.0.1\n\
            add N 10.0.0.0/8 nomatch packets 0 bytes 0 comment \"a b\"\n";
        let error = Sets::parse(&format!("{text}{line}")).expect_err(line);
        assert_eq!(error.problem.to_string(), want, "{line}");
        assert_eq!((error.line, error.text.as_str()), (6, line));
    }

    #[test]
    fn what_is_not_understood_names_its_line() {
        for (line, want) in [
            ("del I 10.0.0.1", "unknown command `del`"),
            ("create L list:set size 8", "unknown type of set `list:set`"),
            ("create M hash:ip family inet netmask 24", "unknown option `netmask`"),
            ("create M hash:ip family any", "unknown family `any`"),
            ("create I hash:ip", "set `I` is there already"),
            ("add X 10.0.0.1", "no set `X`"),
            ("add I 10.0.0.2 nomatch", "unknown option `nomatch`"),
            ("add I fd00::1", "`fd00::1` is an address of the other family"),
            ("add I 10.0.0.0/24", "`10.0.0.0/24` is not an address"),
            ("add I 10.0.0.2,tcp:80", "`10.0.0.2,tcp:80` is not an element of this type"),
            ("add N 10.0.0.1/24", "`10.0.0.1/24` is not a prefix longer than /0 without host bits"),
            ("add N 0.0.0.0/0", "`0.0.0.0/0` is not a prefix longer than /0 without host bits"),
            ("add P fd00::1", "`fd00::1` is not an element of this type"),
            ("add P fd00::1,tcp:http", "`http` is not a port or a range of ports"),
            ("add P fd00::1,gre:5", "`gre:5` is not a port"),
            ("add P fd00::1,what:5", "`what` is not a protocol"),
        ] {
            check_refused(line, want);
        }
        let long = "a".repeat(NAME_LENGTH_MAX + 1);
        let want = format!("the length of `{long}` exceeds 31");
        check_refused(&format!("create {long} hash:ip"), &want);
    }

    #[test]
    fn elements_come_once_and_not_too_many() {
        let parse = |adds: &str| Sets::parse(&format!("create I hash:ip maxelem 2\n{adds}"));
        let two = "add I 10.0.0.1\nadd I 10.0.0.2";
        assert_eq!(parse(two).unwrap().sizes("I"), SetSizes { sets: 1, elements: 2 });
        assert!(matches!(
            parse("add I 10.0.0.1\nadd I 10.0.0.1").unwrap_err().problem,
            Problem::Duplicate { what: "element", .. }
        ));
        assert!(matches!(
            parse(&format!("{two}\nadd I 10.0.0.3")).unwrap_err().problem,
            Problem::Exceeds { limit: 2, .. }
        ));
    }
}
