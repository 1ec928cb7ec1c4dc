//! Why a packet was denied, as text. Names in it may come from files that were not validated: every
//! text returned here is one line of printable ASCII, of bounded length.

use std::fmt::{Display, Write as _};

use policy_engine::direction::Direction;
use policy_engine::engine::blame::Blame;
use policy_engine::flow::Flow;
use policy_engine::object::ObjectRef;
use policy_engine::tier::Tier;
use policy_engine::words::and_more;

use super::packet::Transport;
use crate::dataplane::denial::{Cause, Denial, Outcome};

const CHANGED: &str = "policies have changed since, or a part of their rules was refused";
const BY_CONNECTION: &str = "denied because conntrack does not know this TCP connection, and the packet may be \
                             an answer to a client that policies do not allow; if they allow it, the \
                             connection goes on when the client sends";
/// The longest name that the API server accepts has 253 + 1 + 253 characters.
const NAME_MAX: usize = 512;
/// Room for four policies, a peer, a rule and some text.
const WHY_MAX: usize = 7 * NAME_MAX;

/// A name in a form that is safe in a log line.
#[must_use]
pub fn name(of: &impl Display) -> String {
    plain(&of.to_string(), NAME_MAX)
}

/// Why the packet was or would be denied. `blame` is what the current policies find; `None` when
/// they allow the packet.
#[must_use]
pub fn why(denial: Denial, transport: Transport, flow: &Flow, blame: Option<&Blame>) -> String {
    match denial.cause {
        Cause::Policies(_) => {}
        Cause::Address => return by_address(denial.direction).to_owned(),
        Cause::Connection => return BY_CONNECTION.to_owned(),
    }
    let Some(blame) = blame else { return CHANGED.to_owned() };
    let mut text = cause(denial, transport, flow, blame);
    if let Some(closest) = &blame.closest {
        // Writing to memory cannot fail.
        let _ = write!(text, "; closest is {closest}");
    }
    if Cause::Policies(blame.tier) != denial.cause {
        let _ = write!(text, "; {CHANGED}");
    }
    plain(&text, WHY_MAX)
}

/// What denies the packet, without the rule that comes closest to allowing it.
#[must_use]
pub fn cause(denial: Denial, transport: Transport, flow: &Flow, blame: &Blame) -> String {
    let would_be = match denial.outcome {
        Outcome::Denied => "",
        Outcome::WouldDeny => "would be ",
    };
    match (blame.tier, &blame.denied_by) {
        (_, Some(by)) => format!("{would_be}denied by {by}"),
        (Tier::Admin | Tier::Baseline, None) => {
            format!("{would_be}denied by a ClusterNetworkPolicy of tier {}", blame.tier)
        }
        (Tier::NetworkPolicy | Tier::Default, None) => {
            let (towards, peer) = match denial.direction {
                Direction::Ingress => ("from", &flow.source),
                Direction::Egress => ("to", &flow.destination),
            };
            let by = policies(&blame.isolated_by, blame.isolating);
            format!("{would_be}isolated by {by}; no rule allows {transport} {towards} {peer}")
        }
    }
}

fn by_address(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => {
            "denied because the source is not an address of a known pod behind that interface: it is \
             forged, or the pod is not known yet"
        }
        Direction::Ingress => {
            "denied because the destination is not an address of a known pod behind that interface: \
             the pod is not known yet, or another pod answers for its address"
        }
    }
}

fn policies(named: &[ObjectRef], all: usize) -> String {
    let text = named.iter().map(ObjectRef::short).collect::<Vec<_>>().join(", ");
    and_more(text, all.saturating_sub(named.len()))
}

/// One line of printable ASCII: all other characters, `"` and `\` are escaped.
fn plain(text: &str, length_max: usize) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => plain.extend(letter.escape_default()),
            ' '..='~' => plain.push(letter),
            _ => plain.extend(letter.escape_default()),
        }
        if plain.len() >= length_max {
            plain.push_str("...");
            break;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use policy_engine::object::Kind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_cannot_end_its_line_or_its_quotation() {
        assert_eq!(plain("shop/web-1", 99), "shop/web-1");
        assert_eq!(plain("a\n{\"x\":1}\r\u{1b}[31m", 99), r#"a\n{\"x\":1}\r\u{1b}[31m"#);
        assert_eq!(plain("\u{202e}\u{2028}é\0", 99), r"\u{202e}\u{2028}\u{e9}\u{0}");
        assert_eq!(plain(&"x".repeat(9), 5), "xxxxx...");
    }

    #[test]
    fn a_few_policies_are_named_and_the_others_counted() {
        let policy = |n| ObjectRef::cluster(Kind::ClusterNetworkPolicy, format!("p{n}"));
        let all: Vec<ObjectRef> = (1..=4).map(policy).collect();
        let four = "ClusterNetworkPolicy/p1, ClusterNetworkPolicy/p2, ClusterNetworkPolicy/p3, \
                    ClusterNetworkPolicy/p4";
        assert_eq!(policies(&all[..4], 4), four);
        assert_eq!(policies(&all[..4], 5), format!("{four} and 1 more"));
        assert_eq!(policies(&all[..4], 10_000), format!("{four} and 9996 more"));
    }

    proptest! {
        #[test]
        fn every_text_is_printable(text in any::<String>()) {
            let plain = plain(&text, 64);
            prop_assert!(plain.len() <= 64 + 16);
            prop_assert!(plain.chars().all(|letter| (' '..='~').contains(&letter)), "{plain}");
        }
    }
}
