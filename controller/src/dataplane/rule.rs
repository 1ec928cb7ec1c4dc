//! One rule as text, in the order and spelling of `iptables-save`.
//!
//! Written and read back rules compare as text, so there is one spelling only. It is the same
//! for iptables-legacy and iptables-nft (a kernel test holds that for every shape of rule).

use std::fmt;

use ipnet::IpNet;

use super::set::{lower_case, parse_protocol};

/// A side of a packet and whether it is to differ.
#[derive(Clone, Copy, Debug)]
pub(super) enum Is {
    Within(IpNet),
    Outside(IpNet),
}

/// Where a packet that matches goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// `-j`: comes back behind this rule.
    Jump(String),
    /// `-g`: comes back where this chain was jumped to from.
    Goto(String),
    /// Nowhere: the rule counts.
    Nowhere,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub source: Option<Is>,
    pub destination: Option<Is>,
    /// The name of a protocol, behind `-p`.
    pub protocol: Option<String>,
    /// Whether all other protocols are meant.
    pub other_protocols: bool,
    /// Matches with their options.
    pub matches: Vec<String>,
    pub target: Target,
}

impl Rule {
    pub(super) fn jump(target: &str) -> Self {
        Self::new(Target::Jump(target.to_owned()))
    }

    pub(super) fn goto(target: &str) -> Self {
        Self::new(Target::Goto(target.to_owned()))
    }

    /// A rule that counts, and lets pass to the next one.
    pub(super) fn pass() -> Self {
        Self::new(Target::Nowhere)
    }

    fn new(target: Target) -> Self {
        Self {
            source: None,
            destination: None,
            protocol: None,
            other_protocols: false,
            matches: Vec::new(),
            target,
        }
    }

    pub(super) fn source(mut self, is: Is) -> Self {
        self.source = Some(is);
        self
    }

    pub(super) fn destination(mut self, is: Is) -> Self {
        self.destination = Some(is);
        self
    }

    pub(super) fn protocol(mut self, name: &str) -> Self {
        self.protocol = Some(name.to_owned());
        self
    }

    pub(super) fn not_protocol(mut self, name: &str) -> Self {
        self.other_protocols = true;
        self.protocol(name)
    }

    pub(super) fn matching(mut self, text: impl Into<String>) -> Self {
        self.matches.push(text.into());
        self
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (option, side) in [("-s", self.source), ("-d", self.destination)] {
            match side {
                Some(Is::Within(net)) => write!(formatter, "{option} {net} ")?,
                Some(Is::Outside(net)) => write!(formatter, "! {option} {net} ")?,
                None => {}
            }
        }
        if let Some(protocol) = &self.protocol {
            let not = if self.other_protocols { "! " } else { "" };
            write!(formatter, "{not}-p {protocol} ")?;
        }
        formatter.write_str(&self.matches.join(" "))?;
        let space = if self.matches.is_empty() { "" } else { " " };
        match &self.target {
            Target::Jump(target) => write!(formatter, "{space}-j {target}"),
            Target::Goto(target) => write!(formatter, "{space}-g {target}"),
            Target::Nowhere => Ok(()),
        }
    }
}

/// A saved rule in our spelling: addresses as Rust writes them, protocols by name.
///
/// C libraries and iptables versions differ in how they print `::1.2.3.4` or protocol 58; a
/// rule must not look changed for that.
pub(super) fn normalise(rule: &str) -> String {
    let mut before = "";
    let words = rule.split(' ').map(|word| {
        let spelled = match before {
            "-s" | "-d" => {
                word.parse::<IpNet>().map_or_else(|_| word.to_owned(), |n| n.to_string())
            }
            "-p" => protocol_name(word).to_owned(),
            _ => word.to_owned(),
        };
        before = word;
        spelled
    });
    words.collect::<Vec<_>>().join(" ")
}

fn protocol_name(word: &str) -> &str {
    match word {
        "58" | "icmpv6" | "icmp6" => "ipv6-icmp",
        other => parse_protocol(other).map_or(other, |known| lower_case(known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_the_order_of_iptables_save() {
        let net = "10.0.0.1/32".parse().unwrap();
        let rule = Rule::goto("X").destination(Is::Within(net)).source(Is::Outside(net));
        assert_eq!(rule.to_string(), "! -s 10.0.0.1/32 -d 10.0.0.1/32 -g X");
        let rule = Rule::jump("RETURN").matching("-m tcp --dport 80").protocol("tcp");
        assert_eq!(rule.to_string(), "-p tcp -m tcp --dport 80 -j RETURN");
    }

    #[test]
    fn spellings_of_other_tools_are_normalised() {
        assert_eq!(normalise("-s ::1.2.3.4/128 -p 58 -j X"), "-s ::102:304/128 -p ipv6-icmp -j X");
        for (name, number) in [("tcp", 6), ("udp", 17), ("sctp", 132), ("ipv6-icmp", 58)] {
            assert_eq!(normalise(&format!("! -p {number} -j X")), format!("! -p {name} -j X"));
        }
        let ours = "-s fd00::1/128 ! -d fd00::1/128 -g X";
        assert_eq!(normalise(ours), ours);
    }
}
