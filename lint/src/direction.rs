//! Directions for which a policy has rules, and which it does not isolate.

use policy_engine::direction::Direction;
use policy_engine::policy::Policy;

use crate::{Code, Context, Finding, finding, name_field, spec};

/// Findings for a direction that `policyTypes` lacks, although the policy has a list of rules for
/// it or a name such as `deny-all-egress`.
pub(super) fn not_enforced(context: &Context<'_>, policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for direction in Direction::BOTH {
        if policy.isolates(direction) {
            continue;
        }
        let rules = direction.field();
        let written = context.input.documents.get(&policy.name);
        let written = written.and_then(|document| document.value().get("spec")?.get(rules));
        let how = format!("add {direction} to `policyTypes`");
        let (field, message) = match written {
            Some(rules_there) if rules_there.as_array().is_some_and(|list| !list.is_empty()) => (
                spec(rules),
                format!(
                    "the rules have no effect, for `policyTypes` does not list {direction}; {how}, \
                     or remove them"
                ),
            ),
            Some(_) => (
                spec(rules),
                format!(
                    "denies nothing, for `policyTypes` does not list {direction}; {how} to deny \
                     {rules}"
                ),
            ),
            None if names_denial(&policy.name.name, direction) => (
                name_field(),
                format!("the name says that {rules} is denied, and it is not; {how}"),
            ),
            None => continue,
        };
        found.push(finding(Code::DirectionNotEnforced, &policy.name, field, message));
    }
    found
}

/// Whether a name such as `deny-all-egress` states that only this direction is denied.
fn names_denial(name: &str, direction: Direction) -> bool {
    let other = direction.opposite();
    let has = |word: &str| name.contains(word);
    has("deny") && has(direction.field()) && !has(other.field()) && !has("allow")
}
