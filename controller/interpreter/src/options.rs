//! The matches, and how each of their options reads; `targets` reads those of targets.

use crate::error::Problem;
use crate::limits;
use crate::matches::{Condition, InterfaceName, PortOf, Question};
use crate::packet::{ConntrackState, ICMP, ICMPV6, SCTP, Side, TCP, TcpFlags, UDP};
use crate::rule::{CHAIN_LENGTH_MAX, Draft, Target};
use crate::targets;
use crate::words::{Words, known_only, parse, port_range, text, unknown_option, value_and_mask};

/// The kernel's `XT_MULTI_PORTS`; a range takes two.
const MULTIPORT_MAX: usize = 15;
/// The kernel's `IPSET_DIM_MAX`.
const SIDES_MAX: usize = 3;
/// The kernel's `XT_MAX_COMMENT_LEN` less its terminator.
const COMMENT_LENGTH_MAX: usize = 255;
/// The match or target that the next options belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
    Multiport,
    Set,
    Conntrack,
    State,
    HopLimit,
    Physdev,
    Limit,
    Hashlimit,
    Comment,
    Mark,
    ToLog,
    ToNflog,
    ToMark,
    ToReject,
}

impl Module {
    /// The match that `-m` names.
    pub(crate) fn named(name: &str) -> Result<Self, Problem> {
        Ok(match name {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            "icmp" => Self::Icmp,
            "icmp6" | "icmpv6" | "ipv6-icmp" => Self::Icmpv6,
            "multiport" => Self::Multiport,
            "set" => Self::Set,
            "conntrack" => Self::Conntrack,
            "state" => Self::State,
            "hl" => Self::HopLimit,
            "physdev" => Self::Physdev,
            "limit" => Self::Limit,
            "hashlimit" => Self::Hashlimit,
            "comment" => Self::Comment,
            "mark" => Self::Mark,
            _ => return Err(Problem::Unknown { what: "match", word: name.to_owned() }),
        })
    }

    /// The match whose options a rule may use after `-p` without naming the match.
    pub(crate) fn of_protocol(number: u8) -> Option<Self> {
        match number {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            SCTP => Some(Self::Sctp),
            ICMP => Some(Self::Icmp),
            ICMPV6 => Some(Self::Icmpv6),
            _ => None,
        }
    }

    /// The target that `-j` names, and its options if it has any. A name that is no target is
    /// a chain's.
    pub(crate) fn of_target(name: &str) -> Result<(Target, Option<Self>), Problem> {
        Ok(match name {
            "ACCEPT" => (Target::Accept, None),
            "DROP" => (Target::Drop, None),
            "RETURN" => (Target::Return, None),
            "REJECT" => (Target::Reject, Some(Self::ToReject)),
            "LOG" => (Target::Log { prefix: String::new() }, Some(Self::ToLog)),
            "NFLOG" => (Target::Log { prefix: String::new() }, Some(Self::ToNflog)),
            "MARK" => (Target::Mark { value: 0, mask: 0 }, Some(Self::ToMark)),
            chain if chain.len() <= CHAIN_LENGTH_MAX => (Target::Jump(chain.to_owned()), None),
            _ => return Err(Problem::Unknown { what: "target", word: name.to_owned() }),
        })
    }

