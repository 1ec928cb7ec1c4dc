//! Services as endpoints: the pods behind them, or the addresses of those that select no pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::labels::Str;
use policy_engine::model::Life;
use policy_engine::port::Protocol;
use portcullis_crds::convert::frontend;
use portcullis_crds::convert::service::{Service, ServicePort};

use super::resolve::{network, party};
use super::{EndpointError, NumberOrName, PortAsked, PortWord, Resolved};
use crate::model::Cluster;

/// The word for the API server of the cluster.
pub(super) const API_SERVER: &str = "apiserver";

/// The port of the Service `kubernetes`.
const SERVICE_PORT: u16 = 443;

/// Addresses of a Service that selects no pods, with the ports that are asked for.
type Asked = BTreeMap<IpAddr, BTreeSet<PortAsked>>;

/// The API server: the Service `kubernetes`, which need not be in the source.
pub(super) fn api_server(
    cluster: &Cluster,
    port: Option<&PortWord>,
) -> Result<Resolved, EndpointError> {
    let (namespace, service) = frontend::API_SERVER;
    let key = (namespace.into(), service.into());
    if let (Some(service), None) = (cluster.services.get(&key), port) {
        return behind(cluster, service, None);
    }
    let mut asked = Asked::new();
    for (address, protocol, number, _) in addresses(cluster, &key)? {
        let is_asked = port.is_none_or(|word| {
            let wanted = [*number, SERVICE_PORT].map(NumberOrName::Number);
            word.protocol == *protocol && wanted.contains(&word.port)
        });
        if is_asked {
            let port = PortAsked { protocol: *protocol, number: *number, service_port: None };
            asked.entry(*address).or_default().insert(port);
        }
    }
    at(cluster, &key, asked)
}

/// The addresses that EndpointSlices and Endpoints list for a Service that selects no pods.
fn addresses<'c>(
    cluster: &'c Cluster,
    key: &(Str, Str),
) -> Result<impl Iterator<Item = &'c (IpAddr, Protocol, u16, Str)>, EndpointError> {
    match cluster.endpoints.get(key).filter(|all| !all.is_empty()) {
        Some(all) => Ok(all.iter().flat_map(|one| &one.addresses)),
        None => Err(EndpointError::Unaddressed {
            service: format!("{}/service/{}", key.0, key.1),
            namespace: key.0.to_string(),
        }),
    }
}

/// The pods, nodes and external addresses that addresses mean.
fn at(cluster: &Cluster, key: &(Str, Str), asked: Asked) -> Result<Resolved, EndpointError> {
    let name = format!("{}/service/{}", key.0, key.1);
    let mut found = Resolved { name: name.clone(), parties: Vec::new(), notes: Vec::new() };
    for (address, ports) in asked {
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

/// The pods behind a Service, each with its ports for the ports of the Service.
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
        let mut asked = Asked::new();
        for (address, protocol, number, name) in addresses(cluster, &key)? {
            let is_it = |port: &&&ServicePort| {
                port.protocol == *protocol && port.name.as_deref().unwrap_or_default() == &**name
            };
            if let Some(port) = ports.iter().find(is_it) {
                let (protocol, service_port) = (*protocol, Some(port.number));
                let port = PortAsked { protocol, number: *number, service_port };
                asked.entry(*address).or_default().insert(port);
            }
        }
        return at(cluster, &key, asked);
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
