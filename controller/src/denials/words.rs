//! Why a packet was denied, in words. Names in them may come from files that nobody validated: all
//! that leaves here is one line of printable ASCII, of bounded length.

use std::fmt::{Display, Write as _};

use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::Explanation;
use policy_engine::flow::Flow;
use policy_engine::model::Direction;
use policy_engine::tier::{ALLOW_DNS, PolicyRef};

use super::packet::Transport;
use crate::dataplane::denial::{Denial, Outcome};

/// How many isolating policies are named.
const POLICIES_NAMED: usize = 4;
/// The longest name that the API server lets through is 253 + 1 + 253 characters.
const NAME_MAX: usize = 512;
const WHY_MAX: usize = 4 * NAME_MAX;

/// A name as it may be logged.
#[must_use]
pub fn name(of: &impl Display) -> String {
    plain(&of.to_string(), NAME_MAX)
}

/// Why the packet was, or would be, denied: as the policies are by now.
#[must_use]
pub fn why(denial: Denial, transport: Transport, flow: &Flow, explained: &Explanation) -> String {
    let decision = explained.verdict.decision(denial.direction);
    if decision.is_allowed() {
        return "policies have changed since".to_owned();
    }
    let misses = match denial.direction {
        Direction::Ingress => &explained.ingress,
        Direction::Egress => &explained.egress,
    };
    let mut text = match decision.reason {
        Reason::RuleDenies => by_rule(denial.outcome, decision),
        _ => by_isolation(denial, transport, flow, decision),
    };
    // Only isolation leaves something that could have admitted it.
    if decision.reason != Reason::RuleDenies
        && let Some(closest) = misses.first()
    {
        // Writing to memory cannot fail.
        let _ = write!(text, "; closest is {}", rule(&closest.rule));
    }
    if decision.tier != Some(denial.tier) {
        text.push_str("; policies have changed since");
    }
    plain(&text, WHY_MAX)
}

fn by_rule(outcome: Outcome, decision: &Decision) -> String {
    let denied = match outcome {
        Outcome::Denied => "denied",
        Outcome::WouldDeny => "would be denied",
    };
    match decision.decided_by.first() {
        Some(decided) => format!("{denied} by {}", rule(decided)),
        None => denied.to_owned(),
    }
}

fn by_isolation(denial: Denial, transport: Transport, flow: &Flow, decision: &Decision) -> String {
    let isolated = match denial.outcome {
        Outcome::Denied => "isolated",
        Outcome::WouldDeny => "would be isolated",
    };
    let (towards, peer) = match denial.direction {
        Direction::Ingress => ("from", &flow.source),
        Direction::Egress => ("to", &flow.destination),
    };
    let by = policies(&decision.isolated_by);
    format!("{isolated} by {by}; no rule admits {transport} {towards} {peer}")
}

fn policies(all: &[PolicyRef]) -> String {
    let named: Vec<String> = all.iter().take(POLICIES_NAMED).map(ToString::to_string).collect();
    let mut text = named.join(", ");
    if let Some(others) = all.len().checked_sub(named.len() + 1) {
        let _ = write!(text, " and {} more", others + 1);
    }
    text
}

fn rule(of: &RuleRef) -> String {
    match of.rule {
        ALLOW_DNS => format!("{} allowDNS", of.policy),
        number => format!("{} rule {number}", of.policy),
    }
}

/// One line of printable ASCII: everything else, and what would end a quotation, is escaped.
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
        let all: Vec<PolicyRef> =
            (1..=6).map(|n| PolicyRef::ClusterNetworkPolicy(format!("p{n}").into())).collect();
        let four = "ClusterNetworkPolicy/p1, ClusterNetworkPolicy/p2, ClusterNetworkPolicy/p3, \
                    ClusterNetworkPolicy/p4";
        assert_eq!(policies(&all[..4]), four);
        assert_eq!(policies(&all[..5]), format!("{four} and 1 more"));
        assert_eq!(policies(&all), format!("{four} and 2 more"));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_printable(text in any::<String>()) {
            let plain = plain(&text, 64);
            prop_assert!(plain.len() <= 64 + 16);
            prop_assert!(plain.chars().all(|letter| (' '..='~').contains(&letter)), "{plain}");
        }
    }
}
