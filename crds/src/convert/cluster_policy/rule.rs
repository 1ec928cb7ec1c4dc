//! One rule of a ClusterNetworkPolicy.
//!
//! A part that cannot be understood matches nothing in an Accept rule. In a Deny or Pass rule this
//! would allow connections, so the rule denies everything. So does a rule whose action cannot be
//! understood.

use policy_engine::direction::Direction;
use policy_engine::policy::{OrderedRule, Peer, Peers, PortMatch, Ports, Rule};
use policy_engine::tier::Action;

use super::effects::{EVERYTHING, Effects};
use super::peer::peers;
use super::port::ports;
use crate::decode::{Field, wanted};
use crate::path::Path;
use crate::report::Report;

const DENIES: &str = "this rule denies what it matches";
const ACTIONS: [Action; 3] = [Action::Accept, Action::Deny, Action::Pass];

/// The rule at `field`.
pub(super) fn rule(
    field: &Field<'_>,
    direction: Direction,
    report: &mut Report<'_>,
) -> OrderedRule {
    if !field.value.is_object() {
        let found = wanted("a mapping", field.value);
        report.error(&field.path, format!("{found}; {EVERYTHING}"));
        return OrderedRule::deny_everything();
    }
    let action = action(field, report);
    let effects = Effects::of(action);
    let (from_or_to, protocols) = (direction.peers_field(), "protocols");
    let known = ["name", "action", from_or_to, protocols];
    let mut strange = field.has_unknown(&known, report, effects.rule);
    for name in ["name", from_or_to, protocols] {
        strange |= field.repeats(name, report, effects.rule);
    }
    let peers = peers(field, direction, &effects, report);
    let ports = ports(field, protocols, &effects, report);
    report_useless_names(&peers, &ports, &field.path.key(protocols), report);
    let invalid_port = match &ports {
        Ports::Any => false,
        Ports::Listed(ports) => ports.contains(&PortMatch::Invalid),
    };
    let understood = !strange && !invalid_port && !peers.contains(&Peer::Invalid);
    match action {
        Some(Action::Accept) => {
            let peers = Peers::Listed(if strange { Vec::new() } else { peers });
            OrderedRule { action: Action::Accept, rule: Rule { peers, ports } }
        }
        Some(Action::Deny | Action::Pass) | None if !understood => OrderedRule::deny_everything(),
        Some(Action::Deny) | None => {
            OrderedRule { action: Action::Deny, rule: Rule { peers: Peers::Listed(peers), ports } }
        }
        Some(Action::Pass) => {
            OrderedRule { action: Action::Pass, rule: Rule { peers: Peers::Listed(peers), ports } }
        }
    }
}

fn action(rule: &Field<'_>, report: &mut Report<'_>) -> Option<Action> {
    const HINT: &str = "write Accept, Deny or Pass";
    if rule.repeats("action", report, DENIES) {
        return None;
    }
    let Some(field) = rule.get("action") else {
        report.error(&rule.path.key("action"), format!("is missing; {DENIES}; {HINT}"));
        return None;
    };
    let text = field.text(report, DENIES)?;
    let found = ACTIONS.into_iter().find(|action| action.as_str() == text);
    if found.is_none() {
        report.error(&field.path, format!("`{text}` is no action ({HINT}); {DENIES}"));
    }
    found
}

/// SEMANTICS of ports by name: pods have names for ports, networks and nodes do not.
fn report_useless_names(peers: &[Peer], ports: &Ports, path: &Path<'_>, report: &mut Report<'_>) {
    let has_name = match ports {
        Ports::Any => false,
        Ports::Listed(ports) => ports.iter().any(|port| matches!(port, PortMatch::Named(..))),
    };
    if has_name && peers.iter().any(|peer| matches!(peer, Peer::Block(_) | Peer::Nodes(_))) {
        let message = "has a port by name, which only pods have: with `networks` and `nodes` it \
                       matches nothing";
        report.error(path, message);
    }
}
