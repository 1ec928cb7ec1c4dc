//! Words for messages: lists of names, ports, decisions and selectors, the same in every output.

use std::fmt::Display;

use crate::evaluate::{Decision, Reason, RuleRef};
use crate::labels::Str;
use crate::object::ObjectRef;
use crate::policy::{Namespaces, PodPeer};
use crate::reach::PortSet;
use crate::selector::{Operator, Requirement, Selector};
use crate::tier::Tier;

/// `0.1.0 (commit 1a2b3c4d)`, or the version alone of a program whose build named no commit.
#[must_use]
pub fn version(version: &str, commit: Option<&str>) -> String {
    match commit {
        None | Some("") => version.to_owned(),
        Some(commit) => format!("{version} (commit {commit})"),
    }
}

/// `a, b, c and 2 more`: the first `shown` of the names, and how many others there are.
#[must_use]
pub fn few(names: impl IntoIterator<Item = impl Display>, shown: usize) -> String {
    let mut names = names.into_iter();
    let first: Vec<String> = names.by_ref().take(shown).map(|name| name.to_string()).collect();
    and_more(first.join(", "), names.count())
}

/// `named`, and how many others there are.
#[must_use]
pub fn and_more(named: String, others: usize) -> String {
    if others == 0 { named } else { format!("{named} and {others} more") }
}

/// Ports as a person writes them: `80/TCP`, `8000-8999/TCP, all UDP`, `every port`.
#[must_use]
pub fn ports(set: &PortSet) -> String {
    if set.is_everything() {
        return "every port".to_owned();
    }
    if set.is_empty() {
        return "nothing".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    for (protocol, range) in set.iter() {
        words.push(if set.is_whole(protocol) {
            format!("all {protocol}")
        } else {
            format!("{range}/{protocol}")
        });
    }
    if set.has_other() {
        words.push("ICMP".to_owned());
    }
    words.join(", ")
}

/// What rules did, and of which tier they are where not NetworkPolicy's: `denied by
/// ClusterNetworkPolicy/guard rule 2 (Admin)`.
#[must_use]
pub fn decided(decision: &Decision) -> String {
    let verb = match decision.reason {
        Reason::RuleAllows => "allowed",
        Reason::RuleDenies => "denied",
        _ => "accepted",
    };
    let tier = match decision.tier {
        Some(tier @ (Tier::Admin | Tier::Baseline)) => format!(" ({tier})"),
        Some(Tier::NetworkPolicy | Tier::Default) | None => String::new(),
    };
    format!("{verb} by {}{tier}", rules(&decision.decided_by))
}

/// Several rules: `shop/db rule 1, shop/all rule 2`.
#[must_use]
pub fn rules(all: &[RuleRef]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Which policies isolate: `isolated by shop/db, shop/all`.
#[must_use]
pub fn isolated(decision: &Decision) -> String {
    let names: Vec<String> = decision.isolated_by.iter().map(ObjectRef::short).collect();
    format!("isolated by {}", names.join(", "))
}

/// The pods that a peer matches: `pods with app=web in namespace shop`.
#[must_use]
pub fn pod_peer(peer: &PodPeer) -> String {
    let namespaces = match &peer.namespaces {
        Namespaces::Named(name) => format!("in namespace {name}"),
        Namespaces::Selected(selector) => match selected(selector) {
            None => "in every namespace".to_owned(),
            Some(labels) => format!("in namespaces with {labels}"),
        },
        Namespaces::Own => "in the namespace of the pod".to_owned(),
    };
    match selected(&peer.pods) {
        None => format!("every pod {namespaces}"),
        Some(labels) => format!("pods with {labels} {namespaces}"),
    }
}

/// The nodes that a selector matches: `nodes with zone=a`.
#[must_use]
pub fn nodes(selector: &Selector) -> String {
    selected(selector)
        .map_or_else(|| "every node".to_owned(), |labels| format!("nodes with {labels}"))
}

/// A selector as kubectl writes it; `None` where it matches everything.
fn selected(selector: &Selector) -> Option<String> {
    (!selector.is_everything()).then(|| requirements(selector.requirements().as_slice()))
}

/// Requirements as kubectl writes selectors: `app=web,tier in (a,b),!canary`.
#[must_use]
pub fn requirements(all: &[Requirement]) -> String {
    all.iter().map(requirement).collect::<Vec<_>>().join(",")
}

fn requirement(requirement: &Requirement) -> String {
    let key = &requirement.key;
    let list = |values: &[Str]| values.join(",");
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        Operator::In(values) => format!("{key} in ({})", list(values)),
        Operator::NotIn(values) if values.len() == 1 => format!("{key}!={}", list(values)),
        Operator::NotIn(values) => format!("{key} notin ({})", list(values)),
        Operator::Exists => key.to_string(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_the_commit_if_the_build_named_one() {
        assert_eq!(version("0.1.0", None), "0.1.0");
        assert_eq!(version("0.1.0", Some("")), "0.1.0");
        assert_eq!(version("0.1.0", Some("1a2b")), "0.1.0 (commit 1a2b)");
    }

    #[test]
    fn a_few_names_are_shown_and_the_others_counted() {
        assert_eq!(few(["a", "b", "c"], 3), "a, b, c");
        assert_eq!(few(["a", "b", "c", "d", "e"], 3), "a, b, c and 2 more");
        assert_eq!(few([""; 0], 3), "");
    }
}
