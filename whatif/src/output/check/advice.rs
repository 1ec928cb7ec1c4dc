//! The advice for a connection that is denied, in words and as YAML.

use policy_engine::flow::Traffic;
use policy_engine::words::few;

use crate::advice::{Advice, Effect};
use crate::judge::Part;
use crate::output::words;

/// How many other changes are listed before the rest is counted.
const SHOWN: usize = 12;

/// Lines with the change that would allow the connection, and with its other effects.
pub(super) fn lines(part: &Part, advice: &Advice) -> Vec<String> {
    let asked = match part.flow.traffic {
        Traffic::Port(protocol, number) => words::port(protocol, number),
        Traffic::Other => "ICMP".to_owned(),
    };
    let mut lines = Vec::new();
    for blocked in &advice.blocked {
        let rules = words::rules(&blocked.rules);
        // The policy cannot be understood, so no rule can be placed before its rules.
        let how = if blocked.misplaced {
            "correct its policy, which cannot be understood".to_owned()
        } else {
            format!("change that rule, or accept {asked} in one before it")
        };
        lines.push(format!(
            "No NetworkPolicy can allow it: {rules} comes first. To allow it, {how}."
        ));
    }
    if let Some((rule, service, number)) = &advice.service_port {
        lines.push(format!(
            "{rule} lists {service}, the Service's port. Policies see the pod's: write {number}."
        ));
    }
    let Some(policies) = &advice.policies else {
        if !advice.unknown.is_empty() {
            let sides = few(&advice.unknown, SHOWN);
            lines.push(format!(
                "To allow it, add a NetworkPolicy with an ipBlock that contains the address of \
                 {sides}, which is not known."
            ));
        } else if advice.blocked.is_empty() {
            lines.push("None of the NetworkPolicies that were tried allows it.".to_owned());
        }
        return lines;
    };
    let these = if policies.count == 1 { "this policy" } else { "these policies" };
    lines.push(match (advice.blocked.is_empty(), part.asked.is_some()) {
        (true, true) => format!("To allow it, add {these}:"),
        (true, false) => format!("To allow {asked}, add {these}:"),
        (false, _) => {
            format!("The policies of the other direction deny it too. For them, add {these}:")
        }
    });
    lines.extend(policies.yaml.lines().map(|line| format!("  {line}")));
    let (allowed, denied) = (&policies.effects.allowed, &policies.effects.denied);
    if !allowed.is_empty() {
        lines.push("That would also allow:".to_owned());
        lines.extend(effects(allowed));
    }
    if !denied.is_empty() {
        lines.push(
            "That would isolate pods that are not isolated now. Without more rules, it would deny:"
                .to_owned(),
        );
        lines.extend(effects(denied));
    }
    lines
}

fn effects(all: &[Effect]) -> Vec<String> {
    let line = |effect: &Effect| {
        format!("  {}  from {}  to {}", words::ports(&effect.ports), effect.from, effect.to)
    };
    let mut lines: Vec<String> = all.iter().take(SHOWN).map(line).collect();
    let more = all.len().saturating_sub(SHOWN);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}