    /// The problem of a module without options.
    pub(crate) fn must_have(self) -> Option<&'static str> {
        match self {
            Self::Multiport => Some("ports"),
            Self::Set => Some("--match-set"),
            Self::Conntrack => Some("--ctstate"),
            Self::State => Some("--state"),
            Self::Comment => Some("--comment"),
            Self::Mark => Some("--mark"),
            Self::HopLimit => Some("--hl-eq"),
            Self::Physdev => Some("a port"),
            Self::Hashlimit => Some("--hashlimit-upto"),
            Self::ToMark => Some("--set-xmark"),
            Self::Tcp
            | Self::Udp
            | Self::Sctp
            | Self::Icmp
            | Self::Icmpv6
            | Self::Limit
            | Self::ToLog
            | Self::ToNflog
            | Self::ToReject => None,
        }
    }

    /// Whether `!` may precede an option of this module.
    pub(crate) fn inverts(self) -> bool {
        match self {
            Self::Limit
            | Self::Hashlimit
            | Self::Comment
            | Self::ToLog
            | Self::ToNflog
            | Self::ToMark
            | Self::ToReject => false,
            Self::Tcp
            | Self::Udp
            | Self::Sctp
            | Self::Icmp
            | Self::Icmpv6
            | Self::Multiport
            | Self::Set
            | Self::Conntrack
            | Self::State
            | Self::HopLimit
            | Self::Physdev
            | Self::Mark => true,
        }
    }

    /// Adds the condition of `-m` without options, and checks that the rule has what it requires.
    pub(crate) fn begin(self, draft: &mut Draft) -> Result<(), Problem> {
        let (protocols, needs): (&[u8], _) = match self {
            Self::Tcp => (&[TCP], "-p tcp"),
            Self::Udp => (&[UDP], "-p udp"),
            Self::Sctp => (&[SCTP], "-p sctp"),
            Self::Icmp => (&[ICMP], "-p icmp"),
            Self::Icmpv6 => (&[ICMPV6], "-p ipv6-icmp"),
            Self::Multiport => (&[TCP, UDP, SCTP], "-p tcp, udp or sctp"),
            Self::Limit | Self::Hashlimit => {
                draft.matches.push(Condition { negated: false, question: Question::RateLimit });
                return Ok(());
            }
            Self::Set
            | Self::Conntrack
            | Self::State
            | Self::HopLimit
            | Self::Physdev
            | Self::Comment
            | Self::Mark
            | Self::ToLog
            | Self::ToNflog
            | Self::ToMark
            | Self::ToReject => return Ok(()),
        };
        if draft.is_about(protocols) {
            Ok(())
        } else {
            Err(Problem::Needs { what: format!("-m {self:?}").to_lowercase(), needs })
        }
    }

    /// Reads an option's value.
    pub(crate) fn read(
        self,
        draft: &mut Draft,
        option: &str,
        negated: bool,
        words: &mut Words,
    ) -> Result<(), Problem> {
        let question = match self {
            Self::Tcp => Some(tcp(option, words)?),
            Self::Udp => Some(port(option, words)?),
            Self::Sctp => Some(sctp(option, words)?),
            Self::Icmp => icmp(option, "--icmp-type", words)?,
            Self::Icmpv6 => icmp(option, "--icmpv6-type", words)?,
            Self::Multiport => Some(multiport(option, words)?),
            Self::Set => Some(set(option, words)?),
            Self::Conntrack => Some(states(option, "--ctstate", words)?),
            Self::State => Some(states(option, "--state", words)?),
            Self::HopLimit => Some(hop_limit(option, words)?),
            Self::Physdev => Some(physdev(option, words)?),
            Self::Mark => Some(mark(option, words)?),
            Self::Limit => limits::limit(option, words)?,
            Self::Hashlimit => limits::hashlimit(option, words)?,
            Self::Comment => comment(option, words)?,
            Self::ToLog => return targets::log(draft, option, words),
            Self::ToNflog => return targets::nflog(draft, option, words),
            Self::ToMark => return targets::mark(draft, option, words),
            Self::ToReject => return targets::reject(draft, option, words),
        };
        if question.is_none() && negated {
            // The kernel's `any` inverted matches no packet: such a rule is a mistake.
            return Err(Problem::Inverted(option.to_owned()));
        }
        draft.matches.extend(question.map(|question| Condition { negated, question }));
        Ok(())
    }
}

fn tcp(option: &str, words: &mut Words) -> Result<Question, Problem> {
    let (mask, compare) = match option {
        "--tcp-flags" => {
            (flags(&words.take("the flags' mask")?)?, flags(&words.take("the flags")?)?)
        }
        "--syn" => {
            let opening = TcpFlags::SYN.with(TcpFlags::RST).with(TcpFlags::ACK).with(TcpFlags::FIN);
            (opening, TcpFlags::SYN)
        }
        _ => return port(option, words),
    };
    Ok(Question::TcpFlags { mask, compare })
}

fn flags(word: &str) -> Result<TcpFlags, Problem> {
    word.split(',').try_fold(TcpFlags::NONE, |sum, flag| {
        Ok(sum.with(match flag {
            "FIN" => TcpFlags::FIN,
            "SYN" => TcpFlags::SYN,
            "RST" => TcpFlags::RST,
            "PSH" => TcpFlags::PSH,
            "ACK" => TcpFlags::ACK,
            "URG" => TcpFlags::URG,
            "ALL" => TcpFlags::ALL,
            "NONE" => TcpFlags::NONE,
            _ => return Err(Problem::Unknown { what: "flag", word: flag.to_owned() }),
        }))
    })
}

fn port(option: &str, words: &mut Words) -> Result<Question, Problem> {
    let of = match option {
        "--sport" => PortOf::Source,
        "--dport" => PortOf::Destination,
        _ => return Err(unknown_option(option)),
    };
    let ranges = vec![port_range(&words.take("a port")?, ':')?];
    Ok(Question::Ports { of, ranges })
}

