//! Services as endpoints: the pods behind them, or the addresses of those that select no pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::labels::Str;
use policy_engine::model::Life;
use policy_engine::port::Protocol;
use portcullis_crds::convert::service::{Service, ServicePort};

use super::resolve::{network, party};
use super::{EndpointError, NumberOrName, PortAsked, PortWord, Resolved};
use crate::model::Cluster;

/// The word for the API server of the cluster.
pub(super) const API_SERVER: &str = "apiserver";

/// The API server: the Service `kubernetes`, which need not be in the source.
pub(super) fn api_server(
    cluster: &Cluster,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let key = ("default".into(), "kubernetes".into());
    if let (Some(service), None) = (cluster.services.get(&key), port) {
        return behind(cluster, service, None);
    }
    at_addresses(cluster, &key, &|number, _, protocol| {
        port.is_none_or(|word| {
            let is = matches!(word.port, NumberOrName::Number(wanted) if wanted == number);
            // 443 is the port of the Service.
            let is = is || word.port == NumberOrName::Number(443);
            is && word.protocol == protocol
        })
        .then_some(None)
    })
}

/// The addresses of a Service that selects no pods, with the ports of which `asked` returns
/// something: the port of the Service, if it has one.
fn at_addresses(
    cluster: &Cluster,
    key: &(Str, Str),
    asked: &dyn Fn(u16, &Str, Protocol) -> Option<Option<u16>>,
) -> Result<Resolved, EndpointError> {
    let name = format!("{}/service/{}", key.0, key.1);
    let Some(all) = cluster.endpoints.get(key).filter(|all| !all.is_empty()) else {
        let namespace = key.0.to_string();
        return Err(EndpointError::Unaddressed { service: name, namespace });
    };
    let mut ports: BTreeMap<IpAddr, BTreeSet<PortAsked>> = BTreeMap::new();
    for (address, protocol, number, port_name) in all.iter().flat_map(|one| &one.addresses) {
        if let Some(service_port) = asked(*number, port_name, *protocol) {
            let port = PortAsked { protocol: *protocol, number: *number, service_port };
            ports.entry(*address).or_default().insert(port);
        }
    }
    let mut found = Resolved { name: name.clone(), parties: Vec::new(), notes: Vec::new() };
    for (address, ports) in ports {
        let mut one = network(cluster, address.into(), None)?;
        found.notes.append(&mut one.notes);
        for mut party in one.parties {
            party.ports = ports.iter().cloned().collect();
            found.parties.push(party);
        }
    }
    if found.parties.is_empty() {
        let what = format!("address with this port of {name}");
        return Err(EndpointError::Missing { what, candidates: Vec::new() });
    }
    Ok(found)
}

/// The pods behind a Service, each with the ports that answer for the Service's.
pub(super) fn behind(
    cluster: &Cluster,
    service: &Service,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let name = format!("{}/service/{}", service.namespace, service.name);
    let asked = |found: &&ServicePort| match port {
        None => true,
        Some(word) => {
            word.protocol == found.protocol
                && match &word.port {
                    NumberOrName::Number(number) => *number == found.number,
                    NumberOrName::Name(name) => found.name.as_deref() == Some(name),
                }
        }
    };
    let ports: Vec<&ServicePort> = service.ports.iter().filter(asked).collect();
    if let (Some(word), true) = (port, ports.is_empty()) {
        let shown = |port: &ServicePort| format!("{}/{}", port.number, port.protocol);
        let candidates = service.ports.iter().map(shown).collect();
        return Err(EndpointError::Missing { what: format!("port {word} of {name}"), candidates });
    }
    if service.selector.is_none() {
        let key = (service.namespace.clone(), service.name.clone());
        return at_addresses(cluster, &key, &|_, port_name, protocol| {
            let mut ports = ports.iter().filter(|port| port.protocol == protocol);
            let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == &**port_name);
            port.map(|port| Some(port.number))
        });
    }
    let mut parties = Vec::new();
    for pod in cluster.world.pods().values() {
        if !service.selects(pod) || pod.life == Life::Finished {
            continue;
        }
        let found = ports.iter().flat_map(|port| {
            let asked = |number| PortAsked {
                protocol: port.protocol,
                number,
                service_port: Some(port.number),
            };
            port.resolve(pod).into_iter().map(asked).collect::<Vec<_>>()
        });
        parties.push(party(cluster, pod.key.clone(), found.collect()));
    }
    parties.retain(|party| !party.ports.is_empty());
    if parties.is_empty() {
        let what = format!("pod that answers for {name}");
        return Err(EndpointError::Missing { what, candidates: Vec::new() });
    }
    Ok(Resolved { name, parties, notes: Vec::new() })
}
