//! Denials that agents logged, as connections that policies can allow.

use std::fmt;
use std::net::IpAddr;

use policy_engine::cidr::CidrSet;
use policy_engine::flow::Traffic;
use policy_engine::model::PodKey;
use policy_engine::port::Protocol;

use crate::denials::Record;
use crate::endpoint::{Party, Resolved, Side};
use crate::model::{Cluster, Workload, WorkloadRef};

/// A connection that was denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Denial {
    /// `namespace/pod`, `node/NAME` or an address.
    pub(super) source: String,
    /// As `source`.
    pub(super) destination: String,
    pub(super) traffic: Traffic,
}

/// The reason why a policy cannot allow a denial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Unreadable {
    /// The agent had no room to name the two sides.
    NotNamed,
    /// The packet had an address that its pod does not have.
    ByAddress,
    /// Conntrack did not know its TCP connection.
    ByConnection,
    /// A field is missing or has an unknown value.
    Malformed,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotNamed => "the agent had no room to name the source and the destination",
            Self::ByAddress => "it was denied because of a forged or unknown address",
            Self::ByConnection => {
                "it is in the middle of a TCP connection that conntrack does not know"
            }
            Self::Malformed => "a field is missing, or has a value that is not known",
        })
    }
}

/// The denial that a line reports; `None` if the line is no record of a denial.
pub(super) fn read(line: &str) -> Result<Option<Denial>, Unreadable> {
    let Some(record) = Record::read(line) else { return Ok(None) };
    match record.tier.as_deref() {
        Some("Address") => return Err(Unreadable::ByAddress),
        Some("Connection") => return Err(Unreadable::ByConnection),
        _ => {}
    }
    let (Some(source), Some(destination)) = (record.source, record.destination) else {
        return Err(Unreadable::NotNamed);
    };
    let protocol = record.protocol.ok_or(Unreadable::Malformed)?;
    let known = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol);
    let traffic = match known {
        None => Traffic::Other,
        Some(protocol) => {
            let port = record.port.filter(|port| *port > 0).ok_or(Unreadable::Malformed)?;
            Traffic::Port(protocol, port)
        }
    };
    Ok(Some(Denial { source, destination, traffic }))
}

/// The two sides of a denial: all pods of a workload for one of them. The error is the word that no
/// endpoint has as its name.
pub(super) fn sides(cluster: &Cluster, denial: &Denial) -> Result<(Resolved, Resolved), String> {
    let side = |word: &str| side(cluster, word).ok_or_else(|| word.to_owned());
    Ok((side(&denial.source)?, side(&denial.destination)?))
}

fn side(cluster: &Cluster, word: &str) -> Option<Resolved> {
    let one = |name: String, side| {
        let parties = vec![Party { name: name.clone(), side, ports: Vec::new() }];
        Some(Resolved { name, parties, notes: Vec::new() })
    };
    if let Ok(address) = word.parse::<IpAddr>() {
        return one(word.to_owned(), Side::Outside(CidrSet::network(address.into())));
    }
    let (namespace, name) = word.split_once('/')?;
    if namespace == "node" && cluster.world.nodes().contains_key(name) {
        return one(word.to_owned(), Side::Node(name.into(), None));
    }
    let key = PodKey::new(namespace, name);
    if let Some(pod) = cluster.world.pods().get(&key) {
        let workload = cluster.workload_of(&key).filter(|_| pod.takes_part());
        return match workload.and_then(|name| cluster.workloads.get_key_value(name)) {
            Some((name, workload)) => all_of(cluster, name, workload),
            None => one(cluster.pod_ref(&key), Side::Pod(key, None)),
        };
    }
    // The pod was deleted. Its workload is the one with whose name the pod's name begins.
    let made = |(workload, _): &(&WorkloadRef, &Workload)| {
        let suffix = name.strip_prefix(&*workload.name).and_then(|rest| rest.strip_prefix('-'));
        let parts = suffix.map_or(0, |suffix| suffix.split('-').count());
        let expected = match &*workload.kind {
            "deployment" | "cronjob" => 2,
            "statefulset" | "daemonset" | "replicaset" | "job" => 1,
            _ => return false,
        };
        *workload.namespace == *namespace && parts == expected
    };
    let (name, workload) = cluster.workloads.iter().find(made)?;
    all_of(cluster, name, workload)
}

/// All pods of a workload.
fn all_of(cluster: &Cluster, name: &WorkloadRef, workload: &Workload) -> Option<Resolved> {
    let takes_part =
        |key: &&PodKey| cluster.world.pods().get(*key).is_some_and(|pod| pod.takes_part());
    let party = |key: &PodKey| Party {
        name: name.to_string(),
        side: Side::Pod(key.clone(), None),
        ports: Vec::new(),
    };
    let parties: Vec<Party> = workload.pods.iter().filter(takes_part).map(party).collect();
    let resolved = Resolved { name: name.to_string(), parties, notes: Vec::new() };
    (!resolved.parties.is_empty()).then_some(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"[pod/portcullis-node-x/agent] 2026-11-21T13:54:34.167696Z  INFO denied node="n2" verdict="Denied" direction="Ingress" tier="NetworkPolicy" source="shop/web" source_address=10.9.1.2 destination="shop/api" destination_address=10.9.2.2 protocol="TCP" port=5432 why="isolated by shop/api; source=no" count=1"#;

    fn check(line: &str, expected: Result<Option<(&str, &str, Traffic)>, Unreadable>) {
        let expected = expected.map(|found| {
            found.map(|(source, destination, traffic)| Denial {
                source: source.to_owned(),
                destination: destination.to_owned(),
                traffic,
            })
        });
        assert_eq!(read(line), expected, "{line}");
    }

    #[test]
    fn records_of_both_formats_are_read() {
        let tcp = Traffic::Port(Protocol::Tcp, 5432);
        check(TEXT, Ok(Some(("shop/web", "shop/api", tcp))));
        let json = r#"n2 {"level":"INFO","message":"would be denied","verdict":"WouldDeny","direction":"Egress","tier":"Default","source":"shop/web","destination":"192.0.2.1","protocol":"UDP","port":53}"#;
        check(json, Ok(Some(("shop/web", "192.0.2.1", Traffic::Port(Protocol::Udp, 53)))));
        let icmp = r#"{"verdict":"Denied","tier":"Admin","source":"node/n1","destination":"shop/api","protocol":"ICMP"}"#;
        check(icmp, Ok(Some(("node/n1", "shop/api", Traffic::Other))));
    }

    #[test]
    fn other_lines_are_not_records() {
        check("INFO policies applied source=\"shop/web\"", Ok(None));
        check("{\"message\":\"policies applied\"}", Ok(None));
        check("", Ok(None));
    }

    #[test]
    fn what_no_policy_can_allow_is_left_out_with_a_reason() {
        let line =
            r#"INFO denied verdict="Denied" tier="Address" source="10.0.0.1" destination="x/a""#;
        check(line, Err(Unreadable::ByAddress));
        let line = line.replace("Address", "Connection");
        check(&line, Err(Unreadable::ByConnection));
        check(r#"INFO denied verdict="Denied" tier="Admin" count=3"#, Err(Unreadable::NotNamed));
        check(&TEXT.replace("port=5432", ""), Err(Unreadable::Malformed));
    }
}