fn multiport(option: &str, words: &mut Words) -> Result<Question, Problem> {
    let of = match option {
        "--sports" => PortOf::Source,
        "--dports" => PortOf::Destination,
        "--ports" => PortOf::Either,
        _ => return Err(unknown_option(option)),
    };
    let list = words.take("ports")?;
    let slots: usize = list.split(',').map(|word| word.split(':').count()).sum();
    if slots > MULTIPORT_MAX {
        let what = format!("the number of ports in `{list}`");
        return Err(Problem::Exceeds { what, limit: MULTIPORT_MAX });
    }
    let ranges = list.split(',').map(|word| port_range(word, ':')).collect::<Result<_, _>>()?;
    Ok(Question::Ports { of, ranges })
}

/// `TYPE`, `TYPE/CODE`, or a name of a type; `any` adds no condition.
fn icmp(option: &str, known: &str, words: &mut Words) -> Result<Option<Question>, Problem> {
    known_only(option, known)?;
    let word = words.take("an ICMP type")?;
    let (kind, codes) = match (known, word.as_str(), word.split_once('/')) {
        ("--icmp-type", "any", _) => return Ok(None),
        ("--icmp-type", "echo-request", _) => (8, (0, u8::MAX)),
        ("--icmp-type", "echo-reply", _) => (0, (0, u8::MAX)),
        ("--icmpv6-type", "echo-request", _) => (128, (0, u8::MAX)),
        ("--icmpv6-type", "echo-reply", _) => (129, (0, u8::MAX)),
        (_, _, None) => (parse(&word, "an ICMP type")?, (0, u8::MAX)),
        (_, _, Some((kind, code))) => {
            let code = parse(code, "an ICMP code")?;
            (parse(kind, "an ICMP type")?, (code, code))
        }
    };
    Ok(Some(Question::Icmp { kind, codes }))
}

fn set(option: &str, words: &mut Words) -> Result<Question, Problem> {
    known_only(option, "--match-set")?;
    let name = words.take("the set's name")?;
    let list = words.take("src or dst")?;
    let side = |word| match word {
        "src" => Ok(Side::Source),
        "dst" => Ok(Side::Destination),
        _ => Err(Problem::Bad { what: "src or dst", word: list.clone() }),
    };
    let sides = list.split(',').map(side).collect::<Result<Vec<_>, _>>()?;
    if sides.len() <= SIDES_MAX {
        Ok(Question::Set { name, sides })
    } else {
        Err(Problem::Bad { what: "src or dst", word: list })
    }
}

/// Reads a condition on chunks: only whether any is INIT.
fn sctp(option: &str, words: &mut Words) -> Result<Question, Problem> {
    if option != "--chunk-types" {
        return port(option, words);
    }
    for known in ["any", "INIT"] {
        let word = words.take("the types of chunks")?;
        if word != known {
            return Err(Problem::Unknown { what: "types of chunks", word });
        }
    }
    Ok(Question::SctpInit)
}

fn hop_limit(option: &str, words: &mut Words) -> Result<Question, Problem> {
    known_only(option, "--hl-eq")?;
    Ok(Question::HopLimit(words.parse("a hop limit")?))
}

fn physdev(option: &str, words: &mut Words) -> Result<Question, Problem> {
    let side = match option {
        "--physdev-in" => Side::Source,
        "--physdev-out" => Side::Destination,
        "--physdev-is-bridged" => return Ok(Question::IsBridged),
        _ => return Err(unknown_option(option)),
    };
    let name = InterfaceName::parse(words.take("an interface")?)?;
    Ok(Question::BridgePort { side, name })
}

fn states(option: &str, known: &str, words: &mut Words) -> Result<Question, Problem> {
    known_only(option, known)?;
    let list = words.take("states")?;
    let (translated, words): (Vec<&str>, Vec<&str>) = list.split(',').partition(|w| *w == "DNAT");
    let state = |word: &str| match word {
        "NEW" => Ok(ConntrackState::New),
        "ESTABLISHED" => Ok(ConntrackState::Established),
        "RELATED" => Ok(ConntrackState::Related),
        "INVALID" => Ok(ConntrackState::Invalid),
        "UNTRACKED" => Ok(ConntrackState::Untracked),
        _ => Err(Problem::Unknown { what: "state", word: list.clone() }),
    };
    let states = words.into_iter().map(state).collect::<Result<_, _>>()?;
    Ok(Question::State { states, or_translated: !translated.is_empty() })
}

fn mark(option: &str, words: &mut Words) -> Result<Question, Problem> {
    known_only(option, "--mark")?;
    let (value, mask) = value_and_mask(words)?;
    Ok(Question::Mark { value, mask })
}

fn comment(option: &str, words: &mut Words) -> Result<Option<Question>, Problem> {
    known_only(option, "--comment")?;
    text(words, "the comment", COMMENT_LENGTH_MAX).map(|_| None)
}
