//! The policies of pods for people.

use std::io::{self, Write};

use policy_engine::words::few;

use super::{Applied, Group, Policies, Rule, Side};
use crate::output::check::json::AllowDeny;

/// How many names of pods are written out.
const PODS_SHOWN: usize = 6;

/// Writes the answer.
///
/// # Errors
/// When the output cannot be written.
pub fn text(policies: &Policies, out: &mut dyn Write) -> io::Result<()> {
    for (number, group) in policies.groups.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        self::group(group, out)?;
    }
    Ok(())
}

fn group(group: &Group, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", few(&group.pods, PODS_SHOWN))?;
    let sides = [("Ingress", "from", &group.ingress), ("Egress", "to", &group.egress)];
    for (title, preposition, side) in sides {
        writeln!(out, "  {title}: {}", summary(side))?;
        for policy in &side.policies {
            writeln!(out, "    {}", headline(policy))?;
            for rule in &policy.rules {
                writeln!(out, "      {}", line(rule, preposition))?;
            }
        }
    }
    Ok(())
}

fn summary(side: &Side) -> &'static str {
    match (side.otherwise, side.policies.is_empty()) {
        (AllowDeny::Allow, true) => "no policy applies; every connection is allowed",
        (AllowDeny::Allow, false) => "what no rule matches is allowed",
        (AllowDeny::Deny, _) => "what no rule matches is denied",
    }
}

fn headline(policy: &Applied) -> String {
    let mut words = vec![format!("{:?}", policy.tier)];
    words.extend(policy.priority.map(|priority| format!("priority {priority}")));
    words.extend(policy.isolates.then(|| "isolates".to_owned()));
    words.extend(policy.is_audit.then(|| "in audit: denies nothing".to_owned()));
    let unsure = "may apply: a part of it could not be understood, so it fails closed";
    words.extend(policy.is_unsure.then(|| unsure.to_owned()));
    format!("{} ({})", policy.policy, words.join(", "))
}

fn line(rule: &Rule, preposition: &str) -> String {
    let number = match rule.added_by {
        Some(field) => field.to_owned(),
        None => format!("rule {}", rule.rule),
    };
    let (peers, ports) = (rule.peers.join("; "), rule.ports.join(", "));
    format!("{number}: {} {ports} {preposition} {peers}", rule.action)
}
