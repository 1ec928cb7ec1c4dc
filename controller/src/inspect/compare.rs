//! Compares the rules of a chain in the kernel with the desired rules. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dataplane::inspection::RuleText;
use crate::dataplane::kernel_text::CountedRule;

/// A rule, and whether the kernel has it in the right place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct ComparedRule {
    /// The number in the kernel's chain, from 1, or the nftables handle; `None` if it is missing.
    pub number: Option<usize>,
    /// What follows `-A CHAIN`, or what `nft list` prints.
    pub rule: String,
    /// The effect of the rule as text for people; for an unexpected rule, the rule itself.
    pub words: String,
    /// How many packets the rule has matched; `None` if the kernel does not count them.
    pub packets: Option<u64>,
    /// Whether the kernel has the rule in the right place.
    pub state: RuleState,
    /// Whether the rule can match a packet of the inspected pod.
    pub concerns_pod: bool,
}

/// Whether the kernel has a rule in the right place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum RuleState {
    /// The kernel has the rule, in the right place.
    AsDesired,
    /// The kernel does not have the rule.
    Missing,
    /// The kernel has the rule, but it is not desired.
    Unexpected,
    /// The kernel has the rule, but in another order.
    Misplaced,
}

/// Compares a chain with the kernel; `kernel` is `None` if the kernel has no such chain.
pub(super) fn compare(desired: &[RuleText], kernel: Option<&[CountedRule]>) -> Vec<ComparedRule> {
    let kernel = kernel.unwrap_or_default();
    // The agent inserts new rules and a RETURN in front of the old rules, which it removes soon
    // after.
    let is_prefix = kernel.len() > desired.len()
        && desired.iter().zip(kernel).all(|(desired, is)| desired.rule == is.rule);
    let ends = kernel.get(desired.len()).is_some_and(|next| is_return(&next.rule));
    let kernel = if is_prefix && ends { &kernel[..desired.len()] } else { kernel };
    let in_order = desired.iter().map(|rule| &rule.rule).eq(kernel.iter().map(|rule| &rule.rule));
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, rule) in kernel.iter().enumerate().rev() {
        places.entry(&rule.rule).or_default().push(place);
    }
    let mut compared = Vec::new();
    for RuleText { rule, words, concerns_pod } in desired {
        let place = places.get_mut(rule.as_str()).and_then(Vec::pop);
        compared.push(ComparedRule {
            number: place.and_then(|place| kernel.get(place)).map(|rule| rule.number),
            rule: rule.clone(),
            words: words.clone(),
            packets: place.and_then(|place| kernel.get(place)).and_then(|rule| rule.packets),
            state: if place.is_some() { RuleState::AsDesired } else { RuleState::Missing },
            concerns_pod: *concerns_pod,
        });
    }
    let mut unexpected: Vec<usize> = places.into_values().flatten().collect();
    unexpected.sort_unstable();
    let complete =
        unexpected.is_empty() && compared.iter().all(|rule| rule.state == RuleState::AsDesired);
    if complete && !in_order {
        for (rule, is) in compared.iter_mut().zip(kernel) {
            if rule.rule != is.rule {
                rule.state = RuleState::Misplaced;
            }
        }
    }
    let rules = unexpected.into_iter().filter_map(|place| kernel.get(place));
    compared.extend(rules.map(|rule| ComparedRule {
        number: Some(rule.number),
        rule: rule.rule.clone(),
        words: rule.rule.clone(),
        packets: rule.packets,
        state: RuleState::Unexpected,
        concerns_pod: true,
    }));
    compared
}

/// Whether a rule of either backend returns every packet.
fn is_return(rule: &str) -> bool {
    ["-j RETURN", "return"].contains(&rule)
}

impl ComparedRule {
    /// How the chain differs at this rule; `None` if it does not.
    pub(super) fn what(&self) -> Option<String> {
        let Self { rule, words, .. } = self;
        match self.state {
            RuleState::AsDesired => None,
            RuleState::Missing => Some(format!("lacks the rule `{rule}` ({words})")),
            RuleState::Unexpected => {
                Some(format!("has the rule `{rule}`, which is not the agent's"))
            }
            RuleState::Misplaced => Some(format!("has the rule `{rule}` in another place")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(desired: &[&str], kernel: &[&str], expected: &[(&str, RuleState)]) {
        let desired: Vec<RuleText> = desired
            .iter()
            .map(|rule| RuleText {
                rule: (*rule).to_owned(),
                words: String::new(),
                concerns_pod: true,
            })
            .collect();
        let kernel: Vec<CountedRule> = kernel
            .iter()
            .enumerate()
            .map(|(index, rule)| CountedRule {
                rule: (*rule).to_owned(),
                number: index + 1,
                packets: Some(1),
            })
            .collect();
        let compared = compare(&desired, Some(&kernel));
        let found: Vec<_> = compared.iter().map(|rule| (rule.rule.as_str(), rule.state)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_rule_is_as_desired_missing_or_unexpected() {
        use RuleState::{AsDesired, Misplaced, Missing, Unexpected};
        check(&["a", "b"], &["a", "b"], &[("a", AsDesired), ("b", AsDesired)]);
        check(&["a", "b"], &["a"], &[("a", AsDesired), ("b", Missing)]);
        check(&["a", "a"], &["a"], &[("a", AsDesired), ("a", Missing)]);
        check(&["a"], &["x", "a"], &[("a", AsDesired), ("x", Unexpected)]);
        check(&["a", "b"], &["b", "a"], &[("a", Misplaced), ("b", Misplaced)]);
        assert_eq!(compare(&[], None), []);
    }

    #[test]
    fn old_rules_behind_new_ones_are_ignored_because_no_packet_reaches_them() {
        use RuleState::{AsDesired, Unexpected};
        check(&["a"], &["a", "-j RETURN", "old"], &[("a", AsDesired)]);
        check(&["a"], &["a", "return", "old"], &[("a", AsDesired)]);
        check(&["a"], &["a", "old"], &[("a", AsDesired), ("old", Unexpected)]);
    }
}
