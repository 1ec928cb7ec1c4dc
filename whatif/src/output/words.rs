//! Words for addresses, nodes and near misses, the same in every output.

use std::collections::BTreeSet;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::evaluate::Decision;
use policy_engine::explain::{PeerMiss, PortMiss};
use policy_engine::flow::Traffic;
use policy_engine::labels::{Labels, Str};
use policy_engine::port::Protocol;
use policy_engine::selector::Requirement;
use policy_engine::words::few;
pub use policy_engine::words::{decided, isolated, ports, requirements, rules};

/// One port: `80/TCP`.
#[must_use]
pub fn port(protocol: Protocol, number: u16) -> String {
    format!("{number}/{protocol}")
}

/// External addresses as one side of a connection; one word for all of them.
#[must_use]
pub fn external(set: &CidrSet) -> String {
    if set.is_everything() {
        "external".to_owned()
    } else {
        format!("external: {}", addresses(set))
    }
}

/// External addresses: `anywhere`, a few networks, or `10.0.0.0/8 but 10.1.0.0/16`.
#[must_use]
pub fn addresses(set: &CidrSet) -> String {
    const SHOWN: usize = 4;
    if set.is_everything() {
        return "anywhere".to_owned();
    }
    let mut words = Vec::new();
    for family in Family::BOTH {
        let inside = set.networks(family);
        let Some(around) = around(&inside) else { continue };
        let holes = CidrSet::network(around).difference(set).networks(family);
        words.push(if inside.len() > holes.len() && !holes.is_empty() {
            format!("{around} but {}", few(&holes, SHOWN))
        } else {
            few(&inside, SHOWN)
        });
    }
    words.join(", ")
}

/// The smallest network that holds all of these, of one family.
pub(crate) fn around(nets: &[ipnet::IpNet]) -> Option<ipnet::IpNet> {
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
    few(names.iter().map(|name| format!("node/{name}")), SHOWN)
}

/// The fewest networks that cover a set.
#[must_use]
pub fn networks(set: &CidrSet) -> Vec<String> {
    let nets = Family::BOTH.into_iter().flat_map(|family| set.networks(family));
    nets.map(|net| net.to_string()).collect()
}

/// The rules that passed the flow on to the next tier, for use before the reason of that tier:
/// `passed on by ClusterNetworkPolicy/guard rule 1; `. Empty when no rule did.
#[must_use]
pub fn passed(decision: &Decision) -> String {
    match decision.passed_by.as_slice() {
        [] => String::new(),
        all => format!("passed on by {}; ", rules(all)),
    }
}

/// The reason why a peer does not match: what the rule requires, and what the endpoint has.
#[must_use]
pub fn peer_miss(miss: &PeerMiss) -> String {
    match miss {
        PeerMiss::NotAPod => "is for pods, and the other side is none".to_owned(),
        PeerMiss::Contested(address) => {
            format!("is for pods, and pods of two nodes claim {address}")
        }
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

/// The reason why a port does not match.
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

/// The labels under the keys that requirements name.
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
