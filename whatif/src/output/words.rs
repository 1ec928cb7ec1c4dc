//! Words for ports, selectors and near misses, the same in every output.

use std::collections::BTreeSet;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::{PeerMiss, PortMiss};
use policy_engine::flow::Traffic;
use policy_engine::labels::{Labels, Str};
use policy_engine::object::ObjectRef;
use policy_engine::port::Protocol;
use policy_engine::reach::PortSet;
use policy_engine::selector::{Operator, Requirement};
use policy_engine::tier::Tier;

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

/// One port: `80/TCP`.
#[must_use]
pub fn port(protocol: Protocol, number: u16) -> String {
    format!("{number}/{protocol}")
}

/// Addresses outside: `anywhere`, a few networks, or `10.0.0.0/8 but 10.1.0.0/16`.
#[must_use]
pub fn addresses(set: &CidrSet) -> String {
    const SHOWN: usize = 4;
    if set.is_everything() {
        return "anywhere".to_owned();
    }
    let few = |nets: &[ipnet::IpNet]| {
        let more = nets.len().saturating_sub(SHOWN);
        let shown: Vec<String> = nets.iter().take(SHOWN).map(ToString::to_string).collect();
        let shown = shown.join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    let mut words = Vec::new();
    for family in Family::BOTH {
        let inside = set.networks(family);
        let Some(around) = around(&inside) else { continue };
        let holes = CidrSet::network(around).difference(set).networks(family);
        words.push(if inside.len() > holes.len() && !holes.is_empty() {
            format!("{around} but {}", few(&holes))
        } else {
            few(&inside)
        });
    }
    words.join(", ")
}

/// The smallest network that holds all of these, of one family.
fn around(nets: &[ipnet::IpNet]) -> Option<ipnet::IpNet> {
    let mut around = *nets.first()?;
    while !nets.iter().all(|net| around.contains(net)) {
        around = around.supernet()?;
    }
    Some(around)
}

/// Nodes by name, a few of many: `node/n1, node/n2 and 3 more`.
#[must_use]
pub fn nodes(names: &BTreeSet<Str>) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("node/{name}")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// The fewest networks that cover a set.
#[must_use]
pub fn networks(set: &CidrSet) -> Vec<String> {
    let nets = Family::BOTH.into_iter().flat_map(|family| set.networks(family));
    nets.map(|net| net.to_string()).collect()
}

/// What rules did, and of which tier they are where not NetworkPolicy's: `denied by
/// ClusterNetworkPolicy/guard rule 2 (Admin)`.
#[must_use]
pub fn decided(decision: &Decision) -> String {
    let verb = match decision.reason {
        Reason::RuleAdmits => "admitted",
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

/// Which rules left it to the next tier, to stand before why that decided: `passed on by
/// ClusterNetworkPolicy/guard rule 1; `. Nothing when none did.
#[must_use]
pub fn passed(decision: &Decision) -> String {
    match decision.passed_by.as_slice() {
        [] => String::new(),
        all => format!("passed on by {}; ", rules(all)),
    }
}

/// Why a peer does not match: what it wanted and what there is.
#[must_use]
pub fn peer_miss(miss: &PeerMiss) -> String {
    match miss {
        PeerMiss::NotAPod => "is for pods, and the other side is none".to_owned(),
        PeerMiss::OtherNamespace { wanted } => format!("is for pods of namespace {wanted}"),
        PeerMiss::NamespaceLabels { failed, had } => {
            let had = match had {
                None => "the namespace is not known".to_owned(),
                Some(labels) => format!("the namespace has {}", had_of(failed, labels)),
            };
            format!("wants a namespace with {}; {had}", requirements(failed))
        }
        PeerMiss::PodLabels { failed, had } => {
            let had = had_of(failed, had);
            format!("wants a pod with {}; it has {had}", requirements(failed))
        }
        PeerMiss::NoAddress => "is an ipBlock, and the pod has no address yet".to_owned(),
        PeerMiss::OutsideBlock(address) => format!("is an ipBlock without {address}"),
        PeerMiss::InExcept(address) => format!("is an ipBlock whose except takes out {address}"),
        PeerMiss::NotANode => "is for nodes, and the other side is none".to_owned(),
        PeerMiss::NodeLabels { failed, had } => {
            let had = match had {
                None => "the node is not known".to_owned(),
                Some(labels) => format!("the node has {}", had_of(failed, labels)),
            };
            format!("wants a node with {}; {had}", requirements(failed))
        }
        PeerMiss::Invalid => "cannot be understood, so it matches nothing".to_owned(),
    }
}

/// Why a port does not match.
#[must_use]
pub fn port_miss(miss: &PortMiss, asked: Traffic) -> String {
    match miss {
        PortMiss::OtherProtocol(protocol) => format!("is for {protocol}, not {asked}"),
        PortMiss::OutsideRange(range) => match asked {
            Traffic::Port(protocol, number) => format!("is {range}/{protocol}, not {number}"),
            Traffic::Other => format!("is {range}"),
        },
        PortMiss::NameMissing { name, had } => {
            let mut names: Vec<String> = had
                .iter()
                .map(|port| format!("{} ({}/{})", port.name, port.number, port.protocol))
                .collect();
            names.dedup();
            let had = if names.is_empty() {
                "the destination names no ports".to_owned()
            } else {
                format!("the destination has {}", names.join(", "))
            };
            format!("is the port called {name}; {had}")
        }
        PortMiss::NameElsewhere { name, numbers } => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            format!("is the port called {name}, which is {} there", numbers.join(" and "))
        }
        PortMiss::NameWithoutLabels => {
            "is a port by name, which is for pods selected by labels".to_owned()
        }
        PortMiss::NoPorts => "is for a protocol with ports".to_owned(),
        PortMiss::Invalid => "cannot be understood, so it matches nothing".to_owned(),
    }
}

/// Requirements as kubectl writes selectors: `app=web,tier in (a,b),!canary`.
#[must_use]
pub fn requirements(all: &[Requirement]) -> String {
    all.iter().map(requirement).collect::<Vec<_>>().join(",")
}

fn requirement(requirement: &Requirement) -> String {
    let key = &requirement.key;
    let list = |values: &std::collections::BTreeSet<Str>| {
        values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",")
    };
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
        Operator::In(values) => format!("{key} in ({})", list(values)),
        Operator::NotIn(values) if values.len() == 1 => format!("{key}!={}", list(values)),
        Operator::NotIn(values) => format!("{key} notin ({})", list(values)),
        Operator::Exists => key.to_string(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

/// What labels have of the keys that requirements ask for.
fn had_of(failed: &[Requirement], labels: &Labels) -> String {
    let had = failed.iter().map(|requirement| match labels.get(&requirement.key) {
        Some(value) if value.is_empty() => format!("{}=\"\"", requirement.key),
        Some(value) => format!("{}={value}", requirement.key),
        None => format!("no label {}", requirement.key),
    });
    let mut had: Vec<String> = had.collect();
    had.dedup();
    had.join(", ")
}
